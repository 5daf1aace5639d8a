"""What the tests of the corpus readers share."""

import json
from pathlib import Path

import pytest

from tests.conftest import run_main
from vt_fairseq.corpora.rows import Entry, Rejected, Source
from vt_fairseq.data.manifest import ClipRow, DataDirectory


def vt_prepare(corpus: str, annotations: Path, out: Path, vocabulary: Path, *options: str):
    """Run ``vt-prepare CORPUS --skip-probe``; the data directory and its data.json."""
    videos = out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    run_main(
        "vt_fairseq.cli.prepare",
        *[corpus, "--annotations", str(annotations), "--videos", str(videos), "--out", str(out)],
        *["--skip-probe", "--vocabulary", str(vocabulary), *options],
    )
    return DataDirectory.open(out), json.loads((out / "data.json").read_text())


def real_corpus(corpus: str, folder: str, *options: str):
    """A fixture: what ``vt_prepare`` makes of the real annotation files in ``folder``."""

    @pytest.fixture(scope="module")
    def real(test_data, tmp_path_factory):
        annotations, vocabulary = test_data / "annotations", test_data / "t5" / "spiece.model"
        out = tmp_path_factory.mktemp(folder)
        return vt_prepare(corpus, annotations / folder, out, vocabulary, *options)

    return real


def rows(source: Source) -> dict[str, list[ClipRow]]:
    """The rows of a source by split, none of which may be rejected."""
    found: dict[str, list[ClipRow]] = {}
    for entry in source.rows:
        assert isinstance(entry, Entry), entry
        found.setdefault(entry.split, []).append(entry.row)
    return found


def rejected(source: Source) -> list[Rejected]:
    """The rejected rows of a source."""
    return [entry for entry in source.rows if isinstance(entry, Rejected)]


def by_id(data: DataDirectory, split: str) -> dict[str, ClipRow]:
    """The rows of a split by their ids."""
    return {row.id: row for row in data.manifest(split)}


def outline(text: str) -> tuple[str, str, int]:
    """First word, last word and number of words: enough to know a sentence by."""
    words = text.split()
    return words[0], words[-1], len(words)


def write_jsonl(path: Path, *records: dict | str | bytes) -> Path:
    """One object per line; a text or bytes stand as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps(record, ensure_ascii=False) if isinstance(record, dict) else record
        for record in records
    )
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
    )
    return path


def clip(**more) -> dict:
    """A row of a jsonl manifest."""
    return {"id": "x", "video": "a.mp4", "caption": "a red circle"} | more


def warnings_of_rows(content: dict) -> list[str]:
    """A data directory's warnings without those of letters that its vocabulary lacks.

    T5's has no backtick, for instance.
    """
    return [text for text in content["warnings"] if "the vocabulary lacks" not in text]
