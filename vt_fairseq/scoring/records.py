"""Records of scored rows on disk: appended batch by batch, found again after a kill, merged.

In the folder of the results::

    settings.json          what the scores depend on; scores of other settings are refused
    scores.partR.jsonl     what process R has finished, in the order in which it did; only while
                           the scoring goes on
    scores.jsonl           all records in the order of the rows, once it has ended

A record is one JSON object with ``id``; a row whose clip could not be read has null for its
scores, and is tried again when the command is run again.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError
from vt_fairseq.files.atomic_files import atomic_file, full_disk_named, write_json
from vt_fairseq.files.bounded_files import MAX_OBJECT, byte_lines, parse_json, read_file
from vt_fairseq.visible_text import json_text

SETTINGS, SCORES = "settings.json", "scores.jsonl"
# What is made from the scores; a folder with metrics is whole.
RESULTS = ("metrics.json", "predictions.jsonl", "v2t_predictions.jsonl", "classes.jsonl")
ScoreRecord = dict[str, Any]


def prepare_folder(folder: Path, settings: dict[str, Any], restart: bool) -> None:
    """Make ``folder`` hold scores of these ``settings``; those that it has already stay.

    Raises UserError where it holds scores of other settings, unless ``restart`` throws them away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if restart:
        # The metrics first, by which a folder is known to be whole.
        for old in (*(folder / name for name in RESULTS), path, *_score_files(folder)):
            old.unlink(missing_ok=True)
    if path.is_file():
        saved = _read_settings(path)
        settings = json.loads(json.dumps(settings, allow_nan=False))  # as they will be read again
        changed = sorted(k for k in settings | saved if settings.get(k) != saved.get(k))
        if changed:
            raise UserError(
                f"{folder} holds scores made with other settings ({', '.join(changed)}): give "
                "another --out, or --restart to throw them away"
            )
    elif _score_files(folder):
        raise UserError(
            f"{folder} holds scores but no {SETTINGS}, which says how they were made: give another "
            "--out, or --restart to throw them away"
        )
    write_json(path, settings)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(read_file(path, MAX_OBJECT)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): --restart begins anew") from error


def _score_files(folder: Path) -> list[Path]:
    """All files that hold records."""
    return [*folder.glob(SCORES), *sorted(folder.glob("scores.part*.jsonl"))]


class PartWriter:
    """Appends the records of one process; each batch is on the disk before the next begins."""

    def __init__(self, folder: Path, rank: int):
        self._path = path = folder / f"scores.part{rank}.jsonl"
        self._file = open(path, "ab")  # noqa: SIM115
        # A kill may have cut off the last line.
        self._file.truncate(sum(len(line) for _, line in _lines(path)))

    def append(self, records: Iterable[ScoreRecord]) -> None:
        """Write the records of a batch."""
        with full_disk_named(self._path):
            self._file.write(b"".join(map(as_line, records)))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def as_line(record: ScoreRecord) -> bytes:
    """One line of a jsonl file; raises ValueError for NaN and infinity, which JSON lacks."""
    return json_text(record).encode() + b"\n"


@dataclass(frozen=True)
class RecordLocation:
    """Where a record is stored; ``scored`` is False where its clip could not be read."""

    path: Path
    offset: int
    length: int
    scored: bool


def locate_records(folder: Path) -> dict[str, RecordLocation]:
    """Every row's latest record that has scores, or else its latest record, by id."""
    latest: dict[str, RecordLocation] = {}
    for path in _score_files(folder):
        for offset, line in _lines(path):
            record = _parse(line, path)
            location = RecordLocation(path, offset, len(line), None not in record.values())
            if location.scored or not latest.get(record["id"], location).scored:
                latest[record["id"]] = location
    return latest


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each whole line."""
    offset = 0
    for line in byte_lines(path):
        if line.endswith(b"\n"):
            yield offset, line
        offset += len(line)


def _parse(line: bytes, path: Path) -> ScoreRecord:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): --restart begins anew") from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise UserError(f"{path} has a line that is no record: --restart begins anew")
    return record


def merge_records(folder: Path, ids: Sequence[str]) -> None:
    """Write the records of all rows to scores.jsonl in the order of ``ids``; delete the parts.

    Memory does not grow with the records.
    """
    locations = locate_records(folder)
    with atomic_file(folder / SCORES) as merged:
        for row_id in ids:
            location = locations[row_id]
            with open(location.path, "rb") as file:
                file.seek(location.offset)
                merged.write(file.read(location.length))
    for path in _score_files(folder):
        if path.name != SCORES:
            path.unlink()


def read_records(folder: Path) -> Iterator[ScoreRecord]:
    """The merged records, in the order of the rows."""
    for _, line in _lines(folder / SCORES):
        yield _parse(line, folder / SCORES)
