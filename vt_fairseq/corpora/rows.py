"""What a corpus reader yields, and the checks on one row that need nothing but the row."""

import functools
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vt_fairseq.data.manifest import CLASS_KINDS, MAX_ROW_BYTES, SPLIT_NAME, ClipRow, text_bytes

DEFAULT_SPLIT = "train"
# What people call the splits that training takes.
OTHER_NAMES = dict(training=DEFAULT_SPLIT, **dict.fromkeys(("val", "validation", "dev"), "valid"))
"""The split of a row that names none, and the one that vocabularies are trained on."""
COPY_SUFFIX = ".mp4"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(,[^:/]*)?:")


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


@dataclass(frozen=True)
class Source:
    """A corpus, opened.

    Attributes:
        rows: in the order of its files; read once.
        videos: the directory that the rows' videos lie under.
        settings: how it was read, besides the annotations' path; goes into data.json.
        published: split -> rows in the corpus's official files.
        published_at: where these files are published.
        tolerance: relative difference from ``published`` that is no difference: sources round.
        classes: kind -> all class names in the corpus's own order, which training may not all show.
        context: whether the rows should have a context, because subtitles were asked for.
        notes: what the user should know, one line each; ``rows`` may add to it while it is read.
        warnings: what the user should think about, likewise.
    """

    rows: Iterator[Entry | Rejected]
    videos: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    published_at: str = ""
    tolerance: float = 0.0
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    context: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class FirstSeen:
    """Remembers where each key was seen first, in constant memory.

    The keys of 136 million clips do not fit there: SQLite keeps them in a temporary file, which
    it removes, and CACHE_KIB of them in memory.
    """

    CACHE_KIB = 32 * 1024

    def __init__(self):
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(f"PRAGMA cache_size = -{self.CACHE_KIB}")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, place BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN")

    def earlier(self, key: str, where: str) -> str | None:
        """Where the first ``key`` was; None when this is the first, which is noted."""
        # Bytes: a damaged key need not be text that SQLite takes.
        pair = tuple(text.encode(errors="surrogatepass") for text in (key, where))
        if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", pair).rowcount:
            return None
        first = self._db.execute("SELECT place FROM seen WHERE key = ?", pair[:1]).fetchone()
        return first[0].decode(errors="surrogatepass")


def unique(entries: Iterable[Entry | Rejected]) -> Iterator[Entry | Rejected]:
    """``entries``, with every one rejected whose id an earlier one of its split has."""
    seen = FirstSeen()
    for entry in entries:
        if isinstance(entry, Entry):
            earlier = seen.earlier(f"{entry.split} {entry.row.id}", entry.where)
            if earlier is not None:
                yield reject(entry, f"duplicate id: {entry.row.id!r} is also in {earlier}")
                continue
        yield entry


def check_row(entry: Entry | Rejected, videos: Path) -> Entry | Rejected:
    """``entry`` with its video relative to ``videos``, or the Rejected that it must become."""
    if not SPLIT_NAME.fullmatch(entry.split):
        # The split names a file; a rejected row needs one that can.
        reason = f"bad split: {entry.split!r}, expected at most 64 of letters, digits and _.-"
        entry = reject(entry, reason) if isinstance(entry, Entry) else entry
        return replace(entry, split=DEFAULT_SPLIT)
    if isinstance(entry, Rejected):
        return entry
    try:
        video = local_video(entry.row.video, videos)
    except ValueError as error:
        return reject(entry, str(error))
    if video != entry.row.video:
        entry = replace(entry, row=replace(entry.row, video=video))
    problem = _row_problem(entry.row)
    return reject(entry, problem) if problem else entry


def reject(entry: Entry, reason: str) -> Rejected:
    """``entry`` as a rejected row; ``reason`` reads ``kind: detail``."""
    return Rejected(entry.row.id, entry.row.video, entry.split, reason, entry.where)


@functools.lru_cache(maxsize=1024)  # the clips of one video mostly follow one another
def local_video(video: str, root: Path) -> str:
    """``video`` relative to ``root``; raise ValueError unless it names a file below it.

    Only local files are ever opened: no URL, no FFmpeg protocol. A name may start with a dash, as
    one in 64 of YouTube's does: files are opened by absolute path, which no program takes for an
    option.
    """
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
    try:
        size = text_bytes(row)
    except UnicodeEncodeError as error:
        return f"bad text: it has half a character ({error.reason})"
    if size > MAX_ROW_BYTES:
        return f"too much text: {size:,} bytes, at most {MAX_ROW_BYTES:,} fit into a row"
    return None


def copy_name(video: str, root: Path) -> str:
    """Where, relative to the copies' root, the copy of ``video`` (relative to ``root``) lies.

    No two videos have the same: ``a.mkv`` becomes ``a.mkv.mp4`` unless there is a video of that
    name.
    """
    if video.lower().endswith(COPY_SUFFIX) or (root / video).is_dir():
        return video
    name = video + COPY_SUFFIX
    while (root / name).exists():
        name += COPY_SUFFIX
    return name
