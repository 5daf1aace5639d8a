"""The jsonl manifest that people write by hand: one object a clip, one clip a line.

Keys: ``id`` and ``video``; any of ``start``, ``end`` (seconds), ``caption`` (string or list),
``label``, ``verb``, ``noun``, ``question``, ``candidates`` (list), ``answer`` (index from 0),
``context``, ``group``; and ``split`` (train when absent). ``null`` is the same as absent.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.rows import DEFAULT_SPLIT, Entry, Rejected, unique
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.result_files import jsonl_lines, parse_object

MAX_SECONDS = 1e9  # no video is 30 years long
_TEXTS = ("label", "verb", "noun", "question", "group")
KEYS = (
    "id", "video", "start", "end", "caption", *_TEXTS, "candidates", "answer", "context", "split",
)  # fmt: skip


def read(path: str | Path) -> Iterator[Entry | Rejected]:
    """The rows of the manifest at ``path``, line by line, in the order of the file.

    A mistake in one row is yielded as Rejected. A key that does not exist raises UserError: it is
    a misspelling that most likely runs through the whole file. So does a missing file.
    """
    path = Path(path)
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
        name, video, split = (
            value if isinstance(value := record.get(key), str) else None
            for key in ("id", "video", "split")
        )
        return Rejected(name, video, split or DEFAULT_SPLIT, str(error), where)


class _BadRow(Exception):
    """One row's mistake, as ``kind: detail``."""


def _check_keys(record: dict[str, Any], where: str) -> None:
    for key in record:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{where}: unknown key {key!r}{hint}; known keys: {', '.join(KEYS)}")


def _row(record: dict[str, Any]) -> ClipRow:
    for key in ("id", "video"):
        if key not in record:
            raise _BadRow(f"missing {key}: every row needs id and video")
    captions = record.get("caption", [])
    return ClipRow(
        id=_text(record, "id"),
        video=_text(record, "video"),
        start=_seconds(record, "start"),
        end=_seconds(record, "end"),
        captions=_texts("caption", [captions] if isinstance(captions, str) else captions),
        candidates=_texts("candidates", record.get("candidates", [])),
        answer=_index(record, "answer"),
        # A clip nobody speaks in has empty subtitles; that is no mistake.
        context=None if record.get("context") == "" else _text(record, "context"),
        **{key: _text(record, key) for key in _TEXTS},
    )


def _text(record: dict[str, Any], key: str) -> str | None:
    return _checked_text(key, record[key]) if key in record else None


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _BadRow(f"wrong type: {key} must be a list of texts, found {_shown(value)}")
    return tuple(_checked_text(key, text) for text in value)


def _checked_text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _BadRow(f"wrong type: {key} must be text, found {_shown(value)}")
    if not value.strip():
        raise _BadRow(f"empty text: {key} is {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _BadRow(f"bad text: {key} has half a character ({error.reason})") from error
    return value


def _seconds(record: dict[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    # bool is an int in Python; JSON's true is no time.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _BadRow(f"wrong type: {key} must be a number of seconds, found {_shown(value)}")
    if not abs(value) <= MAX_SECONDS:  # holds for infinity and for integers no float can hold
        raise _BadRow(f"bad times: {key} is {value!s:.20}")
    return float(value)


def _index(record: dict[str, Any], key: str) -> int | None:
    value = record.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise _BadRow(f"wrong type: {key} must be an index from 0, found {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return f"{value!r:.40} ({type(value).__name__})"
