"""What the system refuses (a full disk, a read-only folder, a name that is too long) is one line.

Exit code 1 for a failure, 2 for what the user has to name otherwise, in every command.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import warm
from tests.commands import MODULES, PLUGIN, environment, run
from tests.corpora import write_jsonl
from vt_fairseq.files.atomic_files import write_file

TOO_LONG = "x" * 300


@pytest.fixture
def disk(tmp_path, request) -> Iterator[Path]:
    """A file system with these mount options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system may not be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


Lines = dict[str, Callable[[Path], list[str]]]


@pytest.fixture(scope="module")
def lines(data_directory, trained, tmp_path_factory) -> Lines:
    """The arguments of every command that writes, given where it shall write."""
    folder = tmp_path_factory.mktemp("inputs")
    world = data_directory / "world"
    video = str(sorted((world / "videos").glob("*.mp4"))[0])
    predictions = folder / "predictions.jsonl"
    references = folder / "references.jsonl"
    write_jsonl(predictions, *({"id": f"{k}", "prediction": "a" * 99} for k in range(3)))
    write_jsonl(references, *({"id": f"{k}", "label": f"{k}" * 99} for k in range(3)))
    classify = ["classify", "--predictions", str(predictions), "--references", str(references)]
    model = ["--path", str(trained)]
    return {
        "vt-evaluate": lambda out: [*classify, "--out", f"{out}.json"],
        "vt-report": lambda out: [str(folder), "--out", f"{out}.html"],
        "vt-prepare": lambda out: [
            *["jsonl", "--annotations", str(world / "annotations.jsonl"), "--skip-probe"],
            *["--videos", str(world / "videos"), "--out", str(out), "--train-vocabulary", "200"],
        ],
        "vt-caption": lambda out: [video, *model, "--device", "cpu", "--out", str(out)],
        "vt-index": lambda out: [f"{out}.vtlib", video, *model, "--device", "cpu"],
        "vt-score": lambda out: [
            *["vqa", str(data_directory), *model, "--device", "cpu", "--out", str(out)],
        ],
        "vt-init": lambda out: [
            *["--from-checkpoint", str(trained), "--trust-checkpoint", "--out", f"{out}.pt"],
        ],
        "fairseq-generate": lambda out: [
            *[str(data_directory), *PLUGIN, *model, "--gen-subset", "test"],
            *["--action", "caption", "--max-len-b", "3", "--results-path", str(out)],
        ],
    }


def ended(command: str, arguments: list[str], folder: Path, output: Path) -> tuple[int, str]:
    """Exit code and the last line on stderr, which must be the only one about an error."""
    errors = folder / "stderr"
    process = warm.start(["-m", MODULES[command], *arguments], output, environment(), errors=errors)
    process.join(200)
    text = errors.read_text()
    assert "Traceback" not in text and "Exception ignored" not in text, text
    assert text.count("error: ") == 1, text
    return process.exitcode, text.splitlines()[-1]


COMMANDS = (
    *("vt-evaluate", "vt-report", "vt-prepare"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("vt-caption", "vt-index", "vt-score", "vt-init", "fairseq-generate")
    ),
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("disk", ["nr_inodes=64,size=4k"], indirect=True)
def test_a_full_disk_is_a_failure_in_one_line(lines, tmp_path, disk, command):
    (disk / "full").write_bytes(b"0" * 4096)
    code, line = ended(command, lines[command](disk / "out"), tmp_path, tmp_path / "stdout")
    assert code == 1 and "the disk is full: make room" in line and str(disk) in line
    whole = [path for path in disk.rglob("[!.]*") if path.is_file() and ".part" not in path.name]
    assert whole == [disk / "full"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("disk", ["ro"], indirect=True)
def test_a_read_only_folder_is_a_mistake_in_one_line(lines, tmp_path, disk, command):
    code, line = ended(command, lines[command](disk / "out"), tmp_path, tmp_path / "stdout")
    assert code == 2 and "read-only file system: choose another" in line and str(disk) in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_too_long_is_a_mistake_in_one_line(lines, tmp_path, command):
    code, line = ended(command, lines[command](tmp_path / TOO_LONG), tmp_path, tmp_path / "stdout")
    assert code == 2 and "the name is too long" in line


@pytest.mark.parametrize("command", [name for name in MODULES if name.startswith("vt-")])
def test_output_that_goes_to_a_full_disk_is_a_failure(tmp_path, command):
    code, line = ended(command, ["--help"], tmp_path, Path("/dev/full"))
    assert (code, line) == (1, f"{command}: error: the output: the disk is full: make room and "
                            "run the same command again")  # fmt: skip


@pytest.mark.slow
def test_generation_that_prints_to_a_full_disk_is_a_failure(lines, tmp_path):
    """DeepSpeed's own log goes to stdout, too, and complains with a traceback before."""
    arguments = lines["fairseq-generate"](tmp_path / "out")[:-2]
    errors = tmp_path / "stderr"
    command = ["-m", MODULES["fairseq-generate"], *arguments]
    process = warm.start(command, Path("/dev/full"), environment(), errors=errors)
    process.join(200)
    assert process.exitcode == 1
    assert "error: the output: the disk is full" in errors.read_text().splitlines()[-1]


def test_a_mistyped_user_dir_of_fairseqs_commands_is_named_by_fairseqs_own_last_line(tmp_path):
    """Nothing of ours is loaded by then: the line is fairseq's, and so is the traceback."""
    gone = tmp_path / "user_dri"
    log = run("fairseq-train", tmp_path, "--user-dir", gone, expected_code=1)
    assert log.splitlines()[-1] == f"FileNotFoundError: {gone}"


def test_too_many_open_files_are_a_failure_that_names_the_limit(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", {"id": "0", "prediction": "b", "label": "b"})
    script = (
        "import os, resource, sys\n"
        "from vt_fairseq.cli import evaluate\n"
        "from vt_fairseq.evaluation import tasks, caption_files\n"
        "from vt_fairseq.files import result_files\n"
        "held = [os.dup(0) for _ in range(2)]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1,) * 2)\n"
        "evaluate.main()\n"
    )
    files = ["--predictions", tmp_path / "a.jsonl", "--references", tmp_path / "a.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", script, "classify", *map(str, files)],
        env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1 and "ulimit -n" in done.stderr


def test_a_file_that_cannot_be_written_whole_keeps_its_old_content_and_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    write_file(path, b"old")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_file(path, b"0" * 2000)
        except OSError as error:
            os._exit(27 if error.errno == 27 else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 27  # EFBIG
    assert path.read_bytes() == b"old" and json.dumps(os.listdir(tmp_path)) == '["metrics.json"]'
