"""Clip rows on disk: one memory-mapped Arrow IPC file per split, and the directory of them.

A data directory (made by ``vt-prepare``) has::

    data.json            {"format": 1, "corpus", "video_root" (absolute),
                          "video_root_signature" (module root_signatures), "settings",
                          "splits": {name: {"rows": n, "rejected": n}},
                          "published", "reasons", "notes", "warnings", ...}; written last
    <split>.arrow        the rows (class Manifest)
    spiece.model         the sentencepiece vocabulary
    labels.txt, verbs.txt, nouns.txt   the classes, one per line, sorted or as the corpus
                                       numbers them
    rejected.jsonl       the rows that were left out, with reasons
"""

import mmap
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from vt_fairseq.data.arrow_blocks import ArrowBlocks
from vt_fairseq.data.permutation import LazySequence
from vt_fairseq.data.root_signatures import is_signed
from vt_fairseq.errors import FOLLOW_LINKS, UserError
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.files.bounded_files import MAX_DOCUMENT, MAX_OBJECT, parse_json, read_file

FORMAT = 1
CLASS_KINDS = ("label", "verb", "noun")
ROWS_PER_BATCH = 1024
"""Rows of every record batch but the last; so a division tells in which batch a row is."""
MAX_ROW_BYTES = 1 << 20
"""Of a row's texts, so that the largest batch is far from Arrow's limit of 2 GiB per column."""
WHOLE_BATCH_BYTES = 1 << 26
"""Up to so many the values of a batch become Python's at once; above, row by row."""
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
"""A split names a file."""
TOUCHED_BATCHES = 256
"""After reading this many (40 MB of HowTo100M), a process unmaps the pages that it has read."""

_BATCH_KEY = b"vt_fairseq.rows_per_batch"
_TEXTS = pa.list_(pa.string())
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("video", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
        pa.field("captions", _TEXTS, nullable=False),
        pa.field("label", pa.string()),
        pa.field("verb", pa.string()),
        pa.field("noun", pa.string()),
        pa.field("question", pa.string()),
        pa.field("candidates", _TEXTS, nullable=False),
        pa.field("answer", pa.int32()),
        pa.field("context", pa.string()),
        pa.field("group", pa.string()),
    ],
    metadata={_BATCH_KEY: str(ROWS_PER_BATCH).encode()},
)
# What a row takes in a file at the least: 8 bytes per time, 4 per index, text or list.
_LEAST_ROW_BYTES = sum(8 if field.type == pa.float64() else 4 for field in _SCHEMA)


@dataclass(frozen=True)
class ClipRow:
    """One clip and everything that is known about it; what is not known is None or empty.

    Attributes:
        id: unique in its split.
        video: file or folder of frames, relative to the video root.
        start, end: seconds, half-open; None: the start and the end of the video.
        captions: the references.
        label, verb, noun: class names.
        question, candidates, answer: ``answer`` is an index into ``candidates``, from 0.
        context: subtitles or other text that goes with the clip.
        group: the long video that the clip is a part of.
    """

    id: str
    video: str
    start: float | None = None
    end: float | None = None
    captions: tuple[str, ...] = ()
    label: str | None = None
    verb: str | None = None
    noun: str | None = None
    question: str | None = None
    candidates: tuple[str, ...] = ()
    answer: int | None = None
    context: str | None = None
    group: str | None = None


def texts_of(row: ClipRow) -> list[str]:
    """The texts of a row that a model reads or writes."""
    single = (row.label, row.verb, row.noun, row.question, row.context)
    return [*row.captions, *row.candidates, *filter(None, single)]


def text_bytes(row: ClipRow) -> int:
    """About the bytes that the row's texts take in a manifest, at most MAX_ROW_BYTES.

    Raises UnicodeEncodeError for half a character.
    """
    single = (value for value in vars(row).values() if isinstance(value, str))
    return sum(len(text.encode()) + 8 for text in (*row.captions, *row.candidates, *single))


class ManifestWriter:
    """Writes rows to an Arrow stream, holding at most ROWS_PER_BATCH of them."""

    def __init__(self, file: IO[bytes]):
        self.rows = 0
        self._pending: list[ClipRow] = []
        self._writer = pa.ipc.new_file(file, _SCHEMA)

    def add(self, row: ClipRow) -> None:
        """Append one row; raise UserError where its texts are too long."""
        if (size := text_bytes(row)) > MAX_ROW_BYTES:
            raise UserError(
                f"row {row.id!r:.80} has {size:,} bytes of text, at most {MAX_ROW_BYTES:,} fit "
                "into a manifest"
            )
        self.rows += 1
        self._pending.append(row)
        if len(self._pending) == ROWS_PER_BATCH:
            self._flush()

    def close(self) -> None:
        """Write what is pending and the footer."""
        if self._pending:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        rows = list(map(vars, self._pending))
        self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
        self._pending = []


def write_manifest(path: str | Path, rows: Iterable[ClipRow]) -> int:
    """Write ``rows`` to ``path`` atomically and in bounded memory; return how many there were."""
    with atomic_file(path) as file:
        writer = ManifestWriter(file)
        for row in rows:
            writer.add(row)
        writer.close()
    return writer.rows


def join_manifests(path: str | Path, parts: Iterable[str | Path]) -> int:
    """Write the rows of all ``parts``, in their order, to ``path``; return how many there are.

    Atomically, in bounded memory, without reading the rows themselves.
    """
    rows = 0
    with atomic_file(path) as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        for batch in _rebatched(b for part in parts for b in Manifest(part).batches()):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _rebatched(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, ROWS_PER_BATCH in every batch but the last."""
    held = _SCHEMA.empty_table()
    for batch in batches:
        held = pa.concat_tables([held, pa.Table.from_batches([batch])])
        if held.num_rows >= ROWS_PER_BATCH:
            yield held.slice(0, ROWS_PER_BATCH).combine_chunks().to_batches()[0]
            held = held.slice(ROWS_PER_BATCH)
    if held.num_rows:
        yield held.combine_chunks().to_batches()[0]


class Manifest(LazySequence[ClipRow]):
    """The rows of one Arrow file, memory-mapped: memory does not grow with their number.

    A worker process, forked or spawned, opens the file for itself.
    """

    def __init__(self, path: str | Path):
        """Open ``path``; raise UserError when it is missing, damaged or no manifest."""
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"no manifest at {self.path}; make one with vt-prepare")
        self._open()

    def _open(self) -> None:
        self._pid, self._touched = os.getpid(), 0
        try:
            # One thread: a thread pool does not survive the fork of a data worker.
            options = pa.ipc.IpcReadOptions(use_threads=False)
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._reader = pa.ipc.open_file(pa.py_buffer(self._map), options=options)
            self._blocks = ArrowBlocks(self._map)
            schema, self._batches = self._reader.schema, self._reader.num_record_batches
            if not schema.equals(_SCHEMA) or _BATCH_KEY not in (schema.metadata or {}):
                raise UserError(
                    f"{self.path} is an Arrow file but not a manifest of this version; "
                    "make it again with vt-prepare"
                )
            self._rows_per_batch = int(schema.metadata[_BATCH_KEY])
            if self._rows_per_batch < 1:
                raise ValueError(f"{self._rows_per_batch} rows per batch")
            last = self._batch(self._batches - 1).num_rows if self._batches else 0
            self._length = max(self._batches - 1, 0) * self._rows_per_batch + last
            if self._length * _LEAST_ROW_BYTES > len(self._map):
                raise ValueError(f"{self._length:,} rows do not fit into {len(self._map):,} bytes")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} is damaged ({error}); make it again with vt-prepare")

    def _batch(self, index: int) -> pa.RecordBatch:
        """One batch, all of whose buffers are there; raise ValueError for one that is too large."""
        if self._pid != os.getpid():
            self._open()
        self._touched += 1
        if self._touched % TOUCHED_BATCHES == 0:
            # The file stays in the system's cache, but not in this process's memory.
            self._map.madvise(mmap.MADV_DONTNEED)
        self._blocks.check_uncompressed(index)
        batch = self._reader.get_batch(index)
        batch.validate()
        rows, expected, size = batch.num_rows, self._rows_per_batch, batch.nbytes
        if rows > expected or (rows < expected and index < self._batches - 1):
            raise ValueError(f"batch {index} has {rows:,} rows, expected {expected:,}")
        if size > 2 * ROWS_PER_BATCH * MAX_ROW_BYTES:
            raise ValueError(f"batch {index} has {size:,} bytes")
        return batch

    def __len__(self) -> int:
        return self._length

    def item(self, index: int) -> ClipRow:
        """Row ``index``, from 0; raise UserError when its bytes are damaged."""
        batch, row = divmod(index, self._rows_per_batch)
        try:
            one = self._batch(batch).slice(row, 1)
            # Damaged offsets would otherwise read foreign memory.
            one.validate(full=True)
            _check_row_size(one)
            return _clip_row(one.to_pylist()[0])
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def __iter__(self) -> Iterator[ClipRow]:
        columns = [self.column(name) for name in _SCHEMA.names]
        for values in zip(*columns, strict=True):
            yield _clip_row(dict(zip(_SCHEMA.names, values, strict=True)))

    def spread(self, most: int) -> Iterator[ClipRow]:
        """At most ``most`` rows, evenly spread over all of them."""
        step = -(-len(self) // most)
        return iter(self) if step <= 1 else (self[i] for i in range(0, len(self), step))

    def column(self, name: str) -> Iterator[Any]:
        """The values of one field of ClipRow over all rows, batch by batch; lists stay lists."""
        for batch in self.batches():
            column = batch.column(name)
            try:
                if column.nbytes <= WHOLE_BATCH_BYTES:
                    yield from column.to_pylist()
                    continue
                for row in range(len(column)):
                    one = column.slice(row, 1)
                    _check_row_size(one)
                    yield from one.to_pylist()
            except ValueError as error:
                raise self._damaged(error) from error

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows as Arrow has them; raise UserError when their bytes are damaged."""
        for index in range(-(-self._length // self._rows_per_batch)):
            try:
                batch = self._batch(index)
                batch.validate(full=True)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._damaged(error) from error
            yield batch

    def __getstate__(self) -> dict:
        return {"path": self.path}

    def __setstate__(self, state: dict) -> None:
        self.path = state["path"]
        self._open()


def _check_row_size(row: pa.RecordBatch | pa.Array) -> None:
    """Raise ValueError for one row that is larger than any that a writer takes."""
    if row.nbytes > 2 * MAX_ROW_BYTES:
        raise ValueError(f"a row has {row.nbytes:,} bytes, at most {MAX_ROW_BYTES:,} are written")


def _clip_row(values: dict) -> ClipRow:
    return ClipRow(
        **values
        | {"captions": tuple(values["captions"]), "candidates": tuple(values["candidates"])}
    )


class UnknownSplitError(UserError):
    """A data directory has no split of that name."""


class UnconfirmedRootError(UserError):
    """A data.json names a folder of videos, and nothing shows that the user wants it opened.

    Attributes:
        root: the folder.
    """

    def __init__(self, file: Path, root: Path):
        super().__init__(
            f"{file} names {root} as the folder of its videos, which vt-prepare has not written "
            "for this user on this machine"
        )
        self.root = root


@dataclass(frozen=True)
class DataDirectory:
    """A directory made by ``vt-prepare``.

    Attributes:
        path: the directory.
        corpus: name of the corpus it was made from.
        named_root: the folder of videos, absolute, that data.json or the user names.
        confirmed: whether it may be opened: the user named it, ``vt-prepare`` wrote it for this
            user, or it lies in the data directory itself.
        splits: name -> {"rows": n, "rejected": n}.
        settings: how it was made.
        follow_links: its files may be links out of it.
    """

    path: Path
    corpus: str
    named_root: Path
    confirmed: bool
    splits: dict[str, dict[str, int]]
    settings: dict[str, Any]
    follow_links: bool = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        video_root: str | Path | None = None,
        follow_links: bool = False,
    ) -> "DataDirectory":
        """Read ``path``/data.json; the user's ``video_root`` replaces the one that it names.

        Raise UserError when there is no directory, no data.json, or one that cannot be read.
        """
        path = Path(path)
        file = path / "data.json"
        if not file.is_file():
            what = "has no data.json" if path.is_dir() else "does not exist"
            raise UserError(f"data directory {path} {what}; make it with: vt-prepare")
        try:
            data = parse_json(read_file(file, MAX_OBJECT))
            if data["format"] != FORMAT:
                raise UserError(
                    f"{file} has format {data['format']}, expected {FORMAT}; "
                    "make it again with vt-prepare"
                )
            bad = [name for name in data["splits"] if not SPLIT_NAME.fullmatch(name)]
            if bad:
                raise ValueError(f"a split is named {bad[0]!r:.80}")
            root = Path(data["video_root"] if video_root is None else video_root).absolute()
            confirmed = (
                video_root is not None
                or is_signed(root, data.get("video_root_signature"))
                or Path(os.path.realpath(root)).is_relative_to(os.path.realpath(path))
            )
            splits, settings = dict(data["splits"]), dict(data["settings"])
            return cls(path, data["corpus"], root, confirmed, splits, settings, follow_links)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} is damaged ({error!r}); make it again with vt-prepare"
            ) from error

    @property
    def video_root(self) -> Path:
        """Absolute; the rows' ``video`` is relative to it.

        Raise UnconfirmedRootError for a folder that only somebody else's data.json names.
        """
        if not self.confirmed:
            raise UnconfirmedRootError(self.path / "data.json", self.named_root)
        return self.named_root

    def manifest(self, split: str) -> Manifest:
        """The rows of ``split``; raise UnknownSplitError naming the splits there are."""
        if split not in self.splits:
            known = ", ".join(sorted(self.splits))
            near = get_close_matches(split.lower(), [name.lower() for name in self.splits], 1)
            meant = [name for name in self.splits if [name.lower()] == near]
            hint = f" (did you mean {meant[0]!r}?)" if meant else ""
            raise UnknownSplitError(
                f"data directory {self.path} has no split {split!r}{hint}; it has: {known}"
            )
        return Manifest(self.file(f"{split}.arrow"))

    def file(self, name: str) -> Path:
        """The path of one of its files; raise UserError for a link that leads out of it.

        The lines of a file elsewhere would be taken for classes, and shown.
        """
        path = self.path / name
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.path))
        if not (inside or self.follow_links):
            raise UserError(f"{path} is a link that leads out of {self.path}; {FOLLOW_LINKS}")
        return path

    @property
    def tokenizer_path(self) -> Path:
        """The sentencepiece model, for ``Tokenizer.from_file``."""
        return self.file("spiece.model")

    def classes(self, kind: str) -> list[str]:
        """The class names in their order; ``kind`` is label, verb or noun; empty without any.

        Raise UserError when the file is missing or damaged.
        """
        file = self.file(f"{kind}s.txt")
        try:
            return [line for line in read_file(file, MAX_DOCUMENT).decode().split("\n") if line]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file} is damaged ({error}); make it again with vt-prepare"
            ) from error
