"""Segments of videos as a fixed number of RGB frames (paper, appendix A.1), decoded with PyAV.

Shapes: F frames, H W pixels. Times are float seconds from the start of the video stream, whatever
its first timestamp is; intervals are half-open.

Which frame is shown at time t: the last one whose presentation timestamp (pts) is <= t, as a
player does. Never ``index * fps``, which is wrong for variable frame rates.

Files are untrusted; ``containers`` says what is opened at all.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from vt_fairseq.errors import VideoError
from vt_fairseq.video.containers import duration_of, opened, scanned_duration
from vt_fairseq.video.frame_sampling import (
    TIME_EPSILON,
    FrameSampling,
    Plan,
    StartsAfterEndError,
    window_position,
)
from vt_fairseq.video.frame_skipping import decode_wanted
from vt_fairseq.video.images import Scaler, decode_image, image_files, reason
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

    Returns:
        (F, H, W, 3) uint8 RGB, upright.

    Raises:
        VideoError: the clip cannot be read; one line, without the path.
        UserError: ``window`` is none of the above.
    """
    position = window_position(window, rng)
    if window == "whole":
        sampling = replace(sampling, max_seconds=None)
    plan = Plan(sampling, start, end, position)
    read = _read_folder if os.path.isdir(path) else _read_file
    with _video_errors():
        return np.stack(within(MAX_CALL_SECONDS, read, os.fspath(path), plan, short_side))


def inside(root: Path, video: str) -> Path:
    """The file of a manifest's row below the video root.

    Raises:
        VideoError: the path, or a link on it, leads out of the root.
    """
    path = root / video
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise VideoError("outside of the video root: the manifest's path leads out of it")
    return path


def probe(path: str | os.PathLike[str]) -> float:
    """Seconds that the video or folder of frames lasts; its first frame is decoded as well.

    Raises:
        VideoError: it cannot be opened or has no frame that decodes.
    """
    with _video_errors():
        return within(MAX_CALL_SECONDS, _probe, os.fspath(path))


def _probe(path: str) -> float:
    if os.path.isdir(path):
        images = image_files(path)
        decode_image(images[0])
        return len(images) / FOLDER_FPS
    with opened(path) as (container, stream):
        try:
            frame = next(_decoded(stream, container.demux(stream)), None)
        except av.FFmpegError as error:
            raise VideoError(f"no frame can be decoded: {reason(error)}") from error
        if frame is None:
            raise VideoError("no frame can be decoded")
        return duration_of(path, container, stream)


def frames_of(path: str | os.PathLike[str], counted: bool = False) -> FrameSource:
    """Every frame of a file in order, as (seconds from the start, duration in seconds, frame).

    Args:
        counted: ignore timestamps, which are missing or wrong, and count frames at a constant rate.

    Raises:
        VideoError: the file cannot be opened, or has damage (after the frames before it).
        UnorderedError: timestamps are missing or go backwards; ``counted`` is the way out.
    """
    with _video_errors(), opened(os.fspath(path)) as (container, stream):
        yield from _from_start(container, stream, counted or _lacks_times(container, stream))


# --- files -----------------------------------------------------------------------------------


class _SeekTooLate(Exception):
    """The frames after a seek begin after the first wanted time."""


class UnorderedError(Exception):
    """Timestamps are missing or go backwards."""


class _Ended(Exception):
    """The stream ended, without an error, before the last wanted time; args: its end in s."""


def _read_file(path: str, plan: Plan, short_side: int | None) -> list[np.ndarray]:
    with opened(path) as (container, stream):
        duration = duration_of(path, container, stream)
        lacks_times = _lacks_times(container, stream)
        while True:
            try:
                times = plan.times(duration)
            except StartsAfterEndError:  # the header may be wrong
                times = plan.times(scanned_duration(path))
            try:
                if lacks_times:
                    return _take_from_start(path, times, short_side, counted=True)
                return _take(path, container, stream, times, short_side)
            except _Ended as ended:  # earlier than the times wanted, so the loop ends
                plan.times(duration := ended.args[0])


def _lacks_times(container: Any, stream: Any) -> bool:
    """AVI has no presentation times: with reordered frames FFmpeg's guesses are wrong."""
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def _take(
    path: str, container: Any, stream: Any, times: np.ndarray, short_side: int | None
) -> list[np.ndarray]:
    """Frames at ``times``: seek to the keyframe before the first, else decode all from the start.

    Containers seek by decoding time, which may end at a keyframe that is shown too late.
    """
    picked = decode_wanted(container, stream, times, Scaler(short_side))
    if picked is not None:
        return picked
    try:
        for back in SEEK_BACK:
            if times[0] - back <= 0:
                break
            try:
                source = _frames_after_seek(container, stream, times[0], back)
                return _pick(source, times, Scaler(short_side), from_start=False)
            except _SeekTooLate:
                continue
        return _take_from_start(path, times, short_side, counted=False)
    except UnorderedError:
        return _take_from_start(path, times, short_side, counted=True)


def _take_from_start(
    path: str, times: np.ndarray, short_side: int | None, counted: bool
) -> list[np.ndarray]:
    with opened(path) as (container, stream):
        frames = _from_start(container, stream, counted)
        return _pick(frames, times, Scaler(short_side), from_start=True)


def _from_start(container: Any, stream: Any, counted: bool) -> FrameSource:
    return (_counted if counted else _timed)(_decoded(stream, container.demux(stream)), stream)


def _frames_after_seek(container: Any, stream: Any, wanted: float, back: float) -> FrameSource:
    """Frames from the keyframe at or before ``wanted - back`` seconds on."""
    begin, tick = stream.start_time or 0, float(stream.time_base)
    container.seek(begin + math.floor((wanted - back) / tick), stream=stream)
    packets = container.demux(stream)
    key = next((packet for packet in packets if packet.is_keyframe), None)
    if key is None:
        raise _SeekTooLate
    if key.pts is None:
        raise UnorderedError
    if (key.pts - begin) * tick > wanted + TIME_EPSILON:
        raise _SeekTooLate
    # Frames shown before the keyframe lack what they were predicted from (open GOP); they are never
    # picked, because the keyframe itself is not later than the first wanted time.
    yield from _timed(_decoded(stream, chain([key], packets)), stream)


def _decoded(stream: Any, packets: Iterable[av.Packet]) -> Iterator[av.VideoFrame]:
    """Decoded frames in presentation order; after damage those still inside, then the error."""
    deadline = time.monotonic() + MAX_DECODING_SECONDS
    for packet in packets:
        if time.monotonic() > deadline:
            raise VideoError(f"decoding takes more than {MAX_DECODING_SECONDS:.0f} s")
        try:
            frames = stream.decode(packet)
        except av.FFmpegError:
            yield from stream.decode(None)
            raise
        yield from frames


def _timed(frames: Iterable[av.VideoFrame], stream: Any) -> FrameSource:
    """Frames with their timestamps; raises UnorderedError where these do not serve."""
    begin, tick = stream.start_time or 0, float(stream.time_base)
    usual = float(1 / stream.average_rate) if stream.average_rate else 0.0
    previous = -math.inf
    for frame in frames:
        if frame.pts is None or frame.pts < previous:
            raise UnorderedError
        previous = frame.pts
        yield (frame.pts - begin) * tick, (frame.duration or 0) * tick or usual, frame


def _counted(frames: Iterable[av.VideoFrame], stream: Any) -> FrameSource:
    """Frames without usable timestamps, at the stream's constant rate."""
    if not stream.average_rate:
        raise VideoError("has neither timestamps in order nor a frame rate")
    step = float(1 / stream.average_rate)
    for index, frame in enumerate(frames):
        yield index * step, step, frame


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
                raise _SeekTooLate
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
            raise _SeekTooLate
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


def _read_folder(path: str, plan: Plan, short_side: int | None) -> list[np.ndarray]:
    images = image_files(path)
    times = plan.times(len(images) / FOLDER_FPS)
    indices = np.floor((times + TIME_EPSILON) * FOLDER_FPS).astype(int).tolist()
    scaler = Scaler(short_side)
    arrays = {i: scaler(decode_image(images[i])) for i in dict.fromkeys(indices)}
    return [arrays[i] for i in indices]


# --- errors ----------------------------------------------------------------------------------


@contextmanager
def _video_errors() -> Iterator[None]:
    """Everything that bad media makes PyAV and the operating system raise, as VideoError."""
    try:
        yield
    except Unfinished:
        raise VideoError(
            f"its reading has not ended after {MAX_CALL_SECONDS:g} s, in one call of the decoder"
        ) from None
    except (av.FFmpegError, OSError, MemoryError, ValueError, OverflowError) as error:
        raise VideoError(f"cannot be decoded: {reason(error)}") from error
