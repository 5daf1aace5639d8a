"""Official annotation files: found by their names, read with every mistake named by file and row.

What a reader cannot make sense of (another file under that name, a missing column, a time that is
none) raises UserError: official files are right, so the file is not the official one.
"""

import contextlib
import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import MAX_DOCUMENT, parse_json, read_file, text_lines
from vt_fairseq.files.result_files import JsonRow, numbered_objects
from vt_fairseq.video.names import VIDEO_SUFFIXES, split_suffix

CHUNK = 1 << 22  # characters read at a time
MAX_VALUE = 1 << 26  # characters of one value; no video has more narration
_SPACE = re.compile(r"[ \t\n\r]*")
_CLOCK = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d(?:\.\d+)?)")


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of ``names`` that exists in ``folder``: a file or a directory."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def require_file(folder: Path, *names: str, source: str) -> Path:
    """``find_file``; raise UserError that says where the file is published when there is none."""
    path = find_file(folder, *names)
    if path is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        raise UserError(f"no {names[0]}{others} in {folder}; it is published at {source}")
    return path


def find_files(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """Split -> path of those of ``files`` (split -> name) that are in ``folder``."""
    return {split: folder / name for split, name in files.items() if (folder / name).is_file()}


def none_of(names: Iterable[str], folder: Path, source: str) -> UserError:
    """The error where ``folder`` has none of the files ``names``."""
    return UserError(f"none of {', '.join(names)} in {folder}; they are published at {source}")


# --- formats -------------------------------------------------------------------------------------


def csv_records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, {column: text}) per row of a comma-separated file with a header.

    Raise UserError when one of ``columns`` is missing or a row has another number of fields.
    """
    with as_published(path):
        reader = csv.reader(text_lines(path), strict=True)
        header = next(reader, [])
        missing = [column for column in columns if column not in header]
        if missing:
            raise UserError(
                f"{path}: no column {', '.join(missing)}; expected {', '.join(columns)}, "
                f"found {', '.join(header)[:200] or 'an empty file'}"
            )
        for fields in reader:
            where = f"{path.name} line {reader.line_num}"
            if not fields:
                continue
            if len(fields) != len(header):
                raise UserError(f"{where}: expected {len(header)} fields, found {len(fields)}")
            yield where, dict(zip(header, fields, strict=True))


def json_document(path: Path) -> Any:
    """A whole JSON file; raise UserError where it is none."""
    with as_published(path):
        return parse_json(read_file(path, MAX_DOCUMENT))


def jsonl_records(path: Path) -> Iterator[tuple[str, JsonRow]]:
    """(where, object) per line of a jsonl file; raise UserError at a line that is none."""
    return ((f"{path.name} line {number}", row) for number, row in numbered_objects(path))


def json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """(key, value) after (key, value) of a JSON file that is one object too large for memory.

    Memory holds one value and CHUNK characters. Raise UserError where the file is damaged or ends
    early, saying near which character.
    """
    decoder = json.JSONDecoder()
    with as_published(path), open(path, encoding="utf-8-sig") as file:
        buffer, at, before = file.read(CHUNK), 0, 0  # before: characters dropped from the buffer
        while True:
            try:
                key, value, at, more = _json_item(decoder, buffer, at)
            except (ValueError, IndexError) as error:  # not whole yet, or damaged
                added = file.read(CHUNK)
                if not added or len(buffer) - at > MAX_VALUE:
                    raise UserError(
                        f"{path} is damaged or cut off near character {before + at:,}, expected "
                        "one JSON object of key: value pairs"
                    ) from error
                buffer, at, before = buffer[at:] + added, 0, before + at
                continue
            if key is not None:
                yield key, value
            if not more:
                return


def _json_item(decoder: json.JSONDecoder, text: str, at: int) -> tuple[str | None, Any, int, bool]:
    """The pair that begins with the brace or comma at ``at``, where it ends, does another follow.

    The key is None for an object without pairs. Raises ValueError or IndexError unless the pair
    and the mark after it are whole.
    """
    at = _after_space(text, at)
    if text[at] not in "{,":
        raise ValueError("expected { or ,")
    opening, at = text[at], _after_space(text, at + 1)
    if opening == "{" and text[at] == "}":
        return None, None, at, False
    key, at = decoder.raw_decode(text, at)
    at = _after_space(text, at)
    if not isinstance(key, str) or text[at] != ":":
        raise ValueError("expected a key")
    value, at = decoder.raw_decode(text, _after_space(text, at + 1))
    at = _after_space(text, at)
    if text[at] not in ",}":
        raise ValueError("expected , or }")
    return key, value, at, text[at] == ","


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


@contextlib.contextmanager
def as_published(path: Path) -> Iterator[None]:
    """Turn what undecodable content of ``path`` raises into UserError."""
    try:
        yield
    except (csv.Error, ValueError, RecursionError) as error:
        kind = path.suffix[1:] or "text"
        raise UserError(f"{path} is not {kind} as published: {error}") from error


# --- values --------------------------------------------------------------------------------------


def expect(value: Any, kind: type, where: str, what: str) -> Any:
    """``value``; raise UserError unless it is a ``kind``."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where}: expected {what} to be {kind.__name__}, found {value!r:.60}")
    return value


def get(record: JsonRow, key: str, kind: type, where: str) -> Any:
    """``record[key]``; raise UserError when it is missing or no ``kind``."""
    if key not in record:
        known = " ".join(", ".join(f"{name:.40}" for name in list(record)[:12]).split())
        raise UserError(f"{where}: no key {key!r}; found {known}")
    return expect(record[key], kind, where, key)


def text(record: JsonRow, key: str, where: str) -> str:
    """``record[key]`` on one line, without the spaces around it; it must not be empty."""
    value = " ".join(get(record, key, str, where).split())
    if not value:
        raise UserError(f"{where}: {key} is empty")
    return value


def number(value: Any, where: str, what: str) -> float:
    """A finite number, given as one or as text; raise UserError when it is none."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if not isinstance(value, bool) and math.isfinite(float(value)):
            return float(value)
    raise UserError(f"{where}: expected a number as {what}, found {value!r:.60}")


def integer(value: Any, where: str, what: str) -> int:
    """A whole number from 0, given as one or as text; raise UserError when it is none."""
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,18}", str(value)):
        raise UserError(f"{where}: expected a whole number as {what}, found {value!r:.60}")
    return int(value)


def clock(value: str, where: str, what: str) -> float:
    """Seconds of HH:MM:SS.ss; raise UserError when it is something else."""
    match = _CLOCK.fullmatch(value.strip())
    if match is None:
        raise UserError(f"{where}: expected HH:MM:SS.ss as {what}, found {value!r:.60}")
    hours, minutes, seconds = match.groups()
    return round(int(hours) * 3600 + int(minutes) * 60 + float(seconds), 6)


# --- videos --------------------------------------------------------------------------------------


class VideoFinder:
    """Where the videos of a corpus lie below a root; lists each folder once, as it was then.

    One name costs one look-up in memory: of a million files on a network disk not each is asked
    for under each name that it may have. Suffixes may be in upper case, and two: ``ID.mp4.webm``.
    """

    def __init__(self, root: Path, default: str = ".mp4", frames: bool = False):
        """
        Args:
            default: suffix of the path that is returned where there is no file.
            frames: whether a folder of frames, which has no suffix, serves as well, and better.
        """
        self._root, self._default, self._frames = root, default, frames
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, *stems: str) -> str:
        """The first path below the root that exists; when none does the first one there could be.

        ``stems`` are relative to the root and lack the suffix.
        """
        for stem in stems:
            if ".." in stem.split("/") or stem.startswith("/"):
                continue  # no folder outside of the root is listed
            folder, _, name = stem.rpartition("/")
            suffix = self._suffixes(folder).get(name)
            if suffix is not None:
                return stem + suffix
        return stems[0] + self._default

    def _suffixes(self, folder: str) -> dict[str, str]:
        """Name without suffix -> the most usual of the suffixes that it has in ``folder``."""
        if folder not in self._listed:
            below = self._root / folder
            found = self._listed[folder] = {}
            # os.path: False, no error, for a name that is too long or has a NUL in it.
            for name in os.listdir(below) if os.path.isdir(below) else ():
                for stem, suffix in self._readings(name):
                    if stem not in found or _rank(suffix) < _rank(found[stem]):
                        found[stem] = suffix
        return self._listed[folder]

    def _readings(self, name: str) -> Iterator[tuple[str, str]]:
        """(stem, suffix) of a name, in every way in which an annotation may mean it."""
        if self._frames:
            yield name, ""
        stem, suffix = split_suffix(name)
        while suffix:
            yield stem, name[len(stem) :]
            stem, suffix = split_suffix(stem)


def _rank(suffix: str) -> tuple[int, int, str]:
    """Order of preference: none (a folder), one, two suffixes; the most usual first."""
    last = os.path.splitext(suffix)[1].lower()
    usual = VIDEO_SUFFIXES.index(last) if last else -1
    return suffix.count("."), usual, suffix
