"""What a corpus reader yields, and the checks on one row that need nothing but the row."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from vt_fairseq.data.manifest import CLASS_KINDS, ClipRow

DEFAULT_SPLIT = "train"
"""The split of a row that names none, and the one that vocabularies are trained on."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(,[^:/]*)?:")
_SPLIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


@dataclass(frozen=True)
class Entry:
    """One row that a corpus reader found; ``where`` says where, for people ("a.jsonl line 3")."""

    split: str
    row: ClipRow
    where: str


@dataclass(frozen=True)
class Rejected:
    """One row that is left out; ``id`` and ``video`` are None where the row does not say."""

    id: str | None
    video: str | None
    split: str
    reason: str
    where: str


def check_row(entry: Entry | Rejected, videos: Path) -> Entry | Rejected:
    """``entry`` with its video relative to ``videos``, or the Rejected that it must become."""
    if not _SPLIT.fullmatch(entry.split):
        # The split names a file; a rejected row needs one that can.
        reason = f"bad split: {entry.split!r}, expected at most 64 of letters, digits and _.-"
        entry = reject(entry, reason) if isinstance(entry, Entry) else entry
        return replace(entry, split=DEFAULT_SPLIT)
    if isinstance(entry, Rejected):
        return entry
    try:
        entry = replace(entry, row=replace(entry.row, video=local_video(entry.row.video, videos)))
    except ValueError as error:
        return reject(entry, str(error))
    problem = _row_problem(entry.row)
    return reject(entry, problem) if problem else entry


def reject(entry: Entry, reason: str) -> Rejected:
    """``entry`` as a rejected row; ``reason`` reads ``kind: detail``."""
    return Rejected(entry.row.id, entry.row.video, entry.split, reason, entry.where)


def local_video(video: str, root: Path) -> str:
    """``video`` relative to ``root``; raise ValueError unless it names a file below it.

    Only local files are ever opened: no URL, no FFmpeg protocol, no name that reads as an option.
    """
    if video.startswith("-"):
        raise ValueError("not a local video: the name starts with '-'; rename the file")
    if _SCHEME.match(video):
        raise ValueError("not a local video: it names a protocol; expected a path below --videos")
    if any(ord(c) < 32 for c in video):
        raise ValueError("not a local video: a control character in the name")
    relative = os.path.relpath(os.path.join(os.path.abspath(root), video), os.path.abspath(root))
    if relative == ".." or relative.startswith("../"):
        raise ValueError("outside of --videos: expected a path below it")
    if relative == ".":
        raise ValueError("not a local video: it names --videos itself")
    return relative


def _row_problem(row: ClipRow) -> str | None:
    start = row.start or 0.0
    if start < 0:
        return f"bad times: start {start} s is before the beginning"
    if row.end is not None and not start < row.end:
        return f"bad times: expected start < end, found start {start} and end {row.end}"
    if row.answer is not None and not 0 <= row.answer < len(row.candidates):
        return f"bad answer: index {row.answer} of {len(row.candidates)} candidates, from 0"
    for kind in CLASS_KINDS:
        if "\n" in (getattr(row, kind) or ""):
            return f"bad text: {kind} has a line break"
    return None
