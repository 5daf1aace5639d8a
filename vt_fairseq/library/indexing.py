"""Videos to the rows of a library: each segment is decoded once, and what was seen of it kept.

Videos are taken in groups of ``batch_size``, whose segments make batches among themselves. So a
batch, and with it the last digit of a score, is the same in whatever process or part of a library
its group comes, and after a run that was killed: a batch is written whole or not at all.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.data_workers import WatchedDataLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError
from vt_fairseq.files.atomic_files import RunLock
from vt_fairseq.library.segment_model import CAPTION, SegmentModel, chunks, to_bytes
from vt_fairseq.library.store import NewSegment, Store
from vt_fairseq.video.boundary import Boundary, inside
from vt_fairseq.video.decoding import probe
from vt_fairseq.video.images import image_files
from vt_fairseq.video.members import file_of, member_of
from vt_fairseq.video.names import similar_file

BLOCK = 1 << 20  # bytes that are hashed at once
Part = tuple[float | None, float | None, str]  # start, end, context


@dataclass(frozen=True)
class Video:
    """A video to be indexed.

    Attributes:
        path: file or folder of frames; relative to ``root`` where there is one.
        root: folder that the path and its links may not lead out of; None for a path that the user
            named, which may be anywhere.
        parts: its segments, of a manifest; None: they are made from its duration.
    """

    path: str
    root: Path | None = None
    parts: tuple[Part, ...] | None = None


# (absolute path, duration in seconds) -> start and end of each segment; may raise VideoError
Cut = Callable[[str, float], Sequence[tuple[float | None, float | None]]]


def whole(path: str, duration: float) -> list[tuple[float | None, float | None]]:
    """The video as one segment."""
    return [(None, None)]


@dataclass(frozen=True)
class FileState:
    """Size and time of change of a video: of a folder of frames the sum and the latest."""

    size: int
    modified: int


@dataclass(frozen=True)
class Request:
    """A segment to be decoded: row of a loader, and where its results belong."""

    file: int
    part: Part
    row: ClipRow
    root: Path | None
    path: str
    state: FileState


@dataclass
class Counts:
    """What a run has done.

    Attributes:
        files: videos that were looked at.
        added: segments that are new in the library.
        known: segments that it had.
        failures: (video, reason) of what could not be read.
    """

    files: int = 0
    added: int = 0
    known: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """How videos are indexed.

    Attributes:
        cut: a video's segments.
        batch_size: segments at once, and videos per group.
        num_workers: processes that decode.
        shard: which of how many parts of the groups, from 0.
        retry: try again what could not be read before.
        follow_links: links may lead anywhere.
        link_suggestion: how a user allows links, for messages.
        on_error: called with video and reason of each segment that could not be read.
        on_progress: called with the number of videos that were looked at, in between.
        on_batch: called when a batch is written: others may use the model there. What it raises
            ends the run, and the next one goes on.
    """

    cut: Cut = whole
    batch_size: int = 8
    num_workers: int = 0
    shard: tuple[int, int] = (0, 1)
    retry: bool = False
    follow_links: bool = False
    link_suggestion: str = ""
    on_error: Callable[[str, str], None] = lambda video, reason: None
    on_progress: Callable[[int], None] = lambda files: None
    on_batch: Callable[[], None] = lambda: None


class Indexer:
    """One run over videos."""

    def __init__(self, store: Store, model: SegmentModel, loader: ClipLoader, options: Options):
        self.store, self.model, self.options = store, model, options
        self.loader = replace(loader, follow_links=options.follow_links)
        self.counts = Counts()
        self._number = 0

    def run(self, videos: Sequence[Video]) -> Counts:
        """Index what is new or changed; see ``Counts``."""
        about = {"videos": len(videos), "shard": self.options.shard}
        self._number = self.store.begin_run(json.dumps(about, allow_nan=False))
        batches = WatchedDataLoader(
            Decoded(self.loader),
            batch_sampler=self._batches(videos),
            collate_fn=list,
            num_workers=self.options.num_workers,
            pin_memory=False,
        )
        for batch in batches:
            self._write(batch)
            self.options.on_batch()
        self.store.end_run(self._number)
        return self.counts

    # which

    def _batches(self, videos: Sequence[Video]) -> Iterator[list[Request]]:
        """Segments that are not in the library yet; a video that is named twice counts once."""
        videos = list({(os.path.abspath(v.path), v.root, v.parts): v for v in videos}.values())
        size = self.options.batch_size
        index, count = self.options.shard
        for number, group in enumerate(chunks(iter(videos), size)):
            if number % count != index:
                continue
            wanted = (request for video in group for request in self._requests(video))
            for batch in chunks(wanted, size):
                if new := [request for request in batch if request is not None]:
                    yield new
            self.counts.files += len(group)
            self.options.on_progress(len(group))

    def _requests(self, video: Video) -> Iterator[Request | None]:
        """The video's segments in their order; None for one that the library has."""
        root = video.root
        path = os.path.abspath(video.path if root is None else os.path.join(root, video.path))
        try:
            if root is not None:
                path = str(inside(root, video.path))
            boundary = self._boundary(path, root)
            state = file_state(path)
        except (VideoError, OSError) as error:
            beside = None if os.path.lexists(file_of(path)) else similar_file(path)
            self._fail(path, f"{_reason(error)}{f', but {beside}' if beside else ''}")
            return
        try:
            file, duration, known = self._file(path, state, boundary)
            if duration is None:
                return
            parts = video.parts
            if parts is None:
                parts = tuple((a, b, "") for a, b in self.options.cut(path, duration))
        except (VideoError, OSError) as error:
            self._fail(path, _reason(error))
            return
        for part in parts:
            if part in known:
                self.counts.known += 1
                yield None
                continue
            start, end, context = part
            row = ClipRow("", path if root is None else video.path, start, end)
            yield Request(file, (start, end, context), row, root, path, state)

    def _boundary(self, path: str, root: Path | None) -> Boundary | None:
        """What links may not lead out of; raises VideoError where the path itself does."""
        if self.options.follow_links:
            return None
        boundary = Boundary(Path(path) if root is None else root, self.options.link_suggestion)
        boundary.check(path)
        return boundary

    def _file(
        self, path: str, state: FileState, boundary: Boundary | None
    ) -> tuple[int, float | None, set[Part]]:
        """Number, duration and known segments of a video, which is put into the library if new.

        The duration is None where it cannot be opened, which is written down.
        """
        known = self.store.file(path)
        if known is not None and (known.size, known.modified) != (state.size, state.modified):
            sha256 = content_hash(path, boundary)
            with self.store.transaction():
                if sha256 == known.sha256:
                    self.store.add_file(path, state.size, state.modified, sha256, known.duration)
                else:
                    self.store.remove_file(known.id)
            known = known if sha256 == known.sha256 else None
        if known is not None and self.options.retry:
            with self.store.transaction():
                self.store.remove_failures(known.id)
        if known is not None and (known.duration is not None or not self.options.retry):
            return known.id, known.duration, set(self.store.keys(known.id))
        return self._new_file(path, state, boundary)

    def _new_file(
        self, path: str, state: FileState, boundary: Boundary | None
    ) -> tuple[int, float | None, set[Part]]:
        sha256 = content_hash(path, boundary)
        duration, error = None, None
        try:
            duration = probe(path, boundary)
        except VideoError as reason:
            error = str(reason)
        with self.store.transaction():
            file = self.store.add_file(path, state.size, state.modified, sha256, duration)
            if error is not None:
                one = NewSegment(file, None, None, "", error=error)
                self.store.add_segments(self._number, [one])
        if error is not None:
            self._fail(path, error)
        return file, duration, set()

    def _fail(self, video: str, reason: str) -> None:
        self.counts.failures.append((video, reason))
        self.options.on_error(video, reason)

    # what

    def _write(self, batch: list[tuple[Request, np.ndarray | str]]) -> None:
        """Write the results of one batch, whole or not at all."""
        batch = [one for one in batch if self._is_unchanged(one[0])]
        read = [(request, frames) for request, frames in batch if not isinstance(frames, str)]
        segments = [
            NewSegment(request.file, *request.part, error=reason)
            for request, reason in batch
            if isinstance(reason, str)
        ]
        if read:
            segments += self._seen([one for one, _ in read], np.stack([f for _, f in read]))
        with self.store.transaction():
            self.counts.added += self.store.add_segments(self._number, segments)
        for request, reason in batch:
            if isinstance(reason, str):
                self._fail(named(request.path, *request.part[:2]), reason)

    def _seen(self, requests: Sequence[Request], frames: np.ndarray) -> Iterator[NewSegment]:
        """What the model says of B segments, (B, F, H, W, 3) uint8."""
        prompt = self.model.prompt(CAPTION)
        tokens = self.model.video_tokens(torch.from_numpy(frames))
        contexts = [request.part[2] for request in requests]
        inputs = self.model.inputs(tokens, prompt, contexts)
        encoded = self.model.encode(inputs)
        states = encoded["encoder_out"][0].transpose(0, 1)
        lengths = (~encoded["encoder_padding_mask"][0]).sum(1).tolist()
        texts = self.model.texts(inputs, prompt, encoded)
        for k, (request, (caption, score)) in enumerate(zip(requests, texts, strict=True)):
            yield NewSegment(
                request.file,
                *request.part,
                caption=caption,
                score=score,
                video=to_bytes(tokens[k]),
                encoded=to_bytes(states[k, : lengths[k]]),
            )

    def _is_unchanged(self, request: Request) -> bool:
        """Whether the file is still the one that was hashed; else it is named."""
        try:
            if file_state(request.path) == request.state:
                return True
            reason = "it changed while it was indexed: index it again"
        except (VideoError, OSError) as error:
            reason = _reason(error)
        self._fail(named(request.path, *request.part[:2]), reason)
        return False


@dataclass(frozen=True)
class Decoded(Dataset):
    """A request and its frames (F, H, W, 3) uint8, or the reason why there are none."""

    loader: ClipLoader

    def __getitem__(self, request: Request) -> tuple[Request, np.ndarray | str]:
        try:
            return request, replace(self.loader, video_root=request.root)(request.row, None)
        except VideoError as error:
            return request, str(error)


@contextlib.contextmanager
def held(library: str | os.PathLike[str]) -> Iterator[None]:
    """One run at a time writes to a library; raise UserError naming the one that does."""
    path = Path(os.path.abspath(library))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = RunLock(
        path.with_name(f".{path.name}.lock"),
        *(Path(library), "wait for it; with --shard many write at once"),
    )
    try:
        yield
    finally:
        lock.release()


def named(path: str, start: float | None, end: float | None) -> str:
    """What messages call a segment."""
    if start is None and end is None:
        return path
    return f"{path} [{start or 0:g} s - {'end' if end is None else f'{end:g} s'}]"


def file_state(path: str) -> FileState:
    """Of a video file or a folder of frames; raise OSError where there is none."""
    status, member = os.stat(file_of(path)), member_of(path)
    if member:
        return FileState(member.length, status.st_mtime_ns)
    if not stat.S_ISDIR(status.st_mode):
        return FileState(status.st_size, status.st_mtime_ns)
    frames = [os.stat(frame) for frame in image_files(path)]
    return FileState(
        sum(one.st_size for one in frames),
        max(status.st_mtime_ns, *(one.st_mtime_ns for one in frames)),
    )


def content_hash(path: str, boundary: Boundary | None) -> bytes:
    """SHA-256 of a file, or of the names and contents of a folder's frames.

    Raises VideoError where one is no regular file or leads out of the boundary.
    """
    digest = hashlib.sha256()
    is_folder = os.path.isdir(path)
    for file in image_files(path) if is_folder else [Path(path)]:
        if boundary is not None:
            boundary.check(file)
        if not stat.S_ISREG(os.stat(file_of(file)).st_mode):
            raise VideoError("not a regular file")
        if is_folder:
            digest.update(os.fsencode(file.name) + b"\0")
        member = member_of(file)
        with open(file_of(file), "rb") as opened:
            opened.seek(member.offset if member else 0)
            left = member.length if member else os.path.getsize(file)
            while block := opened.read(min(BLOCK, left)):
                digest.update(block)
                left -= len(block)
    return digest.digest()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
