"""The jsonl manifest that people write by hand: one JSON object per clip and line.

Keys: ``id`` and ``video``; any of ``start``, ``end`` (seconds), ``caption`` (string or list),
``label``, ``verb``, ``noun``, ``question``, ``candidates`` (list), ``answer`` (index from 0),
``context``, ``group``; and ``split`` (train when absent). ``null`` is the same as absent.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.rows import DEFAULT_SPLIT, Entry, Rejected, Source, unique
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import JsonRow, jsonl_lines, parse_object

MAX_SECONDS = 1e9  # no video is 30 years long
_TEXT = (str, "text")
_TEXTS = (list, "a list of texts")
_SECONDS = (int | float, "a number of seconds")
KEYS: dict[str, tuple[Any, str]] = {
    **{"id": _TEXT, "video": _TEXT, "start": _SECONDS, "end": _SECONDS, "caption": _TEXTS},
    **dict.fromkeys(("label", "verb", "noun", "question", "group"), _TEXT),
    **{"candidates": _TEXTS, "answer": (int, "an index from 0"), "context": _TEXT, "split": _TEXT},
}
"""Key -> type of its value, and what that is called."""


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
    _refuse_unknown_keys(record, f"{path} line {number}")
    try:
        return Entry(record.get("split", DEFAULT_SPLIT), _row(record), where)
    except ValueError as error:
        texts = {key: value for key, value in record.items() if isinstance(value, str)}
        split = texts.get("split") or DEFAULT_SPLIT
        return Rejected(texts.get("id"), texts.get("video"), split, str(error), where)


def _refuse_unknown_keys(record: JsonRow, where: str) -> None:
    for key in record:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{where}: unknown key {key!r}{hint}; known keys: {', '.join(KEYS)}")


def _row(record: JsonRow) -> ClipRow:
    """The row; ValueError, as ``kind: detail``, for a mistake in it."""
    for key in ("id", "video"):
        if key not in record:
            raise ValueError(f"missing {key}: every row needs id and video")
    fields = dict(record)
    if isinstance(fields.get("caption"), str):
        fields["caption"] = [fields["caption"]]
    if fields.get("context") == "":  # nobody speaks in the clip; that is no mistake
        del fields["context"]
    for key, value in fields.items():
        _check_value(key, value)
    fields.pop("split", None)
    fields |= {time: float(fields[time]) for time in ("start", "end") if time in fields}
    captions, candidates = (tuple(fields.pop(key, ())) for key in ("caption", "candidates"))
    return ClipRow(captions=captions, candidates=candidates, **fields)


def _check_value(key: str, value: Any) -> None:
    kind, what = KEYS[key]
    # bool is an int in Python; JSON's true is no number.
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"wrong type: {key} must be {what}, found {_shown(value)}")
    for text in value if kind is list else (value,):
        if kind is list and not isinstance(text, str):
            raise ValueError(f"wrong type: {key} must be {what}, found {_shown(text)} in it")
        if isinstance(text, str) and not text.strip():
            raise ValueError(f"empty text: {key} is {text!r}")
    # Refuses infinity, NaN and integers that no float can hold.
    if key in ("start", "end") and not abs(value) <= MAX_SECONDS:
        raise ValueError(f"bad times: {key} is {value!s:.20}")


def _shown(value: Any) -> str:
    return f"{value!r:.40} ({type(value).__name__})"
