"""The file of a library: one SQLite database in WAL mode, of which this module alone knows.

What belongs together is written in one transaction, so a kill at any moment, of the machine too,
leaves all of it or nothing. A file of a stranger is opened only where its schema is exactly ours:
triggers and views of others would run. Texts and paths in it are as untrusted as those of videos.
"""

import contextlib
import math
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any

from vt_fairseq.errors import RunFailure, UserError

FORMAT = 1
APPLICATION = 0x76744C42  # "vtLB", of files of this kind
# Until another process has written; it may be at a batch of a slow disk.
LONGEST_WAIT = 600.0
MAX_BYTES = 1 << 26  # of one value; 512 states of T5-large in fp32 are 2 MiB
ROWS_AT_ONCE = 256
LARGEST = 2**63 - 1  # of a number in a query
CHECKSUM_BYTES = 4
DAMAGED = {
    *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT),
    *(sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_FORMAT),
}

SCHEMA = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, started REAL NOT NULL, ended REAL, "
    "about TEXT NOT NULL) STRICT",
    # path: bytes, as names of files need not be text. modified: nanoseconds. duration: seconds,
    # NULL where the file cannot be opened.
    "CREATE TABLE files (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, "
    "modified INTEGER NOT NULL, sha256 BLOB NOT NULL, duration REAL) STRICT",
    # start, end: seconds, NULL for those of the video. error: why there is no caption.
    "CREATE TABLE segments (id INTEGER PRIMARY KEY, "
    "file INTEGER NOT NULL REFERENCES files ON DELETE CASCADE, "
    'start REAL, "end" REAL, context TEXT NOT NULL, caption TEXT, score REAL, error TEXT, '
    "run INTEGER NOT NULL REFERENCES runs) STRICT",
    'CREATE UNIQUE INDEX one_of_each ON segments (file, ifnull(start, -1), ifnull("end", -1), '
    "context)",
    "CREATE TABLE states (segment INTEGER PRIMARY KEY REFERENCES segments ON DELETE CASCADE, "
    "video BLOB NOT NULL, encoded BLOB NOT NULL) STRICT",
    "CREATE VIRTUAL TABLE captions USING fts5(caption, content='segments', content_rowid='id', "
    "tokenize='porter unicode61')",
)
_FILE = "SELECT id, path, size, modified, sha256, duration FROM files"
_FILE_TYPES = (int, bytes, int, int, bytes, float | None)
_SEGMENT = (
    'SELECT s.id, f.path, ifnull(s.start, 0.0), ifnull(s."end", f.duration), s.start, s."end", '
    "s.context, s.caption, s.score, s.error FROM segments s JOIN files f ON f.id = s.file "
)
_SEGMENT_TYPES = (
    *(int, bytes, int | float, float | None, float | None, float | None, str),
    *(str | None, float | None, str | None),
)

Times = tuple[float | None, float | None]


@dataclass(frozen=True)
class StoredFile:
    """A video as it was when it was indexed.

    Attributes:
        path: absolute.
        size, modified: bytes and nanoseconds; of a folder of frames the sum and the latest.
        sha256: of its content.
        duration: seconds; None where it could not be opened.
    """

    id: int
    path: str
    size: int
    modified: int
    sha256: bytes
    duration: float | None


@dataclass(frozen=True)
class Segment:
    """A part of a video in a library, and what the model says of it.

    Attributes:
        id: number in this library.
        path: of the video, absolute.
        start, end: seconds; 0 and the video's end for a whole one. ``end`` is None where the video
            could not be opened.
        asked: start and end as they were asked for, None for those of the video.
        context: text that the model read beside the video; "" for none.
        caption, score: the best caption and its log-likelihood; None where there is an error.
        error: why the segment could not be read.
    """

    id: int
    path: str
    start: float
    end: float | None
    asked: Times
    context: str
    caption: str | None
    score: float | None
    error: str | None


@dataclass(frozen=True)
class NewSegment:
    """A segment to be stored: states as bytes, or the error."""

    file: int
    start: float | None
    end: float | None
    context: str
    caption: str | None = None
    score: float | None = None
    error: str | None = None
    video: bytes = b""
    encoded: bytes = b""


class Store:
    """The rows of one library. Raises UserError and RunFailure of one line, as ``_named`` says."""

    def __init__(self, path: str | os.PathLike[str], writable: bool = False):
        """Open ``path``; a writable one is made where there is none.

        Raises UserError where there is no library, or a file of another kind.
        """
        self.path = Path(os.path.abspath(path))
        self._check_file(writable)
        mode = "rwc" if writable else "ro"
        if not writable and not self._may_be_shared():
            mode += "&immutable=1"
        with self._named():
            # Calls of several threads take turns, for which whoever shares it has to see.
            self._db = sqlite3.connect(
                f"{self.path.as_uri()}?mode={mode}",
                uri=True,
                timeout=LONGEST_WAIT,
                isolation_level=None,
                check_same_thread=False,
            )
            # A library of a stranger may hold what is no UTF-8.
            self._db.text_factory = lambda text: text.decode(errors="replace")
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA cell_size_check = ON")
            self._db.execute("PRAGMA foreign_keys = ON")
            if writable:
                self._create()
            self._check_schema()

    def close(self) -> None:
        """Close the file; what is written stays."""
        self._db.close()

    # opening

    def _check_file(self, writable: bool) -> None:
        """Only a regular file is opened: a pipe would wait, a device would not end."""
        try:
            mode = os.stat(self.path).st_mode
        except FileNotFoundError:
            if not writable:
                raise UserError(f"no library at {self.path}; vt-index makes one") from None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return
        if not stat.S_ISREG(mode):
            raise UserError(f"{self.path}: expected the file of a library, found something else")

    def _may_be_shared(self) -> bool:
        """Whether SQLite can keep its list of readers beside the file, or has to do without."""
        beside = [self.path.with_name(self.path.name + suffix) for suffix in ("-wal", "-shm")]
        return os.access(self.path.parent, os.W_OK) or any(file.exists() for file in beside)

    def _create(self) -> None:
        if self._value("SELECT count(*) FROM sqlite_master"):
            return
        self._db.execute("PRAGMA journal_mode = WAL")
        with self.transaction():
            if self._value("SELECT count(*) FROM sqlite_master"):
                return  # another process came first
            for statement in SCHEMA:
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {APPLICATION}")
            self._db.execute(f"PRAGMA user_version = {FORMAT}")

    def _check_schema(self) -> None:
        if not self._value("SELECT count(*) FROM sqlite_master"):
            raise UserError(f"{self.path} holds nothing yet: vt-index has not begun to fill it")
        if self._value("PRAGMA application_id") != APPLICATION:
            raise UserError(
                f"{self.path} is a database of another program: name another file as the library"
            )
        version = self._value("PRAGMA user_version")
        if version != FORMAT:
            raise UserError(
                f"{self.path} is a library of format {version}, expected {FORMAT}: index the "
                "videos again into a new one"
            )
        with contextlib.closing(sqlite3.connect(":memory:")) as empty:
            for statement in SCHEMA:
                empty.execute(statement)
            if _objects(self._db) != _objects(empty):
                raise UserError(
                    f"{self.path} has other tables than a library: it is damaged, or made to "
                    "mislead; index the videos again into a new one"
                )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Say in one line what is wrong with the file: full disk, damage, no permission."""
        try:
            yield
        except sqlite3.Error as error:
            named = _in_one_line(self.path, error)
            if named is None:
                raise
            raise named from error

    # reading

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple]:
        with self._named():
            cursor = self._db.execute(query, values)
            while rows := cursor.fetchmany(ROWS_AT_ONCE):
                yield from rows

    def _value(self, query: str, *values: object) -> object:
        return next(self._rows(query, values), (None,))[0]

    def settings(self) -> dict[str, str]:
        """What the library was made with; empty for a new one."""
        return dict(self._rows("SELECT name, value FROM settings"))

    def count(self, readable: bool = True) -> int:
        """How many segments could be read, or could not."""
        what = "IS NULL" if readable else "IS NOT NULL"
        return int(str(self._value(f"SELECT count(*) FROM segments WHERE error {what}")))

    def count_files(self) -> int:
        """How many videos there are."""
        return int(str(self._value("SELECT count(*) FROM files")))

    def files(self) -> Iterator[StoredFile]:
        """All videos, by path."""
        return map(self._file, self._rows(f"{_FILE} ORDER BY path"))

    def file(self, path: str) -> StoredFile | None:
        """The video at an absolute path."""
        row = next(self._rows(f"{_FILE} WHERE path = ?", (os.fsencode(path),)), None)
        return None if row is None else self._file(row)

    def segments(self, path: str | None = None) -> Iterator[Segment]:
        """All segments, or those of the video at an absolute path, by path and time."""
        where, values = ("", ()) if path is None else ("WHERE f.path = ? ", (os.fsencode(path),))
        order = 'ORDER BY f.path, ifnull(s.start, 0), s."end", s.context'
        return map(self._segment, self._rows(f"{_SEGMENT}{where}{order}", values))

    def segment(self, number: int) -> Segment:
        """One segment by its id; raise UserError where there is none."""
        row = next(self._rows(f"{_SEGMENT}WHERE s.id = ?", (number,)), None)
        if row is None:
            raise UserError(f"{self.path} has no segment {number}")
        return self._segment(row)

    def keys(self, file: int) -> dict[tuple[float | None, float | None, str], bool]:
        """Start, end and context of a file's segments, and whether each could be read."""
        query = 'SELECT start, "end", context, error IS NULL FROM segments WHERE file = ?'
        return {(a, b, c): bool(read) for a, b, c, read in self._rows(query, (file,))}

    def states(
        self, column: str, numbers: Iterable[int] | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Id and ``column`` ("video" or "encoded") of all segments, or of those with ``numbers``.

        In the order of the ids; b"" where the bytes are damaged.
        """
        if column not in ("video", "encoded"):
            raise ValueError(f"no states {column}")
        query = f"SELECT segment, {column} FROM states"
        if numbers is None:
            rows = self._rows(f"{query} ORDER BY segment")
        else:
            each = (self._rows(f"{query} WHERE segment = ?", (one,)) for one in sorted(numbers))
            rows = chain.from_iterable(each)
        return ((number, unsealed(data)) for number, data in rows)

    def last_number(self) -> int:
        """The highest id of a segment, 0 without any; of a damaged file what can be read of it."""
        for query in ("SELECT max(id) FROM segments", "SELECT max(segment) FROM states"):
            with contextlib.suppress(UserError):
                return int(str(self._value(query) or 0))
        raise damaged(self.path, "the end of its list of segments is lost")

    def next_number(self, number: int) -> int | None:
        """The lowest id of a segment from ``number`` on; None where there is none."""
        lowest = self._value("SELECT min(id) FROM segments WHERE id >= ?", number)
        return None if lowest is None else int(str(lowest))

    def record(self, number: int) -> tuple[StoredFile, NewSegment] | None:
        """A segment as it was stored, and its video; None where there is no such one.

        Nothing but its own rows is read.
        """
        query = (
            'SELECT file, start, "end", context, caption, score, error FROM segments WHERE id = ?'
        )
        row = next(self._rows(query, (number,)), None)
        if row is None:
            return None
        self._check_types(row, (int, *_SEGMENT_TYPES[4:]))
        file = next(self._rows(f"{_FILE} WHERE id = ?", row[:1]), None)
        query = "SELECT video, encoded FROM states WHERE segment = ?"
        states = list(map(unsealed, next(self._rows(query, (number,)), (b"", b""))))
        if file is None or (row[-1] is None and not all(states)):
            raise damaged(self.path, f"segment {number} is there in part")
        return self._file(file), NewSegment(*row, *states)

    def with_words(self, words: Sequence[str], most: int) -> list[int]:
        """Ids of at most ``most`` segments whose captions share words, the best fitting first."""
        if not words:
            return []
        query = " OR ".join('"{}"'.format(word.replace('"', '""')) for word in words)
        found = self._rows(
            "SELECT rowid FROM captions WHERE captions MATCH ? ORDER BY rank, rowid LIMIT ?",
            (query, min(most, LARGEST)),
        )
        return [number for (number,) in found]

    def _file(self, row: tuple) -> StoredFile:
        self._check_types(row, _FILE_TYPES)
        return StoredFile(row[0], self._absolute(row[1]), *row[2:])

    def _segment(self, row: tuple) -> Segment:
        self._check_types(row, _SEGMENT_TYPES)
        number, path, start, end, asked_start, asked_end, *others = row
        return Segment(number, self._absolute(path), start, end, (asked_start, asked_end), *others)

    def _absolute(self, path: bytes) -> str:
        if not path.startswith(b"/"):
            raise damaged(self.path, f"a video has the path {path!r:.60}, which is not absolute")
        return os.fsdecode(path)

    def _check_types(self, row: tuple, types: Sequence[type | UnionType]) -> None:
        """SQLite checks them only when it writes, and a file may have been changed otherwise."""
        for value, kind in zip(row, types, strict=True):
            if not isinstance(value, kind):
                raise damaged(self.path, f"row {row[0]!r:.20} has {value!r:.40}, not {kind}")
            if isinstance(value, float) and not math.isfinite(value):
                raise damaged(self.path, f"row {row[0]!r:.20} has the number {value}")

    # writing

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block, or nothing of it."""
        with self._named():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._db.execute("ROLLBACK")
                raise

    def set(self, values: dict[str, str]) -> None:
        """Settings, in a transaction."""
        self._db.executemany("INSERT OR REPLACE INTO settings VALUES (?, ?)", values.items())

    def begin_run(self, about: str) -> int:
        """A row for a run; ``about`` says what was asked for."""
        with self.transaction():
            query = "INSERT INTO runs (started, about) VALUES (?, ?)"
            return int(self._db.execute(query, (time.time(), about)).lastrowid or 0)

    def end_run(self, run: int) -> None:
        """Write down that it came to its end."""
        with self.transaction():
            self._db.execute("UPDATE runs SET ended = ? WHERE id = ?", (time.time(), run))

    def add_file(
        self, path: str, size: int, modified: int, sha256: bytes, duration: float | None
    ) -> int:
        """A video, in a transaction; one of this path that is there keeps its segments."""
        query = (
            "INSERT INTO files (path, size, modified, sha256, duration) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (path) DO UPDATE SET size = excluded.size, modified = excluded.modified, "
            "sha256 = excluded.sha256, duration = excluded.duration RETURNING id"
        )
        values = (os.fsencode(path), size, modified, sha256, duration)
        return int(self._db.execute(query, values).fetchone()[0])

    def remove_file(self, file: int) -> None:
        """A video with all its segments, in a transaction."""
        self._remove_captions("file = ?", file)
        self._db.execute("DELETE FROM files WHERE id = ?", (file,))

    def remove_failures(self, file: int) -> None:
        """The segments of a video that could not be read, in a transaction."""
        self._remove_captions("file = ? AND error IS NOT NULL", file)
        self._db.execute("DELETE FROM segments WHERE file = ? AND error IS NOT NULL", (file,))

    def _remove_failure(self, one: NewSegment) -> None:
        where = 'file = ? AND start IS ? AND "end" IS ? AND context = ? AND error IS NOT NULL'
        values = (one.file, one.start, one.end, one.context)
        self._remove_captions(where, *values)
        self._db.execute(f"DELETE FROM segments WHERE {where}", values)

    def _remove_captions(self, where: str, *values: Any) -> None:
        """From the index of words. No trigger does it: a stranger's library could have others."""
        self._db.execute(
            "INSERT INTO captions (captions, rowid, caption) SELECT 'delete', id, caption "
            f"FROM segments WHERE {where}",
            values,
        )

    def add_segments(self, run: int, segments: Iterable[NewSegment]) -> int:
        """Segments with their states, in a transaction; how many were not there yet.

        What could not be read before makes room for what was read now.
        """
        added = 0
        for one in segments:
            error = one.error
            if error is None:
                self._remove_failure(one)
            else:  # which may hold the name of a file, and that bytes that are no text
                error = error.encode("utf-8", "backslashreplace").decode()
            cursor = self._db.execute(
                'INSERT INTO segments (file, start, "end", context, caption, score, error, run) '
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
                (one.file, one.start, one.end, one.context, one.caption, one.score, error, run),
            )
            if (row := cursor.fetchone()) is None:
                continue
            added += 1
            words = (row[0], one.caption)
            self._db.execute("INSERT INTO captions (rowid, caption) VALUES (?, ?)", words)
            if one.error is None:
                values = (row[0], sealed(one.video), sealed(one.encoded))
                self._db.execute("INSERT INTO states VALUES (?, ?, ?)", values)
        return added


def _objects(db: sqlite3.Connection) -> set[tuple]:
    """What a database has: all of ours as it was made, of FTS5's own tables kind and name.

    Their text may differ between versions of SQLite.
    """
    found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    return {row if not row[1].startswith("captions_") else row[:3] for row in found}


def _in_one_line(path: Path, error: sqlite3.Error) -> UserError | None:
    """What the user can do about it; None for a defect of ours."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return RunFailure(f"{path}: the disk is full: make room and run the same command again")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return RunFailure(
            f"{path}: another process has been writing to it for {LONGEST_WAIT / 60:.0f} minutes: "
            "run the same command again when it has ended"
        )
    if code == sqlite3.SQLITE_IOERR:
        return RunFailure(f"{path}: the disk does not answer as it should ({error})")
    if code == sqlite3.SQLITE_NOTADB:
        return UserError(f"{path} is no library: expected a file that vt-index made")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return UserError(
            f"{path} cannot be opened ({error}): choose a place where you may write, on a disk of "
            "this machine"
        )
    return damaged(path, str(error)) if code in DAMAGED else None


def sealed(data: bytes) -> bytes:
    """Bytes with their CRC-32 at the end: SQLite does not notice a changed bit."""
    return data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def unsealed(value: object) -> bytes:
    """What was sealed; b"" for anything else."""
    data = value[:-CHECKSUM_BYTES] if isinstance(value, bytes) else b""
    return data if sealed(data) == value else b""


def damaged(path: Path, what: str) -> UserError:
    """The error for a library that cannot be read as it was written."""
    return UserError(
        f"{path} is damaged ({what}); what can still be read is rescued by: "
        f"vt-index rescue {path} NEW"
    )
