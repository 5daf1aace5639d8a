"""README and docs: links, files, options and commands that they name are there; commands run.

A command of a document is run here (``RUN``), or ``ELSEWHERE`` says why not and what runs it. All
of them are parsed by the real command's parser. docs/extending.md has a test file of its own.
"""

import argparse
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.checkpoints import with_heads
from tests.commands import MODULES, ROOT, environment, parsed, parser_of
from tests.markdown import (
    anchors,
    blocks,
    command_lines,
    documents,
    inline_code,
    links,
    prose,
    split_commands,
)
from vt_fairseq.data.manifest import DataDirectory

PAGES = documents()
# Files of other projects that the documents speak of.
FOREIGN_FILES = {"c2/tutorials/model_zoo.md"}
LAUNCHERS = ("torchrun", "srun", "deepspeed")
# Options of torchrun, srun, deepspeed, tests/run.sh, pytest, pip, docker, mkdocs, and FFmpeg's
# configuration.
FOREIGN_OPTIONS = {
    *("--nproc-per-node", "--nnodes", "--node-rank", "--master-addr", "--master-port"),
    *("--no-python", "--hostfile", "--nodes", "--ntasks-per-node", "--gpus-per-node"),
    *("--slow", "--campaign", "--no-binary", "--ipc", "--shm-size", "--strict"),
    *("--enable-version3", "--enable-gpl", "--enable-libx264", "--enable-libx265"),
}
PLACEHOLDER = re.compile(r"…|\.\.\.|\bCOMMON\b")
# What stands after a command so that it takes no time; the last of two equal options counts.
SMALL = {
    "fairseq-train": "--arch video_translate_tiny --num-frames 8 --frame-size 32 --batch-size 8 "
    "--max-update 2 --warmup-updates 1 --num-workers 0 --cpu",
    "vt-evaluate": "--coco off",
}


# Names


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_page_and_a_heading(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        found = (ROOT / page.parent / name).resolve() if name else ROOT / page
        relative = found.relative_to(ROOT)
        assert found.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(relative), f"{page}: {target}"


@cache
def files() -> list[str]:
    """Every file of the project, as a path that begins with a slash."""
    hidden = re.compile(r"/(\.|runs|quickstart/|build|__pycache__)")
    found = (f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*") if path.is_file())
    return [name for name in found if not hidden.search(name)]


def named_files(page: Path) -> set[str]:
    """Names of source files, scripts and pages in a page's code, inline and in blocks."""
    code = " ".join([*inline_code(page), *(block.text for block in blocks(page))])
    own = {block.file for block in blocks(page)}
    found = re.findall(r"(?<![\w/.<*{}-])[\w/.-]+\.(?:py|sh|sbatch|md|cff)\b", code)
    return set(found) - own - FOREIGN_FILES


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_source_file_that_is_named_is_there(page):
    for name in named_files(page):
        assert any(file.endswith(f"/{name}") for file in files()), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_folder_and_test_that_is_named_is_there(page):
    for code in inline_code(page):
        if re.fullmatch(r"(vt_fairseq|tests|docs|examples|benchmarks|user_dir)/[\w/.-]*", code):
            assert (ROOT / code).exists(), f"{page}: {code}"
        if match := re.fullmatch(r"([\w/]+\.py)::(\w+)", code):
            (file,) = [f for f in files() if f.endswith(f"/{match[1]}")]
            assert f"def {match[2]}(" in (ROOT / file[1:]).read_text(), f"{page}: {code}"


def test_every_test_that_the_reliability_page_names_is_there():
    """Each by its whole name, or by a beginning with three dots."""
    rows = (ROOT / "docs" / "reliability.md").read_text().splitlines()
    for row in (row for row in rows if row.startswith("|")):
        file = None
        for named, test, dots in re.findall(
            r"(?:tests/)?([\w/]*test_\w+\.py)?(?:::(\w+)(\.{3})?)?", row
        ):
            file = named or file
            assert not named or (ROOT / "tests" / named).exists(), row
            definition = f"def test_{test}" + ("" if dots else "(")
            assert not test or definition in (ROOT / "tests" / file).read_text(), row


def test_every_command_that_is_named_is_one():
    for page in PAGES:
        text = (ROOT / page).read_text()
        for name in re.findall(r"(?<![\w/-])(?:vt|fairseq)-[a-z]+\b(?![-/.])", text):
            # "fairseq-*" and "vt-*" are families, not commands.
            assert name in MODULES, f"{page}: {name}"


def test_all_commands_stand_in_the_readme():
    for name in MODULES:
        other = name in ("fairseq-validate", "fairseq-interactive")
        assert other or name in (ROOT / "README.md").read_text()


def test_the_method_page_names_every_recipe():
    recipes = {path.parent.name for path in (ROOT / "examples").glob("*/run.sh")}
    assert recipes and recipes <= set(inline_code(Path("docs/method.md")))


def test_every_claim_of_the_method_page_names_a_test():
    rows = [
        line
        for line in (ROOT / "docs" / "method.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith(("| paper |", "| table |"))
    ]
    assert len(rows) > 30
    for row in rows:
        assert re.search(r"`test_\w+\.py::test_\w+`", row.split(" | ")[-1]), row


# Options


@cache
def options_of(command: str) -> frozenset[str]:
    """Every option that a command may take, whatever --task, --arch or --optimizer."""
    known = set(parser_of(command)._option_string_actions)
    if command.startswith("fairseq-"):
        known |= registered_options()
    return frozenset(known)


@cache
def registered_options() -> frozenset[str]:
    """Options of our task and model, and of everything that fairseq lets one choose."""
    from fairseq.dataclass.utils import gen_parser_from_dataclass
    from fairseq.registry import REGISTRIES

    from vt_fairseq.models.architectures import VideoTranslateConfig
    from vt_fairseq.task_config import VideoTranslateTaskConfig

    chosen = [c for r in REGISTRIES.values() for c in r["dataclass_registry"].values() if c]
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    for config in (*chosen, VideoTranslateTaskConfig, VideoTranslateConfig):
        gen_parser_from_dataclass(parser, config())
    return frozenset(parser._option_string_actions)


def options_in(words: list[str] | str) -> list[str]:
    words = words if isinstance(words, str) else " ".join(words)
    return re.findall(r"(?<![\w-])--[a-z][\w-]*", words)


def options_of_script(name: str) -> set[str]:
    """What a benchmark or example adds to its parser, by its text."""
    scripts = [ROOT / file[1:] for file in files() if file.endswith(f"/{name}")]
    text = " ".join(s.read_text() for s in scripts if s.suffix == ".py" and "tests" not in s.parts)
    return set(re.findall(r'add(?:_argument)?\(\s*"(--[\w-]+)"', text))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_option_that_is_named_is_one_of_some_command(page):
    known = FOREIGN_OPTIONS.union(*(options_of(command) for command in MODULES))
    known |= {option for name in named_files(page) for option in options_of_script(name)}
    text = " ".join([*inline_code(page), *(block.text for block in blocks(page))])
    for option in options_in(text):
        assert option in known, f"{page}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_option_beside_a_command_is_an_option_of_that_command(page):
    for code in inline_code(page):
        command = code.split()[0] if code.split() else ""
        for option in options_in(code) if command in MODULES else []:
            assert option in options_of(command), f"{page}: {code}"


def without_launcher(words: list[str]) -> list[str]:
    """What a launcher starts."""
    if words[0] not in LAUNCHERS:
        return words
    text = " ".join(words).replace("$(which fairseq-train)", "fairseq-train")
    return text[re.search(r"\b(vt|fairseq)-[a-z]+", text).start() :].split()


def parse(words: list[str]) -> None:
    """Give a whole command to its parser, a shortened one's options to what it may take."""
    command, *arguments = words
    shortened = PLACEHOLDER.search(" ".join(words)) or arguments == ["DATA"]
    if shortened:
        unknown = set(options_in(arguments)) - options_of(command)
        assert not unknown, f"{command} has no {unknown}"
    else:
        parsed(words)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if [*command_lines(p)] and p.name != "extending.md"], ids=str
)
def test_every_command_line_is_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in command_lines(page):
        if is_run(page, " ".join(words)) and str(page) not in SLOW:
            continue  # which shows more
        try:
            parse(without_launcher(words))
        except SystemExit:
            pytest.fail(f"{page}: not a command line that is understood: {words}")


# Commands that run

RUN = {
    "README.md": ["vt-prepare jsonl", "fairseq-train DATA", "fairseq-generate", "vt-evaluate",
                  "vt-score vqa", "vt-report", "vt-caption", "vt-index", "vt-search", "vt-ask"],
    "docs/library.md": ["vt-index", "vt-search", "vt-ask"],
    "docs/inference.md": ["vt-caption"],
    "docs/scoring.md": ["vt-score"],
    "docs/report.md": ["vt-report"],
    "docs/corpora.md": ["vt-prepare miniworld", "vt-prepare tvqa"],
    "docs/finetuning.md": ["fairseq-train DATA"],
    "docs/memory.md": ["vt-memory"],
    "docs/pretrained.md": ["vt-init --from-checkpoint"],
}  # fmt: skip
SLOW = {"docs/finetuning.md", "docs/memory.md", "docs/pretrained.md", "docs/scoring.md"}
ELSEWHERE = {
    "--fp16": "needs GPUs; in small by test_zero.py and the recipes' smoke mode",
    "torchrun": "test_score_command.py, test_zero_launch.py",
    "srun": "needs Slurm; its environment is tried by test_zero_launch.py",
    "deepspeed ": "needs several machines",
    "fairseq-train DATA …": "a line to be filled in",
    "COMMON": "needs a GPU; its memory is predicted by vt-memory",
    "--distributed-world-size 2": "test_zero_launch.py",
    "vt-prepare CORPUS": "a line to be filled in",
    "--shard": "test_shards.py, test_library.py",
    "vt-index merge": "test_library.py",
    "vt-serve": "serves until it is interrupted; test_serve.py",
    "vt-prepare join": "test_shards.py",
    "vt-prepare video2dataset": "needs a collection; test_tar.py",
    "--transcode --tar": "test_tar.py",
    "--vocabulary t5-small/spiece.model --transcode": "of one GPU; test_own_videos.py",
    "vt-init --t5 t5-small": "needs files of 0.5 GB; test_own_videos.py",
    "vt-init --t5 t5-large": "needs files of 3 GB; test_init_command.py with small ones",
    "--finetune-from-model init.pt": "test_init_command.py",
    "vt-init --t5 T5": "needs a trained T5; test_trained_t5.py",
    "--vocabulary T5/spiece.model": "needs a trained T5's; test_own_videos.py",
    "--heads label --heads-on video --head-lr-scale 1": "needs labels; test_gestures.py",
    "vt-submit": "needs the corpora's files; test_submit_command.py",
}


def is_run(page: Path, line: str) -> bool:
    started = RUN.get(str(page), [])
    return any(line.startswith(beginning) for beginning in started) and not is_elsewhere(line)


def is_elsewhere(line: str) -> list[str]:
    return [pattern for pattern in ELSEWHERE if re.search(pattern, line)]


def test_every_command_is_run_or_it_is_said_why_not():
    used = set()
    for page in PAGES:
        for words in command_lines(page) if page.name != "extending.md" else []:
            line = " ".join(words)
            assert is_run(page, line) or is_elsewhere(line), f"{page}: {line}"
            used |= set(is_elsewhere(line))
    assert used == set(ELSEWHERE)


@pytest.fixture
def workplace(data_directory, trained, tmp_path) -> Path:
    """A folder with the files that the documents' commands name."""
    data = DataDirectory.open(data_directory)
    clips = sorted(Path(data.video_root).glob("t*.mp4"))
    names = ["videos/a.mp4", "videos/b.mp4", "videos/c.mp4", "holiday/one.mp4", "holiday/two.mp4"]
    names += ["talks/2026/first.mkv", "clip.mp4", "film.mp4", "films/one.mp4"]
    for name, clip in zip(names, [*clips, *clips], strict=False):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, tmp_path / name)  # a link that leads out of its folder is refused
    checkpoints = ["CKPT", "checkpoint_best.pt", "checkpoints/checkpoint_best.pt"]
    checkpoints += ["pretrained.pt", "generative.pt"]
    for name in checkpoints:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(trained)
    (tmp_path / "user_dir").symlink_to(ROOT / "user_dir")
    (tmp_path / "spiece.model").symlink_to(data.tokenizer_path)
    captions = tmp_path / "runs" / "youcook2" / "captions"
    captions.mkdir(parents=True)
    (captions / "predictions.jsonl").write_text('{"id": "a", "prediction": "a dog"}\n')
    (captions / "references.jsonl").write_text('{"id": "a", "references": ["a cat"]}\n')
    (tmp_path / "labels.txt").write_text("a cat\na dog\na cup\na pen\na phone\n")
    return tmp_path


def script(page: Path) -> str:
    """The commands of a page that are run, in a shell's words, made small."""
    lines = []
    for block in blocks(page):
        for line in block.text.replace("\\\n", " ").splitlines():
            found = [" ".join(words) for words in split_commands(line)]
            if found and all(is_run(page, command) for command in found):
                command, pipe, rest = line.partition(" 2>&1 |")
                lines.append(f"{command} {SMALL.get(found[0].split()[0], '')}{pipe}{rest}")
    return "\n".join(["set -euo pipefail", "shopt -s globstar", *lines])


@pytest.mark.parametrize(
    "page",
    [pytest.param(Path(p), marks=[pytest.mark.slow] if p in SLOW else [], id=p) for p in RUN],
)
def test_the_commands_run(page, workplace, real_commands, data_directory):
    manifests = [b.text for b in blocks(page) if b.text.startswith("{")]
    if manifests:
        (workplace / "clips.jsonl").write_text(manifests[0])
        (workplace / "checkpoints" / "checkpoint_best.pt").unlink()  # made by the page itself
    elif page.name != "corpora.md":
        (workplace / "DATA").symlink_to(data_directory)
    if page.name == "scoring.md":
        with_heads(workplace / "CKPT", workplace / "discriminative.pt", data_directory, "answer")
    done = subprocess.run(
        ["bash", "-c", script(page)],
        cwd=workplace,
        env={**environment(), "PATH": f"{real_commands}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for made in MADE.get(str(page), []):
        assert (workplace / made).exists(), made


MADE = {
    "README.md": [
        *("results/captions/metrics.json", "results/vqa/metrics.json", "report.html"),
        "subtitles/one.srt",
    ],
    "docs/library.md": ["holiday.vtlib"],
    "docs/inference.md": ["film.srt", "subtitles/one.vtt"],
    "docs/corpora.md": ["DATA/data.json"],
    "docs/report.md": ["report.html"],
    "docs/scoring.md": [f"scores/{name}/metrics.json" for name in ("vqa", "fused", "windows")],
    "docs/finetuning.md": ["generative/checkpoint_last.pt", "discriminative/checkpoint_best.pt"],
    "docs/pretrained.md": ["model/t5/config.json"],
}


def test_the_python_of_the_library_page_runs(workplace, monkeypatch):
    (example,) = [b.text for b in blocks(Path("docs/library.md")) if b.language == "python"]
    monkeypatch.chdir(workplace)
    exec(compile(example, "docs/library.md", "exec"), {})


def test_the_python_of_the_inference_page_runs(workplace, monkeypatch):
    (example,) = [b.text for b in blocks(Path("docs/inference.md")) if b.language == "python"]
    for name in ("a.mp4", "b.mp4"):
        (workplace / name).symlink_to(workplace / "clip.mp4")
    monkeypatch.chdir(workplace)
    assert '"cuda"' in example and "torch.bfloat16" in example
    on_a_cpu = example.replace('"cuda"', '"cpu"').replace("torch.bfloat16", "torch.float32")
    exec(compile(on_a_cpu, "docs/inference.md", "exec"), {})


# Facts


def test_what_the_wheel_of_pyav_says_of_its_licenses_is_what_the_page_says():
    from av._core import library_meta

    codec = library_meta["libavcodec"]
    text = " ".join(prose(Path("docs/licenses.md")).split())
    assert f"“{codec['license']}”" in text
    for library in ("libx264", "libx265"):
        assert f"--enable-{library}" in codec["configuration"] and library in text


def test_the_citation_names_this_version_and_the_paper():
    import yaml

    import vt_fairseq

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == vt_fairseq.__version__
    assert f"## {vt_fairseq.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    paper = citation["preferred-citation"]
    assert "2006.07203" in paper["journal"] and len(paper["authors"]) == 4


def test_the_packages_types_are_installed_with_it():
    assert (ROOT / "vt_fairseq" / "py.typed").is_file()
    assert '"vt_fairseq": ["py.typed"]' in (ROOT / "setup.py").read_text()


def test_the_index_leads_to_every_page_of_docs():
    linked = {(ROOT / "docs" / target).resolve() for target in links(Path("docs/README.md"))}
    missing = {p.name for p in (ROOT / "docs").glob("*.md") if p not in linked} - {"README.md"}
    assert not missing
