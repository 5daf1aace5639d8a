"""Every command in a process that has imported nothing, as a shell starts it.

The other tests run commands as forks of a process that has imported everything (``tests.warm``), in
which a command that forgets an import works.
"""

import json
import subprocess
from pathlib import Path

import pytest

from tests.commands import MODULES, PLUGIN, TINY, command_line, environment
from tests.corpora import write_jsonl

# Tested in a process of its own elsewhere (test_serve.py), or refused whatever it is given.
ELSEWHERE = {"vt-serve", "fairseq-interactive"}
# Needs a corpus's official files.
LEFT_OUT = {"vt-submit"}


def lines(data: Path, trained: Path, folder: Path) -> list[list[str | Path]]:
    """A command line of each, in an order in which each finds what it needs."""
    video = sorted((data / "world" / "videos").glob("*.mp4"))[0]
    path, library = ["--path", trained], folder / "a.vtlib"
    own = [*path, "--device", "cpu"]
    exported, scores = folder / "exported", folder / "scores"
    predictions = write_jsonl(folder / "p.jsonl", {"id": "a", "prediction": "red"})
    references = write_jsonl(folder / "r.jsonl", {"id": "a", "label": "red"})
    rows = data / "world" / "annotations.jsonl"
    prepare = ["vt-prepare", "jsonl", "--annotations", rows, "--videos", video.parent]
    evaluate = ["vt-evaluate", "classify", "--predictions", predictions, "--references", references]
    test = ["--gen-subset", "test", "--max-len-b", "3"]
    valid = ["--valid-subset", "valid", "--batch-size", "8"]
    return [
        [*prepare, "--out", folder / "data", "--train-vocabulary", "120"],
        ["vt-memory", "--arch", "video_translate_tiny"],
        ["fairseq-train", data, *PLUGIN, *TINY, "--max-update", "1", "--save-dir", folder / "save"],
        ["fairseq-validate", data, *PLUGIN, *path, *valid],
        ["fairseq-generate", data, *PLUGIN, *path, *test, "--results-path", folder / "captions"],
        ["vt-init", "--from-checkpoint", trained, "--export", exported],
        ["vt-caption", video, "--path", exported, "--device", "cpu"],
        ["vt-index", library, video, *own],
        ["vt-search", library, "a red circle", *own],
        ["vt-ask", library, "what is it ?", "--candidates", "red", "blue", *own],
        ["vt-score", "vqa", data, "--split", "test", *own, "--out", scores],
        [*evaluate, "--out", folder / "metrics.json"],
        ["vt-report", scores, "--out", folder / "report.html"],
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_works_in_a_process_that_has_imported_nothing(
    data_directory, trained, tmp_path
):
    run = lines(data_directory, trained, tmp_path)
    assert {command for command, *_ in run} == set(MODULES) - ELSEWHERE - LEFT_OUT
    for command, *arguments in run:
        done = subprocess.run(
            command_line(command, *arguments),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, (command, done.stderr[-3000:])
        assert "Traceback" not in done.stderr, (command, done.stderr[-3000:])
    assert json.loads((tmp_path / "metrics.json").read_text())["accuracy"] == 100
