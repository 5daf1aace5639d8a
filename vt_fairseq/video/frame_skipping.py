"""Only the wanted frames of a segment, at the least cost; ``decoding`` handles all other files.

The packets of the segment are read first, which costs little. Their timestamps tell which frames
will be shown at the wanted times. A frame that is not wanted and that no other frame refers to is
dropped before it is decoded: 20 to 40 % of the work for video with B-frames
(``benchmarks/loading.py``). Frames are the same as those of a sequential decode.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import av
import numpy as np

from vt_fairseq.video.frame_sampling import TIME_EPSILON
from vt_fairseq.video.images import Scaler

# The decoders of these codecs drop single frames, exactly. VP9 has no such frames; AV1's decoder
# shows others.
CODECS = ("h264", "hevc", "mpeg4")
# Compressed bytes of a segment that are held at once; a longer one is decoded in the plain way.
MAX_HELD_BYTES = 64 * 2**20


def decode_wanted(
    container: Any, stream: Any, times: np.ndarray, scaler: Scaler
) -> list[np.ndarray] | None:
    """The frames shown at ``times``: of each the last one whose timestamp is not later.

    Args:
        container, stream: open; they stop at some position, so that the caller seeks again.
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
        wanted = _wanted(packets, stream, times)
        if not wanted:
            return None
        shown = _decode(stream, packets, set(wanted), scaler)
    except av.FFmpegError:
        return None
    finally:
        stream.codec_context.skip_frame = "DEFAULT"
    return [shown[pts] for pts in wanted] if shown.keys() == set(wanted) else None


def _packets(container: Any, stream: Any, times: np.ndarray) -> list[av.Packet]:
    """The packets from the keyframe before the first time to the last time, in decoding order.

    Empty where one has no timestamp, or they are more than MAX_HELD_BYTES.
    """
    begin, tick = stream.start_time or 0, float(stream.time_base)
    container.seek(begin + math.floor(times[0] / tick), stream=stream)
    last = begin + math.ceil((times[-1] + TIME_EPSILON) / tick)
    packets: list[av.Packet] = []
    held_bytes = 0
    for packet in container.demux(stream):
        if packet.size == 0:  # the end of the stream
            break
        if not packets and not packet.is_keyframe:
            continue
        if packet.pts is None or packet.dts is None:
            return []
        if packet.dts > last:  # nothing is shown before it is decoded
            break
        packets.append(packet)
        held_bytes += packet.size
        if held_bytes > MAX_HELD_BYTES:
            return []
    return packets


def _wanted(packets: list[av.Packet], stream: Any, times: np.ndarray) -> list[int]:
    """The timestamp of the frame shown at each of ``times``; empty if the packets leave doubt."""
    if not packets:
        return []
    begin, tick = stream.start_time or 0, float(stream.time_base)
    # Frames shown before the keyframe lack what they were predicted from (open GOP).
    timed = [(cast(int, packet.pts), packet) for packet in packets]
    key = timed[0][0]
    lengths = {pts: p.duration or 0 for pts, p in timed if pts >= key and not p.is_discard}
    if len({pts for pts, _ in timed}) < len(packets) or key not in lengths:
        return []
    shown = np.array(sorted(lengths))
    seconds = (shown - begin) * tick
    end = seconds[-1] + lengths[int(shown[-1])] * tick
    if seconds[0] > times[0] + TIME_EPSILON or times[-1] > end + TIME_EPSILON:
        return []
    return shown[np.searchsorted(seconds, times + TIME_EPSILON, side="right") - 1].tolist()


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
