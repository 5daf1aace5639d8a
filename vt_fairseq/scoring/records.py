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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vt_fairseq.data.manifest import atomic_file, write_json
from vt_fairseq.errors import UserError

SETTINGS, SCORES = "settings.json", "scores.jsonl"
Record = dict[str, Any]


def claim(folder: Path, settings: Mapping[str, Any], restart: bool) -> None:
    """Make ``folder`` that of these ``settings``; what it has of the same ones stays.

    Raises UserError where it holds scores of other settings, unless ``restart`` throws them away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if restart:
        for path in (folder / SETTINGS, *_files(folder)):
            path.unlink(missing_ok=True)
    settings = json.loads(json.dumps(settings))  # as they will be read again
    path = folder / SETTINGS
    if path.is_file():
        found = _settings(path)
        changed = sorted(k for k in settings | found if settings.get(k) != found.get(k))
        if changed:
            raise UserError(
                f"{folder} holds scores made with other settings ({', '.join(changed)}): give "
                "another --out, or --restart to throw them away"
            )
    elif _files(folder):
        raise UserError(
            f"{folder} holds scores but no {SETTINGS}, which says how they were made: give another "
            "--out, or --restart to throw them away"
        )
    write_json(path, settings)


def _settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): --restart begins anew") from error


def _files(folder: Path) -> list[Path]:
    """Everything that records may stand in."""
    return [*folder.glob(SCORES), *sorted(folder.glob("scores.part*.jsonl"))]


class PartWriter:
    """Appends the records of one process; each batch is on the disk before the next begins."""

    def __init__(self, folder: Path, rank: int):
        path = folder / f"scores.part{rank}.jsonl"
        self._file = open(path, "ab")  # noqa: SIM115
        self._file.truncate(_whole_lines(path))

    def append(self, records: Iterable[Record]) -> None:
        """Write the records of a batch."""
        self._file.write(b"".join(map(as_line, records)))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def as_line(record: Record) -> bytes:
    """One line of a jsonl file; raises ValueError for a number that is none."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """A jsonl file, whole or not at all; records are taken one by one."""
    with atomic_file(path) as file:
        for record in records:
            file.write(as_line(record))


def _whole_lines(path: Path) -> int:
    """Bytes of ``path`` up to its last line break: a kill may have cut what comes after."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        end = size
        while end:
            start = max(0, end - (1 << 16))
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


@dataclass(frozen=True)
class Place:
    """Where a record stands; ``scored`` is False where its clip could not be read."""

    path: Path
    offset: int
    length: int
    scored: bool


def find(folder: Path) -> dict[str, Place]:
    """Every row's latest record that has scores, or its latest one, by id."""
    found: dict[str, Place] = {}
    for path in _files(folder):
        for offset, line in _lines(path):
            record = _parse(line, path)
            place = Place(path, offset, len(line), None not in record.values())
            if place.scored or not found.get(record["id"], place).scored:
                found[record["id"]] = place
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield offset, line
            offset += len(line)


def _parse(line: bytes, path: Path) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): --restart begins anew") from error
    if not isinstance(record, dict) or not isinstance(record.get("id"), str):
        raise UserError(f"{path} has a line that is no record: --restart begins anew")
    return record


def merge(folder: Path, ids: Sequence[str]) -> None:
    """Write the records of all rows to scores.jsonl in the order of ``ids``; the parts go.

    Memory does not grow with the records.
    """
    places = find(folder)
    with atomic_file(folder / SCORES) as merged:
        for row_id in ids:
            place = places[row_id]
            with open(place.path, "rb") as file:
                file.seek(place.offset)
                merged.write(file.read(place.length))
    for path in _files(folder):
        if path.name != SCORES:
            path.unlink()


def read(folder: Path) -> Iterator[Record]:
    """The merged records, in the order of the rows."""
    for _, line in _lines(folder / SCORES):
        yield _parse(line, folder / SCORES)
