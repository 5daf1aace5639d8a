"""TVQA (Lei et al. 2018; github.com/jayleicn/TVQA) and the validation set of TVQA+ (2020).

Splits: train, valid, test (test-public: its answers are withheld), and plus_valid where
``tvqa_plus_val.json`` is there. A row's id is its ``qid``; ``start`` and ``end`` are the span
that the question is about.
"""

from collections.abc import Iterator
from pathlib import Path

from vt_fairseq.corpora.files import expect, get, integer, json_document, jsonl_records
from vt_fairseq.corpora.rows import Entry, Source
from vt_fairseq.corpora.tv import Release, ShowClips, open_shows
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.files.result_files import JsonRow

RELEASE = Release(
    files={
        "train": "tvqa_train.jsonl",
        "valid": "tvqa_val.jsonl",
        "test": "tvqa_test_public.jsonl",
        "plus_valid": "tvqa_plus_val.json",
    },
    published={"train": 122_039, "valid": 15_253, "test": 7_623},
    published_at="github.com/jayleicn/TVQA (data), TVQA+ at github.com/jayleicn/TVQAplus",
    optional={"plus_valid": 3_017},
)
ANSWERS = ("a0", "a1", "a2", "a3", "a4")


def open_corpus(
    annotations: Path, videos: Path, subtitles: str = "span", follow_links: bool = False
) -> Source:
    """The corpus in its official files; see ``open_shows``."""
    return open_shows(RELEASE, _read, annotations, videos, subtitles, follow_links)


def _read(split: str, path: Path, clips: ShowClips) -> Iterator[Entry]:
    for where, record in _records(path):
        # A number in TVQA, its digits as text in TVQA+; withheld in test.
        answer = record.get("answer_idx")
        row = ClipRow(
            id=str(integer(record.get("qid"), where, "qid")),
            question=get(record, "q", str, where).strip(),
            candidates=tuple(get(record, key, str, where).strip() for key in ANSWERS),
            answer=None if split == "test" else integer(answer, where, "answer_idx"),
            **clips.fields(split, record, where),
        )
        yield Entry(split, row, where)


def _records(path: Path) -> Iterator[tuple[str, JsonRow]]:
    if path.suffix == ".jsonl":
        yield from jsonl_records(path)
        return
    for index, record in enumerate(expect(json_document(path), list, path.name, "the file")):
        where = f"{path.name} item {index}"
        yield where, expect(record, dict, where, "the item")
