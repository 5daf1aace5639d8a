"""EPIC-Kitchens-55 (Damen et al. 2018; github.com/epic-kitchens/epic-kitchens-55-annotations).

======== =====================================================================================
train    labeled segments of the kitchens P01 to P25
valid    those of P26 to P31, the usual validation set of unseen kitchens (paper, appendix C.2)
test_s1  seen kitchens, test_s2: unseen ones; their labels are withheld
======== =====================================================================================

A row's caption is the narration, ``label`` is "verb noun" (what the challenge calls the action).
Verbs and nouns are the keys of the class tables, made readable; the tables' order is kept, so that
line K + 1 of verbs.txt and nouns.txt is class K of the challenge.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vt_fairseq.corpora.files import (
    VideoFinder,
    clock,
    csv_records,
    find_files,
    integer,
    require_file,
    text,
)
from vt_fairseq.corpora.rows import Entry, Rejected, Source, unique
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError

PUBLISHED_AT = "github.com/epic-kitchens/epic-kitchens-55-annotations"
PUBLISHED = {"train": 23_191, "valid": 5_281, "test_s1": 8_047, "test_s2": 2_929}
CLASSES = {"verb": 125, "noun": 352}
FIRST_VALIDATION_KITCHEN = 26
TRAIN_FILE = "EPIC_train_action_labels.csv"
TEST_FILES = {"test_s1": "EPIC_test_s1_timestamps.csv", "test_s2": "EPIC_test_s2_timestamps.csv"}
_SEGMENT = ("uid", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
_LABELS = ("narration", "verb_class", "noun_class")


def open_corpus(annotations: Path, videos: Path) -> Source:
    """The corpus in its official files; raise UserError for a missing or wrong one."""
    train = require_file(annotations, TRAIN_FILE, source=PUBLISHED_AT)
    classes = {kind: read_classes(annotations, kind) for kind in CLASSES}
    tests = find_files(annotations, TEST_FILES)
    notes = [
        f"{kind}s: {len(names)} classes, the published table has {CLASSES[kind]}"
        for kind, names in classes.items()
        if len(names) != CLASSES[kind]
    ]
    return Source(
        rows=unique(_rows(train, tests, classes, VideoFinder(videos, default=".MP4"))),
        videos=videos,
        published=PUBLISHED,
        published_at=PUBLISHED_AT,
        classes=classes,
        notes=notes,
    )


def read_classes(annotations: Path, kind: str) -> list[str]:
    """Readable class names in the order of the class ids; ``kind`` is "verb" or "noun"."""
    path = require_file(annotations, f"EPIC_{kind}_classes.csv", source=PUBLISHED_AT)
    names: list[str] = []
    for where, record in csv_records(path, (f"{kind}_id", "class_key")):
        if integer(record[f"{kind}_id"], where, f"{kind}_id") != len(names):
            raise UserError(f"{where}: expected {kind}_id {len(names)}, found {record}")
        names.append(readable(text(record, "class_key", where)))
    return names


def readable(class_key: str) -> str:
    """``turn-on`` is "turn on"; ``pan:dust``, the generic noun first, is "dust pan"."""
    return " ".join(reversed(class_key.split(":"))).replace("-", " ").lower()


def _rows(
    train: Path, tests: dict[str, Path], classes: dict[str, list[str]], videos: VideoFinder
) -> Iterator[Entry | Rejected]:
    for where, record in csv_records(train, (*_SEGMENT, *_LABELS)):
        verb, noun = (_class(record, kind, classes[kind], where) for kind in CLASSES)
        kitchen = integer(record["participant_id"][1:], where, "the number of participant_id")
        row = replace(
            _row(record, videos, where),
            captions=(text(record, "narration", where),),
            label=f"{verb} {noun}",
            verb=verb,
            noun=noun,
        )
        split = "train" if kitchen < FIRST_VALIDATION_KITCHEN else "valid"
        yield Entry(split, row, where)
    for split, path in tests.items():
        for where, record in csv_records(path, _SEGMENT):
            yield Entry(split, _row(record, videos, where), where)


def _class(record: dict[str, str], kind: str, names: list[str], where: str) -> str:
    index = integer(record[f"{kind}_class"], where, f"{kind}_class")
    if index >= len(names):
        raise UserError(f"{where}: {kind}_class {index} is not in EPIC_{kind}_classes.csv")
    return names[index]


def _row(record: dict[str, str], videos: VideoFinder, where: str) -> ClipRow:
    kitchen, video = (text(record, key, where) for key in ("participant_id", "video_id"))
    # As the official download script lays them out, without its outer folder, or all in one.
    stems = (f"{kitchen}/{video}", video, f"train/{kitchen}/{video}", f"test/{kitchen}/{video}")
    return ClipRow(
        id=text(record, "uid", where),
        video=videos.find(*stems),
        start=clock(record["start_timestamp"], where, "start_timestamp"),
        end=clock(record["stop_timestamp"], where, "stop_timestamp"),
        group=video,
    )
