"""Segments of videos as a fixed number of RGB frames (paper, appendix A.1), decoded with PyAV.

Shapes: F frames, H W pixels. Times are float seconds from the start of the file, which
``timeline`` defines; intervals are half-open.

Which frame is shown at time t: the last one whose presentation timestamp (pts) is <= t, as a
player does; before the first one, that one. Never ``index * fps``, which is wrong for variable
frame rates. Interlaced frames are shown as they are stored, both fields at once: where they are
scaled down, their lines blend.

Files are untrusted; ``containers`` says what is opened at all.
"""

import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, dropwhile, islice
from typing import Any

import av
import numpy as np

from vt_fairseq.errors import VideoError, is_lack_of_files, too_many_files
from vt_fairseq.video.boundary import Boundary
from vt_fairseq.video.containers import opened
from vt_fairseq.video.frame_sampling import (
    TIME_EPSILON,
    FrameSampling,
    Plan,
    plan_of,
)
from vt_fairseq.video.frame_skipping import decode_wanted
from vt_fairseq.video.images import Scaler, decode_image, image_files, reason
from vt_fairseq.video.timeline import Packets, Timeline
from vt_fairseq.video.timeouts import Unfinished, within

FOLDER_FPS = 3.0  # TVQA and TVC come as frames at this rate
# A file that takes longer is given up: some are made, or broken, so that decoding does not end.
MAX_DECODING_SECONDS = 120.0
# Longer than that: it ends calls in which FFmpeg itself does not return, so that nothing else can.
MAX_CALL_SECONDS = 150.0
# Seconds to seek back where the frames after a seek begin too late; then the file is decoded from
# its start.
SEEK_BACK = (0.0, 2.0, 10.0)

FrameSource = Iterator[tuple[float, float, av.VideoFrame]]  # (pts in s, duration in s, frame)


def read_clip(
    path: str | os.PathLike[str],
    sampling: FrameSampling,
    *,
    start: float | None = None,
    end: float | None = None,
    window: str = "center",
    rng: np.random.Generator | None = None,
    short_side: int | None = 128,
    boundary: Boundary | None = None,
) -> np.ndarray:
    """Frames of the segment [start, end) of a video, or of a folder of jpg or png frames.

    Frames repeat where the window has fewer than F. An ``end`` past the video's end is moved to
    it. A file that was cut off where FFmpeg sees no error is a shorter video. A damaged file can be
    read up to its damage. A folder's frames, sorted naturally, last 1/3 s each: sampled at 6 or
    more frames per second, each is used twice or more, as in the paper.

    Args:
        path: local file or folder.
        start, end: seconds; None: the start and the end of the video.
        window: which part of a segment longer than the sampling's window: "random" (needs
            ``rng``), "center", "whole" (not cut), or "K/N": the K-th, from 1, of N uniformly
            spaced windows.
        short_side: the short side in pixels that frames are scaled to, up or down, bilinearly and
            keeping the ratio of the stored pixels' sides; None: as stored.
        boundary: what links, also those among a folder's frames, may not lead out of; None: links
            may lead anywhere.

    Returns:
        (F, H, W, 3) uint8 RGB, upright.

    Raises:
        VideoError: the clip cannot be read; one line, without the path.
        RunFailure: too many files are open to open one more.
        UserError: ``window`` is none of the above.
    """
    plan = plan_of(sampling, window, start, end, rng)
    if boundary is not None:
        boundary.check(path)
    read = partial(_read_folder, boundary) if os.path.isdir(path) else _read_file
    with _video_errors():
        return np.stack(within(MAX_CALL_SECONDS, read, os.fspath(path), plan, short_side))


def probe(path: str | os.PathLike[str], boundary: Boundary | None = None) -> float:
    """Seconds that the video or folder of frames lasts; its first frame is decoded as well.

    Args:
        boundary: what links may not lead out of; None: links may lead anywhere.

    Raises:
        VideoError: it cannot be opened or has no frame that decodes.
    """
    if boundary is not None:
        boundary.check(path)
    with _video_errors():
        return within(MAX_CALL_SECONDS, _probe, os.fspath(path), boundary)


def _probe(path: str, boundary: Boundary | None) -> float:
    if os.path.isdir(path):
        images = image_files(path)
        decode_image(images[0], boundary)
        return len(images) / FOLDER_FPS
    with opened(path) as (container, stream):
        try:
            frame = next(_decoded(stream, Packets(container, stream)), None)
        except av.FFmpegError as error:
            raise VideoError(f"no frame can be decoded: {reason(error)}") from error
        if frame is None:
            raise VideoError("no frame can be decoded")
        return Timeline(path, container, stream).find_end()


def frames_of(path: str | os.PathLike[str]) -> FrameSource:
    """Every frame of a file that is shown, as (seconds from its start, duration in seconds, frame).

    Times ascend from 0, by more than TIME_EPSILON. Each frame lasts until the next one.

    Raises:
        VideoError: the file cannot be opened, or has damage (after the frames before it).
    """
    with _video_errors(), opened(os.fspath(path)) as (container, stream):
        line = Timeline(os.fspath(path), container, stream)
        held, begin, end = None, 0.0, 0.0
        for seconds, duration, frame in _timed(line, stream, Packets(container, stream)):
            if held is not None and seconds - begin > TIME_EPSILON:
                yield begin, seconds - begin, held
                begin = seconds
            held, end = frame, max(begin, seconds) + duration
        if held is not None:
            yield begin, end - begin, held


# --- files -----------------------------------------------------------------------------------


class _StartsTooLate(Exception):
    """The frames from some keyframe on begin after the first wanted time."""


class _Ended(Exception):
    """The stream ended, without an error, before the last wanted time; args: its end in s."""


def _read_file(path: str, plan: Plan, short_side: int | None) -> list[np.ndarray]:
    with opened(path) as (container, stream):
        line = Timeline(path, container, stream)
        duration = line.header_end
        # A header that promises too little is found out where it matters.
        if plan.end is None or max(plan.start or 0.0, plan.end) > duration:
            duration = line.find_end()
        while True:
            times = plan.times(duration)
            try:
                return _take(path, container, stream, line, times, short_side)
            except _Ended as ended:  # earlier than the times wanted, so the loop ends
                duration = ended.args[0]


def _take(
    path: str,
    container: Any,
    stream: Any,
    line: Timeline,
    times: np.ndarray,
    short_side: int | None,
) -> list[np.ndarray]:
    """Frames at ``times``: from a keyframe before the first, else decoding all from the start.

    Containers seek by decoding time, which may end at a keyframe that is shown too late.
    """
    if line.seekable:
        picked = decode_wanted(container, stream, line, times, Scaler(short_side))
        if picked is not None:
            return picked
    for back in SEEK_BACK:
        if times[0] - back <= 0 or line.from_first:
            break
        try:
            with _packets_from_keyframe(path, container, stream, line, times[0], back) as source:
                frames = _without_half(_timed(line, *source))
                return _pick(frames, times, Scaler(short_side), from_start=False)
        except _StartsTooLate:
            continue
    with opened(path) as (container, stream):
        frames = _timed(line, stream, Packets(container, stream))
        return _pick(frames, times, Scaler(short_side), from_start=True)


@contextmanager
def _packets_from_keyframe(
    path: str, container: Any, stream: Any, line: Timeline, wanted: float, back: float
) -> Iterator[tuple[Any, Iterator[av.Packet]]]:
    """(stream, packets) from the keyframe at or before ``wanted - back`` seconds on.

    Frames shown before the keyframe lack what they were predicted from (open GOP); they are never
    picked, because the keyframe itself is not later than the first wanted time.
    """
    if line.seekable:
        packets = iter(Packets(container, stream))
        try:
            container.seek(line.stamp(wanted - back), stream=stream)
            key = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
        except av.FFmpegError:
            raise _StartsTooLate from None
        if key is None or key.pts is None or not line.knows_keyframe(key.pts):
            raise _StartsTooLate
        if line.seconds(key.pts) > wanted + TIME_EPSILON:
            raise _StartsTooLate
        yield stream, chain([key], packets)
        return
    number = line.keyframe_before(wanted - back)
    if number is None:
        raise _StartsTooLate
    with opened(path) as (container, stream):
        yield stream, islice(Packets(container, stream), number, None)


def _without_half(frames: FrameSource) -> FrameSource:
    """The frames, without an interlaced first one: the keyframe may be its second field."""
    for number, (seconds, duration, frame) in enumerate(frames):
        if number or not frame.interlaced_frame:
            yield seconds, duration, frame


def _decoded(stream: Any, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """Decoded frames in presentation order; after damage those still inside, then the error.

    The last packet is no damage: it ends where the file was cut off. Nor is one of which the
    container says that something is lost.
    """
    deadline = time.monotonic() + MAX_DECODING_SECONDS
    failure, count = None, 0
    for packet in packets:
        if time.monotonic() > deadline:
            raise VideoError(f"decoding takes more than {MAX_DECODING_SECONDS:.0f} s")
        if packet.size == 0:  # the frame before stands still; the decoder takes it for the end
            continue
        if failure is not None:
            yield from stream.decode(None)
            raise failure
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            frames, failure = [], None if packet.is_corrupt else error
        count += len(frames)
        yield from frames
    last = stream.decode(None)
    if failure is not None and not count and not last:
        raise failure
    yield from last


def _timed(line: Timeline, stream: Any, packets: Iterable[av.Packet]) -> FrameSource:
    """Decoded frames with their times, which never go back; the last until the last packet's end.

    The last may come twice. Frames without a time come when the one before ends, or, before the
    first time, infinitely early.
    """
    frame, previous, due = None, -math.inf, -math.inf
    last = (0.0, 0.0)  # when what is shown last begins and ends

    def noted() -> Iterator[av.Packet]:
        nonlocal last
        for packet in packets:
            last = max(last, line.span_of(packet)) if line.timed else last
            yield packet

    source = noted()
    frames = _counted(line, stream, source) if line.counted else _decoded(stream, source)
    for frame in frames:
        seconds = due if frame.pts is None else line.seconds(frame.pts)
        previous = max(previous, seconds)
        duration = (frame.duration or 0) * line.tick or line.step
        due = previous + duration
        yield previous, duration, frame
    if frame is not None and previous == -math.inf:
        raise VideoError("no frame has a timestamp")
    if frame is not None and last[1] > due:
        yield previous, last[1] - previous, frame


def _counted(line: Timeline, stream: Any, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """Frames in the order in which they are shown, with the times of packets in file order.

    Where these have none, at the stream's rate from the first keyframe on.
    """
    if not line.timed:
        if not line.step:
            raise VideoError("has neither timestamps nor a frame rate")
        packets = dropwhile(lambda packet: not packet.is_keyframe, packets)
    stamps: deque[int] = deque()
    for index, frame in enumerate(_decoded(stream, _noting(packets, stamps))):
        if not line.timed:
            frame.pts = round(index * line.step / line.tick)
        elif stamps:
            frame.pts = stamps.popleft()
        yield frame


def _noting(packets: Iterable[av.Packet], stamps: deque[int]) -> Iterator[av.Packet]:
    for packet in packets:
        if packet.size and packet.dts is not None:
            stamps.append(packet.dts)
        yield packet


def _pick(
    frames: FrameSource, times: np.ndarray, scaler: Scaler, from_start: bool
) -> list[np.ndarray]:
    """The last frame with pts <= t for each of the ascending ``times``, scaled."""
    picked: list[np.ndarray] = []
    held, held_end = None, 0.0
    failure = None
    try:
        for seconds, duration, frame in frames:
            if held is None and not from_start and seconds > times[0] + TIME_EPSILON:
                raise _StartsTooLate
            due = np.searchsorted(times, seconds - TIME_EPSILON) - len(picked)
            if due > 0:
                picked += [scaler(frame if held is None else held)] * due
            held, held_end = frame, seconds + duration
            if len(picked) == len(times):
                return picked
    except av.FFmpegError as error:
        failure = error
    if held is None:
        if not from_start:
            raise _StartsTooLate
        raise VideoError(f"no frame can be decoded{f': {reason(failure)}' if failure else ''}")
    if times[-1] > held_end + TIME_EPSILON:
        if failure is None:
            raise _Ended(held_end)
        raise VideoError(
            f"damaged at {held_end:.3f} s, frames up to {times[-1]:.3f} s are wanted: "
            f"{reason(failure)}"
        )
    return picked + [scaler(held)] * (len(times) - len(picked))


# --- folders of frames -----------------------------------------------------------------------


def _read_folder(
    boundary: Boundary | None, path: str, plan: Plan, short_side: int | None
) -> list[np.ndarray]:
    images = image_files(path)
    times = plan.times(len(images) / FOLDER_FPS)
    indices = np.floor((times + TIME_EPSILON) * FOLDER_FPS).astype(int).tolist()
    scaler = Scaler(short_side)
    arrays = {i: scaler(decode_image(images[i], boundary)) for i in dict.fromkeys(indices)}
    return [arrays[i] for i in indices]


# --- errors ----------------------------------------------------------------------------------


@contextmanager
def _video_errors() -> Iterator[None]:
    """Everything that bad media makes PyAV and the operating system raise, as VideoError.

    Too many open files are no fault of a video: RunFailure.
    """
    try:
        yield
    except VideoError as error:
        if is_lack_of_files(error.__cause__):
            raise too_many_files() from error
        raise
    except Unfinished:
        raise VideoError(
            f"its reading has not ended after {MAX_CALL_SECONDS:g} s, in one call of the decoder"
        ) from None
    except (av.FFmpegError, OSError, MemoryError, ValueError, OverflowError) as error:
        if is_lack_of_files(error):
            raise too_many_files() from error
        raise VideoError(f"cannot be decoded: {reason(error)}") from error
