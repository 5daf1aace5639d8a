"""The jsonl manifest that people write by hand: one JSON object per clip and line.

Keys: ``id`` and ``video``; any of ``start``, ``end`` (seconds), ``caption`` (string or list),
``label``, ``verb``, ``noun``, ``question``, ``candidates`` (list), ``answer`` (index from 0),
``context``, or ``subtitles``, a file of which the context is what is said in the clip; ``group``;
and ``split`` (train when absent). ``null`` is the same as absent.
"""

import difflib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.rows import DEFAULT_SPLIT, Entry, Rejected, Source, local_video, unique
from vt_fairseq.corpora.subtitles import Subtitle, parse_subtitles, said
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import FOLLOW_LINKS, UserError, VideoError
from vt_fairseq.files.result_files import JsonRow, jsonl_lines, parse_object
from vt_fairseq.video.boundary import Boundary

MAX_SECONDS = 1e9  # no video is 30 years long
FILES_KEPT = 16  # of subtitles; the clips of one video mostly follow one another
_TEXT = (str, "text")
_TEXTS = (list, "a list of texts")
_SECONDS = (int | float, "a number of seconds")
KEYS: dict[str, tuple[Any, str]] = {
    **{"id": _TEXT, "video": _TEXT, "start": _SECONDS, "end": _SECONDS, "caption": _TEXTS},
    **dict.fromkeys(("label", "verb", "noun", "question", "group"), _TEXT),
    **{"candidates": _TEXTS, "answer": (int, "an index from 0"), "context": _TEXT, "split": _TEXT},
    "subtitles": (str, "the name of a file"),
}
"""Key -> type of its value, and what that is called."""

ReadSubtitles = Callable[[str], list[Subtitle]]


def open_corpus(annotations: Path, videos: Path, follow_links: bool = False) -> Source:
    """The manifest ``annotations`` about the files below ``videos``."""
    return Source(read(annotations, videos, follow_links), videos)


def read(
    path: Path, videos: Path | None = None, follow_links: bool = False
) -> Iterator[Entry | Rejected]:
    """The rows of the manifest at ``path``, line by line, in the order of the file.

    Files of subtitles lie below ``videos``, like the videos (by default the manifest's folder), and
    so does where their links lead unless ``follow_links``.

    A mistake in one row is yielded as Rejected. A key that does not exist raises UserError: it is
    a misspelling that most likely runs through the whole file. So does a missing file.
    """
    if not path.is_file():
        raise UserError(f"no jsonl manifest at {path}; --annotations takes that file for jsonl")
    subtitles = _below(path.parent if videos is None else videos, follow_links)
    return unique(_entry(path, number, line, subtitles) for number, line in jsonl_lines(path))


def _below(videos: Path, follow_links: bool) -> ReadSubtitles:
    """A reader of files of subtitles; it raises ValueError, as ``kind: detail``."""
    boundary = None if follow_links else Boundary(videos, FOLLOW_LINKS)

    @functools.lru_cache(maxsize=FILES_KEPT)
    def subtitles(name: str) -> list[Subtitle]:
        try:
            file = videos / local_video(name, videos)
            if boundary is not None:
                boundary.check(file)
            return parse_subtitles(file)
        except (UserError, VideoError, OSError, ValueError) as error:
            raise ValueError(f"bad subtitles: {error}") from error

    return subtitles


def _entry(path: Path, number: int, line: bytes, subtitles: ReadSubtitles) -> Entry | Rejected:
    where = f"{path.name} line {number}"
    try:
        record = {key: value for key, value in parse_object(line).items() if value is not None}
    except ValueError as error:
        return Rejected(None, None, DEFAULT_SPLIT, f"bad JSON: {error}", where)
    _refuse_unknown_keys(record, f"{path} line {number}")
    try:
        return Entry(record.get("split", DEFAULT_SPLIT), _row(record, subtitles), where)
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


def _row(record: JsonRow, subtitles: ReadSubtitles) -> ClipRow:
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
    if (name := fields.pop("subtitles", None)) is not None:
        if "context" in fields:
            raise ValueError("two contexts: expected context or subtitles, found both")
        fields["context"] = said(subtitles(name), fields.get("start"), fields.get("end"))
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
