"""Only the wanted frames of a segment, at the least cost; ``decoding`` handles all other files.

The packets of the segment are read first, which costs little. Their timestamps tell which frames
will be shown at the wanted times. A frame that is not wanted and that no other frame refers to is
dropped before it is decoded: 20 to 40 % of the work for video with B-frames
(``benchmarks/loading.py``). Frames are the same as those of a sequential decode.

Packets have to tell which frames there are and in which order. They do not where the two fields of
a frame are two packets (interlaced H.264), or where a timestamp out of order may hide behind
reordered frames.
"""

from collections.abc import Iterator
from typing import Any, cast

import av
import numpy as np

from vt_fairseq.video.frame_sampling import TIME_EPSILON
from vt_fairseq.video.images import Scaler
from vt_fairseq.video.timeline import Packets, Timeline

# The decoders of these codecs drop single frames, exactly. VP9 has no such frames; AV1's decoder
# shows others.
CODECS = ("h264", "hevc", "mpeg4")
# Compressed bytes of a segment that are held at once; a longer one is decoded in the plain way.
MAX_HELD_BYTES = 64 * 2**20


def decode_wanted(
    container: Any, stream: Any, line: Timeline, times: np.ndarray, scaler: Scaler
) -> list[np.ndarray] | None:
    """The frames shown at ``times``: of each the last one whose timestamp is not later.

    Args:
        container, stream, line: open; they stop at some position, so that the caller seeks again.
        times: (F,) ascending seconds from the file's start.
        scaler: decoded frame to (H, W, 3) uint8.

    Returns F arrays, or None where there is nothing to gain (CODECS) or anything is unusual: a seek
    that ends too late, timestamps that are missing, repeated or out of order, a segment past the
    end, interlaced frames, damage.
    """
    if stream.codec_context.name not in CODECS:
        return None
    try:
        packets = _packets(container, stream, line, times)
        wanted = _wanted(packets, stream, line, times)
        if not wanted:
            return None
        shown = _decode(stream, packets, set(wanted), scaler)
    except av.FFmpegError:
        return None
    finally:
        stream.codec_context.skip_frame = "DEFAULT"
    return [shown[pts] for pts in wanted] if shown.keys() == set(wanted) else None


def _packets(container: Any, stream: Any, line: Timeline, times: np.ndarray) -> list[av.Packet]:
    """The packets from the keyframe before the first time to the last time, in decoding order.

    Empty where one has no timestamp, or they are more than MAX_HELD_BYTES.
    """
    container.seek(line.stamp(times[0]), stream=stream)
    last = line.stamp(times[-1] + TIME_EPSILON)
    packets: list[av.Packet] = []
    held_bytes = 0
    for packet in Packets(container, stream):
        if not packets and not packet.is_keyframe:
            continue
        if packet.pts is None:
            return []
        if packet.dts is not None and packet.dts > last:  # nothing is shown before it is decoded
            break
        packets.append(packet)
        held_bytes += packet.size
        if held_bytes > MAX_HELD_BYTES:
            return []
    return packets


def _wanted(packets: list[av.Packet], stream: Any, line: Timeline, times: np.ndarray) -> list[int]:
    """The timestamp of the frame shown at each of ``times``; empty if the packets leave doubt."""
    if not packets or not line.knows_keyframe(cast(int, packets[0].pts)):
        return []
    # Frames shown before the keyframe lack what they were predicted from (open GOP). Packets
    # without data show the frame before them for longer.
    timed = [(cast(int, packet.pts), packet) for packet in packets]
    key = timed[0][0]
    shown = np.array(sorted(pts for pts, p in timed if pts >= key and p.size and not p.is_discard))
    if len({pts for pts, _ in timed}) < len(packets) or not shown.size or shown[0] != key:
        return []
    # Of those after the last time, not all are there.
    asked = shown[shown <= line.stamp(times[-1] + TIME_EPSILON)]
    if not _in_order([pts for pts, _ in timed], asked, stream.codec_context.has_b_frames):
        return []
    end = max(pts + (p.duration or 0) for pts, p in timed if not p.is_discard)
    seconds = shown * line.tick - (key * line.tick - line.seconds(key))
    if seconds[0] > times[0] + TIME_EPSILON or times[-1] > line.seconds(end) + TIME_EPSILON:
        return []
    return shown[np.searchsorted(seconds, times + TIME_EPSILON, side="right") - 1].tolist()


def _in_order(decoded: list[int], shown: np.ndarray, reordered: bool) -> bool:
    """Whether frames are surely shown in the order of their timestamps.

    If frames are reordered, only regular steps tell that none of them is out of its place.
    """
    steps = np.diff(shown if reordered else decoded)
    if not reordered:
        return bool((steps > 0).all())
    return steps.size == 0 or bool(steps.max() - steps.min() <= 2)


def _decode(
    stream: Any, packets: list[av.Packet], wanted: set[int], scaler: Scaler
) -> dict[int, np.ndarray]:
    """Timestamp to picture of the wanted frames that come out, in order, of the decoder."""
    shown: dict[int, np.ndarray] = {}
    for frame in _frames(stream, packets, wanted):
        if frame.pts in wanted:
            if frame.interlaced_frame or (shown and frame.pts <= max(shown)):
                return {}
            shown[frame.pts] = scaler(frame)
            if len(shown) == len(wanted):
                break
    return shown


def _frames(stream: Any, packets: list[av.Packet], wanted: set[int]) -> Iterator[av.VideoFrame]:
    codec = stream.codec_context
    for packet in packets:
        if packet.size:
            codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from stream.decode(packet)
    yield from stream.decode(None)
