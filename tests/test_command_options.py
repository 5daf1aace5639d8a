"""Options that several commands share: one spelling, one reader, one meaning."""

import importlib
import json
import re
import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.conftest import run_main
from vt_fairseq.cli import memory
from vt_fairseq.data.manifest import DataDirectory

SCORE = ["score", "vqa", "DATA", "--path", "P", "--out", "O"]
CAPTION = ["caption", "a.mp4", "--path", "P"]
PREPARE = ["prepare", "miniworld", "--out", "O"]


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        (SCORE, ["--windows", "3"], ["--clips", "3"]),
        (SCORE, ["--device", "cpu"], ["--cpu"]),
        (SCORE, ["--videos", "DIR"], ["--video-root", "DIR"]),
        (SCORE, ["--length-normalize"], ["--length-normalise"]),
        (CAPTION, ["--top-k", "3"], ["--top", "3"]),
        (CAPTION, ["--sampling-topk", "3"], ["--topk", "3"]),
        (CAPTION, ["--max-target-tokens", "3"], ["--max-tokens", "3"]),
        (CAPTION, ["--device", "cpu"], ["--cpu"]),
        (CAPTION, ["--length-normalize"], ["--length-normalise"]),
        (["search", "L", "q"], ["--top-k", "3"], ["--top", "3"]),
        (["index", "L", "v"], ["--device", "cpu"], ["--cpu"]),
        (PREPARE, ["--num-workers", "3"], ["--workers", "3"]),
        (["memory"], ["--dtype", "bf16"], ["--precision", "bf16"]),
    ],
)
def test_the_spellings_of_earlier_versions_work_and_are_not_shown(command, shown, hidden):
    parser = importlib.import_module(f"vt_fairseq.cli.{command[0]}").build_parser()
    given = parser.parse_args([*command[1:], *shown])
    assert given == parser.parse_args([*command[1:], *hidden])
    assert given != parser.parse_args(command[1:])
    help_words = parser.format_help().replace(",", " ").split()
    assert shown[0] in help_words and hidden[0] not in help_words


COMMANDS = re.findall(r"= vt_fairseq\.cli\.(\w+):main", (ROOT / "setup.py").read_text())
HEAVY = {"av", "deepspeed", "fairseq", "numpy", "pyarrow", "sacrebleu", "sentencepiece", "torch"}
MOST_IMPORTS = 250  # modules; torch alone has more than a thousand


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_loads_nothing_heavy(command):
    """Half a second is what 250 small modules take on a slow machine."""
    code = (
        "import sys\n"
        f"from vt_fairseq.cli.{command} import main\n"
        "sys.argv[1:] = ['--help']\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True
    )
    assert f"example:\n  vt-{command} " in done.stdout
    imported = done.stderr.split()
    assert not HEAVY & set(imported) and len(imported) < MOST_IMPORTS, len(imported)


def test_the_help_of_vt_memory_names_where_the_models_options_are_listed():
    short, whole = (memory.build_parser(with_model=m).format_help() for m in (False, True))
    assert "--help-model" in short and "--freeze-video" not in short
    assert "--freeze-video" in whole


def test_a_file_of_labels_is_read_alike_by_both_commands(data_directory, trained, tmp_path, capsys):
    data = DataDirectory.open(data_directory)
    names = data.classes("label")
    path = tmp_path / "labels.txt"
    # A byte order mark, other line ends, blank lines, white space, a name twice.
    lines = ["", *names[:2], "  ", f" {names[0]} ", *names[2:], "two\u2028lines", ""]
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    expected = [*names, "two\u2028lines"]
    model = ["--path", str(trained), "--device", "cpu", "--num-workers", "0"]
    score = ["classify", str(data_directory), "--labels", str(path), "--out", str(tmp_path / "out")]
    run_main("vt_fairseq.cli.score", *score, *model)
    record = json.loads((tmp_path / "out" / "scores.jsonl").read_text().splitlines()[0])
    row = data.manifest("test")[0]
    video = data.video_root / row.video
    capsys.readouterr()
    shown = ["--classify", str(path), "--top-k", "1000", "--format", "jsonl"]
    run_main("vt_fairseq.cli.caption", str(video), *shown, *model)
    printed = json.loads(capsys.readouterr().out)
    assert sorted(c["text"] for c in printed["candidates"]) == sorted(expected)
    assert len(record["scores"]) == len(expected)
    for command in ("score", "caption"):
        (tmp_path / "empty.txt").write_bytes(b"\xef\xbb\xbf \n\n")
        for name, message in (("empty.txt", "is empty"), ("none.txt", "no file")):
            option = "--labels" if command == "score" else "--classify"
            arguments = score[:2] if command == "score" else [str(video)]
            out = ["--out", str(tmp_path / "x")] if command == "score" else []
            with pytest.raises(SystemExit) as ended:
                run_main(
                    f"vt_fairseq.cli.{command}",
                    *[*arguments, option, str(tmp_path / name), *out, *model],
                )
            assert ended.value.code == 2 and message in capsys.readouterr().err
