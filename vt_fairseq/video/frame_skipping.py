"""Only the wanted frames of a segment, at the least cost; else the plain way in ``video`` decides.

The packets of the segment are read first, which costs little. Their timestamps tell which frames
will be shown at the wanted times, and a frame that no other refers to and that is not wanted is
dropped before it is decoded: 20 to 40 % of the work for video with B-frames
(``benchmarks/loading.py``). Frames are the same as those of a sequential decode.
"""

import math
from collections.abc import Iterator
from typing import Any

import av
import numpy as np

from vt_fairseq.video.frame_sampling import TIME_EPSILON
from vt_fairseq.video.images import Scaler

# Whose decoders drop single frames, exactly. VP9 has no such frames; AV1's decoder shows others.
CODECS = ("h264", "hevc", "mpeg4")
# Compressed bytes of a segment that are held at once; a longer one is decoded in the plain way.
MAX_HELD_BYTES = 64 * 2**20


def decode_wanted(
    container: Any, stream: Any, times: np.ndarray, scaler: Scaler
) -> list[np.ndarray] | None:
    """The frames shown at ``times``: of each the last one whose timestamp is not later.

    Args:
        container, stream: open; left at some place, for the next seek.
        times: (F,) ascending seconds from the stream's start.
        scaler: decoded frame to (H, W, 3) uint8.

    Returns F arrays, or None where there is nothing to gain (CODECS) or anything is unusual: a seek
    that ends too late, timestamps that are missing, repeated or out of order, a segment past the
    end, damage.
    """
    if stream.codec_context.name not in CODECS:
        return None
    try:
        packets = _packets(container, stream, times)
        wanted = None if packets is None else _wanted(packets, stream, times)
        if wanted is None:
            return None
        shown = _decode(stream, packets, set(wanted), scaler)
    except av.FFmpegError:
        return None
    finally:
        stream.codec_context.skip_frame = "DEFAULT"
    return [shown[pts] for pts in wanted] if shown.keys() == set(wanted) else None


def _packets(container: Any, stream: Any, times: np.ndarray) -> list[av.Packet] | None:
    """The packets from the keyframe before the first time to the last time, in decoding order."""
    begin, tick = stream.start_time or 0, float(stream.time_base)
    container.seek(begin + math.floor(times[0] / tick), stream=stream)
    last = begin + math.ceil((times[-1] + TIME_EPSILON) / tick)
    found: list[av.Packet] = []
    held_bytes = 0
    for packet in container.demux(stream):
        if packet.size == 0:  # the end of the stream
            break
        if not found and not packet.is_keyframe:
            continue
        if packet.pts is None or packet.dts is None:
            return None
        if packet.dts > last:  # nothing is shown before it is decoded
            break
        found.append(packet)
        held_bytes += packet.size
        if held_bytes > MAX_HELD_BYTES:
            return None
    return found


def _wanted(packets: list[av.Packet], stream: Any, times: np.ndarray) -> list[int] | None:
    """The timestamp of the frame shown at each of ``times``, if the packets leave no doubt."""
    if not packets:
        return None
    begin, tick = stream.start_time or 0, float(stream.time_base)
    # Frames shown before the keyframe lack what they were predicted from (open GOP).
    key = packets[0].pts
    lengths = {p.pts: p.duration or 0 for p in packets if p.pts >= key and not p.is_discard}
    if len({p.pts for p in packets}) < len(packets) or key not in lengths:
        return None
    shown = np.array(sorted(lengths))
    seconds = (shown - begin) * tick
    if seconds[0] > times[0] + TIME_EPSILON:
        return None
    if times[-1] > seconds[-1] + lengths[int(shown[-1])] * tick + TIME_EPSILON:
        return None
    places = np.searchsorted(seconds, times + TIME_EPSILON, side="right") - 1
    return shown[places].tolist()


def _decode(
    stream: Any, packets: list[av.Packet], wanted: set[int], scaler: Scaler
) -> dict[int, np.ndarray]:
    """Timestamp to picture of the wanted frames that come out, in order, of the decoder."""
    shown: dict[int, np.ndarray] = {}
    for frame in _frames(stream, packets, wanted):
        if frame.pts in wanted:
            if shown and frame.pts <= max(shown):
                return {}
            shown[frame.pts] = scaler(frame)
            if len(shown) == len(wanted):
                break
    return shown


def _frames(stream: Any, packets: list[av.Packet], wanted: set[int]) -> Iterator[av.VideoFrame]:
    codec = stream.codec_context
    for packet in packets:
        codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from stream.decode(packet)
    yield from stream.decode(None)
