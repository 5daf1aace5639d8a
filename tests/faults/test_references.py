"""Rows without a text to compare with: generated, left out of every measure, and counted."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands import PLUGIN, run
from vt_fairseq.data.manifest import ClipRow, Manifest, write_manifest


@pytest.fixture
def data(data_directory, tmp_path):
    """(test split's rows) -> the prepared data with these instead."""

    def write(rows: list[ClipRow]) -> Path:
        folder = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        shutil.copytree(data_directory, folder, ignore=shutil.ignore_patterns("world"))
        write_manifest(folder / "test.arrow", rows)
        return folder

    return write


@pytest.fixture
def rows(data_directory) -> list[ClipRow]:
    """Five, of which two have captions."""
    found = list(Manifest(data_directory / "test.arrow"))
    assert len(found) == 5
    return [row if n in (1, 3) else replace(row, captions=()) for n, row in enumerate(found)]


def validate(data: Path, trained: Path, code: int = 0) -> str:
    arguments = [*PLUGIN, "--path", trained, "--valid-subset", "test", "--batch-size", "2"]
    changed = f"{{'data': {str(data)!r}, 'actions': 'caption'}}"
    arguments += ["--model-overrides", changed]
    return run("fairseq-validate", data, *arguments, expected_code=code)


def measured(log: str) -> list[str]:
    return [re.search(rf"\| {key} ([\d.]+)", log)[1] for key in ("loss", "bleu", "exact_match")]


@pytest.mark.slow
def test_validation_leaves_them_out_of_loss_bleu_and_exact_match(data, rows, trained):
    found = [validate(data(split), trained) for split in (rows, [rows[1], rows[3]])]
    assert measured(found[0]) == measured(found[1])
    assert "3 of 5 rows of test have no references for caption: " in found[0]


def test_bleu_of_a_split_without_any_is_refused(data, rows, trained):
    log = validate(data([rows[0], rows[2]]), trained, code=2)
    assert log.splitlines()[-1] == (
        "error: --eval-bleu: expected references for caption, found none in the 2 rows of test: "
        "leave it out, or prepare annotations that have them"
    )
    assert "Traceback" not in log


def test_generation_has_a_hypothesis_for_each_and_the_measure_counts_them(
    data, rows, trained, tmp_path
):
    log = run(
        "fairseq-generate",
        *[data(rows), *PLUGIN, "--path", trained, "--gen-subset", "test", "--action", "caption"],
        *["--batch-size", "2", "--max-len-b", "5", "--results-path", tmp_path],
    )
    assert "3 of 5 rows of test have no references for caption: " in log
    printed = (tmp_path / "generate-test.txt").read_text()
    assert printed.count("\nD-") == 5
    lines = (tmp_path / "references.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["references"]) for line in lines] == [0, 3, 0, 3, 0]
    files = [tmp_path / f"{name}.jsonl" for name in ("predictions", "references")]
    log = run(
        "vt-evaluate",
        *["captions", "--predictions", files[0], "--references", files[1], "--coco", "off"],
        *["--out", tmp_path / "metrics.json"],
    )
    assert "3 of 5 rows have no references and are left out" in log
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["n"] == 2 and found["without_references"] == 3
