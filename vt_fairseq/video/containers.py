"""Which files are opened as videos.

Files are untrusted: only an existing regular file is opened, as one of the container formats in
FORMATS, over FFmpeg's file protocol; of a tar file only the bytes of one member. Frames above
MAX_PIXELS and videos above MAX_HOURS are refused before a frame of them is held in memory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, cast

import av
from av.video.codeccontext import VideoCodecContext

from vt_fairseq.errors import VideoError
from vt_fairseq.video.images import MAX_PIXELS, check_size, reason
from vt_fairseq.video.members import file_of, member_of

# What people call a format -> FFmpeg's demuxers of it, which open no other file. Bare streams of
# H.264, HEVC and MPEG-4 are left out: their frames have no times.
_DEMUXERS = {
    "MP4, MOV, 3GP": "mov,mp4,m4a,3gp,3g2,mj2",
    "MKV, WebM": "matroska,webm",
    "AVI": "avi",
    "MPEG-TS": "mpegts",
    "MPEG": "mpeg,mpegvideo",
    "FLV": "flv",
    "WMV": "asf",
    "MXF": "mxf",
    "OGV": "ogg",
    "DV": "dv",
    "IVF": "ivf",
    "GIF": "gif",
    "APNG": "apng",
}
FORMATS = ",".join(_DEMUXERS.values())
FORMAT_NAMES = ", ".join(_DEMUXERS)
# Decoders of single pictures. A stream of one is a film if it has more than one packet.
STILL_CODECS = ("mjpeg", "png", "bmp", "gif", "tiff", "webp", "jpeg2000", "ppm")
PEEKED_PACKETS = 200  # of all video streams; after so many a stream of one picture is a still
MAX_BOXES = 100_000  # of an MP4 file that are looked at; of its fragments each has two
# Longer ones are a header's lie, or made to keep whoever reads their packets busy.
MAX_HOURS = 8.0


def check_length(seconds: float) -> None:
    """Raise VideoError where a video lasts longer than MAX_HOURS."""
    if seconds > MAX_HOURS * 3600:
        raise VideoError(f"lasts {seconds / 3600:.1f} hours, at most {MAX_HOURS:g} are read")


def local_url(path: str | os.PathLike[str]) -> str:
    """``path`` for FFmpeg, which would else read a protocol into a file's name ("concat:a").

    A member of a tar file is a part of that file, of which FFmpeg sees nothing else.
    """
    url = f"file:{os.path.abspath(file_of(path))}"
    if member := member_of(path):
        return f"subfile,,start,{member.offset},end,{member.offset + member.length},,:{url}"
    return url


@contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of a local file, closed afterwards: PyAV leaks open ones."""
    file, member = file_of(path), member_of(path)
    if not os.path.isfile(file):
        raise VideoError("not a regular local file" if os.path.exists(file) else "no such file")
    if (member.length if member else os.path.getsize(file)) == 0:
        raise VideoError("the file is empty (0 bytes)")
    if member:
        member.check()
    url = local_url(path)
    protocols = "file,subfile" if member else "file"
    options = {"protocol_whitelist": protocols, "format_whitelist": FORMATS}
    # While the header is read a frame is decoded, too: 310 MB of 16384 x 8192 pixels without this.
    options["max_pixels"] = str(MAX_PIXELS)
    try:
        container = av.open(url, metadata_errors="replace", options=options)
    except av.FFmpegError as error:
        if begins_as_mp4(path):
            raise VideoError(f"an MP4 or MOV file, cut off or damaged: {reason(error)}") from error
        raise VideoError(
            f"not a video file of a known format: {reason(error)}; {FORMAT_NAMES} are read"
        ) from error
    with container:
        if container.format.name.startswith("mov"):
            refuse_joined_fragments(path)
        stream = _film(url, options, container)
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


def begins_as_mp4(path: str) -> bool:
    """Whether the first box is ``ftyp``; of a broken download or recording that is often all."""
    member = member_of(path)
    try:
        with open(file_of(path), "rb", buffering=0) as file:
            return os.pread(file.fileno(), 8, member.offset if member else 0)[4:] == b"ftyp"
    except OSError:  # FFmpeg could not read it either, and has said why
        return False


def refuse_joined_fragments(path: str) -> None:
    """Raise VideoError for several fragmented MP4 files that were joined byte by byte.

    The times of their fragments begin again, and FFmpeg finds those of one for those of another.
    """
    member, status = member_of(path), os.stat(file_of(path))
    part = (member.offset, member.length) if member else (0, status.st_size)
    if _begins_again(file_of(path), *part, status.st_mtime_ns):
        raise VideoError(
            "several fragmented MP4 files behind one another, whose times begin again; expected "
            "one: ffmpeg's concat joins them"
        )


@lru_cache(maxsize=64)
def _begins_again(path: str, start: int, size: int, modified: int) -> bool:
    """Whether a second header (moov) comes after fragments (moof)."""
    seen: list[bytes] = []
    at = 0
    with open(path, "rb", buffering=0) as file:
        while at + 8 <= size and len(seen) < MAX_BOXES:
            head = os.pread(file.fileno(), 16, start + at)
            length, kind = int.from_bytes(head[:4]), head[4:8]
            if length == 1:  # the length is the 64 bits after the name
                length = int.from_bytes(head[8:])
            if kind == b"moov" and b"moof" in seen:
                return True
            seen.append(kind)
            if length < 8:  # 0: until the end of the file
                return False
            at += length
    return False


def _film(url: str, options: dict[str, str], container: Any) -> Any:
    """The video stream that players show; attached and still pictures only where there is no film.

    Raises VideoError where there is no video stream, or attached pictures alone.
    """
    attached = av.stream.Disposition.attached_pic
    films = [s for s in container.streams.video if not s.disposition & attached]
    if not films:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"has no video stream, found {kinds}")
    known = [s for s in films if s.codec_context is not None]
    if not known:
        return films[0]
    films = known
    if len(films) > 1 and any(s.codec_context.name in STILL_CODECS for s in films):
        moving = _moving(url, options, [s.index for s in films])
        films = [s for s in films if s.index in moving] or films
    # As the ffmpeg program does: the default track before others, then the largest, then the first.
    default = av.stream.Disposition.default
    return max(films, key=lambda s: (bool(s.disposition & default), s.width * s.height))


def _moving(url: str, options: dict[str, str], indices: list[int]) -> set[int]:
    """Those of the streams that have more than one picture."""
    seen = dict.fromkeys(indices, 0)
    with av.open(url, metadata_errors="replace", options=options) as container:
        streams = [container.streams[index] for index in indices]
        for packet in islice(container.demux(streams), PEEKED_PACKETS):
            seen[packet.stream.index] += packet.size > 0
    return {index for index, packets in seen.items() if packets > 1}
