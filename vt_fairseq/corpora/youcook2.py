"""YouCook2 (Zhou et al. 2018) and the retrieval protocol of HowTo100M on it (Miech et al. 2019).

========= =====================================================================================
train     training segments of ``youcookii_annotations_trainval.json``
valid     validation segments, on which captioning is reported
retrieval ``validation_youcook.csv`` of MIL-NCE_HowTo100M: 3,350 validation clips, in its order
========= =====================================================================================
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vt_fairseq.corpora.files import (
    VideoFinder,
    csv_records,
    expect,
    find_file,
    get,
    integer,
    json_document,
    number,
    require_file,
    text,
)
from vt_fairseq.corpora.rows import Entry, Source, unique
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import JsonRow

PUBLISHED = {"train": 10_337, "valid": 3_492, "retrieval": 3_350}
CAPTIONS_AT = "youcook2.eecs.umich.edu"
RETRIEVAL_AT = "github.com/antoine77340/MIL-NCE_HowTo100M (csv)"
CAPTIONS_FILE = "youcookii_annotations_trainval.json"
RETRIEVAL_FILE = "validation_youcook.csv"
SUBSETS = {"training": "train", "validation": "valid"}


def open_corpus(annotations: Path, videos: Path) -> Source:
    """The corpus in its official files; raise UserError for a missing or wrong one."""
    captions = require_file(annotations, CAPTIONS_FILE, source=CAPTIONS_AT)
    retrieval = find_file(annotations, RETRIEVAL_FILE)
    finder = VideoFinder(videos)
    notes: list[str] = []
    retrieved = _retrieval_rows(retrieval, finder, notes) if retrieval else ()
    return Source(
        rows=unique(itertools.chain(_caption_rows(captions, finder), retrieved)),
        videos=videos,
        published=PUBLISHED,
        published_at=f"{CAPTIONS_AT}, {RETRIEVAL_FILE} at {RETRIEVAL_AT}",
        notes=notes,
    )


def _caption_rows(path: Path, videos: VideoFinder) -> Iterator[Entry]:
    document = expect(json_document(path), dict, path.name, "the file")
    for name, video in get(document, "database", dict, path.name).items():
        where = f"{path.name} video {name}"
        subset = get(expect(video, dict, where, "the video"), "subset", str, where)
        if subset not in SUBSETS:
            raise UserError(f"{where}: expected subset training or validation, found {subset!r}")
        file = _video(videos, name, text(video, "recipe_type", where))
        for annotation in get(video, "annotations", list, where):
            yield Entry(SUBSETS[subset], _caption_row(name, file, annotation, where), where)


def _caption_row(name: str, file: str, annotation: JsonRow, where: str) -> ClipRow:
    index = integer(expect(annotation, dict, where, "an annotation").get("id"), where, "id")
    where = f"{where} annotation {index}"
    segment = get(annotation, "segment", list, where)
    if len(segment) != 2:
        raise UserError(f"{where}: expected segment to be [start, end], found {segment!r:.60}")
    start, end = (number(time, where, "segment") for time in segment)
    sentence = text(annotation, "sentence", where)
    return ClipRow(f"{name}_{index}", file, start, end, captions=(sentence,), group=name)


def _retrieval_rows(path: Path, videos: VideoFinder, notes: list[str]) -> Iterator[Entry]:
    segments: Counter[tuple] = Counter()
    records = csv_records(path, ("end", "start", "task", "text", "video_id"))
    for index, (where, record) in enumerate(records):
        name = text(record, "video_id", where)
        row = ClipRow(
            id=f"{name}_{index:04d}",
            video=_video(videos, name, text(record, "task", where)),
            start=number(record["start"], where, "start"),
            end=number(record["end"], where, "end"),
            captions=(text(record, "text", where),),
            group=name,
        )
        segments[name, row.start, row.end] += 1
        yield Entry("retrieval", row, where)
    notes += [
        f"retrieval: {times} rows are one segment, {name} {start:g}-{end:g} s; their scores tie"
        for (name, start, end), times in segments.items()
        if times > 1
    ]


def _video(videos: VideoFinder, name: str, recipe: str) -> str:
    # Flat, or as the official download script lays them out.
    return videos.find(name, f"training/{recipe}/{name}", f"validation/{recipe}/{name}")
