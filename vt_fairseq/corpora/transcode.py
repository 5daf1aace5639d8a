"""Copies of videos at the size that training sees, which load many times faster.

The copy is upright H.264 with a keyframe every GOP_SECONDS, and shows the same frame at the same
time as the original, whatever the original's timestamps were. A folder of frames becomes a folder
of smaller jpgs. Copies appear whole or not at all; one that is there, of the size that is asked for
and newer than its original is kept, so an interrupted run goes on.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from vt_fairseq.corpora.rows import COPY_SUFFIX
from vt_fairseq.errors import UserError, VideoError, from_system, of_machine
from vt_fairseq.files.atomic_files import partial_folder
from vt_fairseq.video.boundary import Boundary
from vt_fairseq.video.containers import FORMATS, local_url, opened
from vt_fairseq.video.decoding import FrameSource, frames_of, probe
from vt_fairseq.video.images import Scaler, decode_image, encode_jpeg, image_files, reason
from vt_fairseq.video.members import file_of

GOP_SECONDS = 1.0
JPEG_QUALITY = 2  # FFmpeg's best
CLOCK = 90_000  # ticks per second of the copies, as in MPEG: exact for every usual frame rate
# To be read often: without CABAC and deblocking (fastdecode) they are cheaper to decode.
# No B-frames: the file's duration is then exact at any frame rate. One thread, since many videos
# are copied at a time.
ENCODER = {
    **{"preset": "veryfast", "tune": "fastdecode", "crf": "21", "bf": "0", "threads": "1"},
    **{"g": "999", "sc_threshold": "0", "forced-idr": "1"},  # keyframes where we say
}


def transcode(
    source: Path, target: Path, short_side: int, boundary: Boundary | None = None
) -> float:
    """Write ``target``, the copy of the video or the folder of frames at ``source``.

    Args:
        short_side: pixels; a smaller video keeps its size.
        boundary: what links, of frames too, may not lead out of; None: links may lead anywhere.

    Returns the copy's duration in seconds. Raises VideoError when the original cannot be decoded
    to its end, or the copy does not have the frames that were put into it, RunFailure when there is
    no room for the copy, and UserError when it may not be written.
    """
    if boundary is not None:
        boundary.check(source)
    if not _is_kept(source, target, short_side, boundary):
        with _errors(source, target):
            _make(source, target, short_side, boundary)
    return probe(target)


def _is_kept(source: Path, target: Path, short_side: int, boundary: Boundary | None) -> bool:
    """Whether the copy that is there is newer than the original, and of the size asked for."""
    if not target.exists() or target.stat().st_mtime < os.stat(file_of(source)).st_mtime:
        return False
    try:
        found = _short_side(target)
        # The original is asked only where the copy has another size, which a small one's has.
        return found == _even(short_side) or found == _even(
            min(short_side, _short_side(source, boundary))
        )
    except (VideoError, av.FFmpegError, OSError):
        return False


def _even(pixels: int) -> int:
    return pixels + pixels % 2


def _short_side(path: Path, boundary: Boundary | None = None) -> int:
    """Pixels, as the header or the first frame of a folder has them."""
    if path.is_dir():
        frame = decode_image(image_files(os.fspath(path))[0], boundary)
        return min(frame.width, frame.height)
    with opened(os.fspath(path)) as (_, stream):
        return min(stream.width, stream.height)


def _make(source: Path, target: Path, short_side: int, boundary: Boundary | None) -> None:
    with partial_folder(target) as folder:
        partial = folder / f"copy{COPY_SUFFIX}"
        if source.is_dir():
            _copy_folder(source, partial, short_side, boundary)
        else:
            _copy_file(source, partial, short_side)
        if target.is_dir():
            shutil.rmtree(target)  # of an original that has changed
        os.replace(partial, target)


@contextmanager
def _errors(source: Path, target: Path) -> Iterator[None]:
    """What goes wrong with the original as VideoError, what with the copies' disk as UserError."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, av.FFmpegError):
            of_video = not of_machine(error)
        else:
            name = error.filename
            of_video = name is not None and Path(os.fsdecode(name)).is_relative_to(source)
        if of_video:
            raise VideoError(f"cannot be copied: {reason(error)}") from error
        what = f"no copy can be written to {target}"
        failure = from_system(OSError(error.errno, ""), what)
        raise failure or UserError(f"{what}: {reason(error)}") from error


def _copy_file(source: Path, target: Path, short_side: int) -> None:
    written = _encode(frames_of(source), target, short_side)
    if (actual := _count(target)) != written:
        raise VideoError(f"the copy has {actual} frames, {written} were written")
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def _encode(frames: FrameSource, target: Path, short_side: int) -> int:
    """Write ``frames``; return their number."""
    durations: dict[int, int] = {}  # ticks by timestamp; the encoder does not pass them on
    keyframe_due = 0.0
    with av.open(local_url(target), "w") as container:
        stream = container.add_stream("libx264", rate=CLOCK, options=ENCODER)
        stream.codec_context.time_base = Fraction(1, CLOCK)
        scaler: Scaler | None = None
        for seconds, duration, frame in frames:
            if scaler is None:
                scaler = Scaler(min(short_side, frame.width, frame.height))
            picture = _padded(scaler(frame))
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if not durations:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            made.time_base = Fraction(1, CLOCK)
            made.pts = round(seconds * CLOCK)
            durations[made.pts] = round(duration * CLOCK)
            if seconds >= keyframe_due:
                made.pict_type = av.video.frame.PictureType.I
                keyframe_due = seconds + GOP_SECONDS
            _mux(container, stream.encode(made), durations)
        if not durations:
            raise VideoError("no frame can be decoded")
        _mux(container, stream.encode(None), durations)
    return len(durations)


def _mux(container: Any, packets: Iterable[av.Packet], durations: dict[int, int]) -> None:
    for packet in packets:
        if packet.pts is not None:
            packet.duration = durations[packet.pts]
        container.mux(packet)


def _padded(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) with the last row and column repeated where 4:2:0 needs an even number."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _count(path: Path) -> int:
    with av.open(local_url(path), options={"format_whitelist": FORMATS}) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _copy_folder(source: Path, target: Path, short_side: int, boundary: Boundary | None) -> None:
    target.mkdir()
    images = image_files(os.fspath(source))
    width = len(str(len(images)))
    for number, image in enumerate(images):
        frame = decode_image(image, boundary)
        picture = _padded(Scaler(min(short_side, frame.width, frame.height))(frame))
        (target / f"{number:0{width}}.jpg").write_bytes(encode_jpeg(picture, JPEG_QUALITY))
