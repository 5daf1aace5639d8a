"""Which files are opened as videos.

Files are untrusted: only an existing regular file is opened, as one of the container formats in
FORMATS, over FFmpeg's file protocol; frames above MAX_PIXELS and videos above MAX_HOURS are refused
before a frame of them is held in memory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import av
from av.video.codeccontext import VideoCodecContext

from vt_fairseq.errors import VideoError
from vt_fairseq.video.images import MAX_PIXELS, check_size, reason

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".flv", ".wmv", ".asf", ".3gp", ".3g2", ".mj2"),
)
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
# Longer ones are a header's lie, or made to keep whoever reads their packets busy.
MAX_HOURS = 8.0


def check_length(seconds: float) -> None:
    """Raise VideoError where a video lasts longer than MAX_HOURS."""
    if seconds > MAX_HOURS * 3600:
        raise VideoError(f"lasts {seconds / 3600:.1f} hours, at most {MAX_HOURS:g} are read")


@contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of a local file, closed afterwards: PyAV leaks open ones."""
    if not os.path.isfile(path):
        raise VideoError("not a regular local file" if os.path.exists(path) else "no such file")
    if os.path.getsize(path) == 0:
        raise VideoError("the file is empty (0 bytes)")
    # The prefix keeps FFmpeg from reading a protocol into a file's name ("concat:a").
    url = f"file:{os.path.abspath(path)}"
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    # While the header is read a frame is decoded, too: 310 MB of 16384 x 8192 pixels without this.
    options["max_pixels"] = str(MAX_PIXELS)
    try:
        container = av.open(url, metadata_errors="replace", options=options)
    except av.FFmpegError as error:
        raise VideoError(f"not a video file of a known format: {reason(error)}") from error
    with container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise VideoError(f"has no video stream, found {kinds}")
        codec = cast(VideoCodecContext | None, stream.codec_context)
        if codec is None:
            raise VideoError("has a video stream of a codec that FFmpeg does not know")
        if not codec.width * codec.height:
            raise VideoError(f"frames of unknown size, or of more than {MAX_PIXELS} pixels")
        check_size(codec.width, codec.height)
        # One thread: the loader's workers are the parallelism; frame threads cost 5-25 % more CPU.
        codec.thread_count, codec.thread_type = 1, "NONE"
        codec.options = {"max_pixels": str(MAX_PIXELS)}  # av.open's options do not reach it
        yield container, stream
