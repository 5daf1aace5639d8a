"""The jsonl manifest that people write by hand: one JSON object per clip and line.

Keys: ``id`` and ``video``; any of ``start``, ``end`` (seconds), ``caption`` (string or list),
``label``, ``verb``, ``noun``, ``question``, ``candidates`` (list), ``answer`` (index from 0),
``context``, ``group``; and ``split`` (train when absent). ``null`` is the same as absent.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from vt_fairseq.corpora.rows import DEFAULT_SPLIT, Entry, Rejected, Source, unique
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.result_files import JsonRow, jsonl_lines, parse_object

MAX_SECONDS = 1e9  # no video is 30 years long
_TEXTS = ("label", "verb", "noun", "question", "group")
KEYS = (
    "id", "video", "start", "end", "caption", *_TEXTS, "candidates", "answer", "context", "split",
)  # fmt: skip


def open_corpus(annotations: Path, videos: Path) -> Source:
    """The manifest ``annotations`` about the files below ``videos``."""
    return Source(read(annotations), videos)


def read(path: Path) -> Iterator[Entry | Rejected]:
    """The rows of the manifest at ``path``, line by line, in the order of the file.

    A mistake in one row is yielded as Rejected. A key that does not exist raises UserError: it is
    a misspelling that most likely runs through the whole file. So does a missing file.
    """
    if not path.is_file():
        raise UserError(f"no jsonl manifest at {path}; --annotations takes that file for jsonl")
    return unique(_entry(path, number, line) for number, line in jsonl_lines(path))


def _entry(path: Path, number: int, line: bytes) -> Entry | Rejected:
    where = f"{path.name} line {number}"
    try:
        record = {key: value for key, value in parse_object(line).items() if value is not None}
    except ValueError as error:
        return Rejected(None, None, DEFAULT_SPLIT, f"bad JSON: {error}", where)
    _check_keys(record, f"{path} line {number}")
    try:
        return Entry(_text(record, "split") or DEFAULT_SPLIT, _row(record), where)
    except _BadRow as error:
        texts = {key: value for key, value in record.items() if isinstance(value, str)}
        split = texts.get("split") or DEFAULT_SPLIT
        return Rejected(texts.get("id"), texts.get("video"), split, str(error), where)


class _BadRow(Exception):
    """One row's mistake, as ``kind: detail``."""


def _check_keys(record: JsonRow, where: str) -> None:
    for key in record:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{where}: unknown key {key!r}{hint}; known keys: {', '.join(KEYS)}")


def _row(record: JsonRow) -> ClipRow:
    for key in ("id", "video"):
        if key not in record:
            raise _BadRow(f"missing {key}: every row needs id and video")
    captions = record.get("caption", [])
    return ClipRow(
        id=_checked_text("id", record["id"]),
        video=_checked_text("video", record["video"]),
        start=_seconds(record, "start"),
        end=_seconds(record, "end"),
        captions=_texts("caption", [captions] if isinstance(captions, str) else captions),
        candidates=_texts("candidates", record.get("candidates", [])),
        answer=_number(record, "answer", int, "an index from 0"),
        # A clip nobody speaks in has empty subtitles; that is no mistake.
        context=None if record.get("context") == "" else _text(record, "context"),
        **{key: _text(record, key) for key in _TEXTS},
    )


def _text(record: JsonRow, key: str) -> str | None:
    return _checked_text(key, record[key]) if key in record else None


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong_type(key, "a list of texts", value)
    return tuple(_checked_text(key, text) for text in value)


def _checked_text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(key, "text", value)
    if not value.strip():
        raise _BadRow(f"empty text: {key} is {value!r}")
    return value


def _seconds(record: JsonRow, key: str) -> float | None:
    value = _number(record, key, int | float, "a number of seconds")
    # Refuses infinity, NaN and integers that no float can hold.
    if value is not None and not abs(value) <= MAX_SECONDS:
        raise _BadRow(f"bad times: {key} is {value!s:.20}")
    return None if value is None else float(value)


def _number(record: JsonRow, key: str, kind: type | UnionType, what: str) -> Any:
    value = record.get(key)
    # bool is an int in Python; JSON's true is no number.
    if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
        raise _wrong_type(key, what, value)
    return value


def _wrong_type(key: str, what: str, value: Any) -> _BadRow:
    return _BadRow(
        f"wrong type: {key} must be {what}, found {value!r:.40} ({type(value).__name__})"
    )
