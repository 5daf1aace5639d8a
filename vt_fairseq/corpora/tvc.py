"""TVC, captions of moments of the TVQA clips (Lei et al. 2020; github.com/jayleicn/TVCaption).

Splits: train, valid, test (test-public: its captions are withheld). A row's id is its ``clip_id``,
its captions are all descriptions of the moment (two in train, four in valid).
"""

from collections.abc import Iterator
from pathlib import Path

from vt_fairseq.corpora.files import expect, get, integer, jsonl_records
from vt_fairseq.corpora.rows import Entry, Rejected, Source, reject
from vt_fairseq.corpora.tv import Release, ShowClips, open_shows
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.files.result_files import JsonRow

RELEASE = Release(
    files={
        "train": "tvc_train_release.jsonl",
        "valid": "tvc_val_release.jsonl",
        "test": "tvc_test_public_release.jsonl",
    },
    # The ids of valid begin at 86,603; those of train are taken to be all below.
    published={"train": 86_603, "valid": 10_841, "test": 5_420},
    published_at="github.com/jayleicn/TVCaption (data)",
)


def open_corpus(
    annotations: Path, videos: Path, subtitles: str = "span", follow_links: bool = False
) -> Source:
    """The corpus in its official files; see ``open_shows``."""
    return open_shows(RELEASE, _read, annotations, videos, subtitles, follow_links)


def _read(split: str, path: Path, clips: ShowClips) -> Iterator[Entry | Rejected]:
    withheld = split == "test"
    for where, record in jsonl_records(path):
        row = ClipRow(
            id=str(integer(record.get("clip_id"), where, "clip_id")),
            captions=() if withheld else _captions(record, where),
            **clips.fields(split, record, where),
        )
        entry = Entry(split, row, where)
        empty = not withheld and not row.captions
        yield reject(entry, "empty text: no description has any") if empty else entry


def _captions(record: JsonRow, where: str) -> tuple[str, ...]:
    described = get(record, "descs", list, where)
    texts = (get(expect(d, dict, where, "a desc"), "desc", str, where) for d in described)
    return tuple(filter(None, (" ".join(text.split()) for text in texts)))
