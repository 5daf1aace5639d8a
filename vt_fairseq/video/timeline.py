"""When the frames of a file are shown: one timeline per file, in seconds from the file's start.

The file's start is its container's, as for ``ffmpeg -ss``: a video that begins after the sound
begins late. Which timestamps are believed:

- MP4 and Matroska: those of the packets. Where something is asked beyond the duration that the
  header names, or the whole file is, the packets at its end are read.
- AVI and ASF (``.wmv``) have no presentation times: the k-th frame that is shown takes the time of
  the k-th packet.
- All other containers are read through once, without decoding, since their headers only guess.
  Timestamps that begin again, as in files joined by ``cat``, go on where the part before ends.
- Elementary streams without timestamps: frames are counted at the stream's rate.

A single timestamp that goes back is raised to the one before it.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, cast

import av
import numpy as np

from vt_fairseq.errors import VideoError
from vt_fairseq.video.containers import check_length, opened
from vt_fairseq.video.members import file_of

# Formats whose packets are found by an index. Their timestamps do not begin again, save in joined
# Matroska files.
INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
# Formats that store decoding times alone; FFmpeg guesses the others.
DECODING_TIMES_ONLY = ("avi", "asf")
# Timestamps this much before the expected one, or after it in formats whose clock may jump, begin a
# new part of the file: the limits of the ffmpeg program.
PART_BACK_SECONDS = 0.1
PART_AHEAD_SECONDS = 10.0


class Packets:
    """The packets of a stream from the container's position on, those without data included.

    Their timestamps go on where they begin again. In DECODING_TIMES_ONLY a packet's presentation
    time is its decoding time.

    Attributes:
        joined: whether timestamps have begun again so far.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.joined = False
        self._container, self._stream = container, stream
        self._offset = 0  # ticks
        self._due: int | None = None  # the next part's first timestamp
        format_ = container.format
        self._decoding_times_only = format_.name in DECODING_TIMES_ONLY
        # Matroska has no decoding times. A keyframe is not shown before a frame that is decoded
        # before it.
        self._by_keyframes = format_.name == "matroska,webm"
        # An MP4 file has one timeline. Its edit lists decode some packets again, with their old
        # times, and discard the frames.
        self._one_part = format_.name.startswith("mov")
        tick = float(stream.time_base)
        self._back = PART_BACK_SECONDS / tick
        clock_jumps = format_.flags & av.format.Flags.ts_discont.value
        self._ahead = PART_AHEAD_SECONDS / tick if clock_jumps else math.inf
        self._step = round(_frame_seconds(container, stream) / tick)

    def __iter__(self) -> Iterator[av.Packet]:
        packets = self._read()
        if self._one_part:
            yield from packets
            return
        for packet in packets:
            following: list[av.Packet] = []
            if self._begins_part(packet):
                following = list(islice(packets, 1))
                # One timestamp out of order is none.
                if following and self._begins_part(following[0], any_frame=True):
                    self._offset += cast(int, self._due) - cast(int, self._stamp(packet))
                    self.joined = True
            for each in (packet, *following):
                self._continue(each)
                yield each

    def _read(self) -> Iterator[av.Packet]:
        """The packets as they are, with the timestamps that count from the last part's start."""
        for packet in self._container.demux(self._stream):
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                return  # PyAV's mark of the end
            if self._decoding_times_only:
                packet.pts = packet.dts
            yield packet

    def _stamp(self, packet: av.Packet) -> int | None:
        """The time that tells a new part, parts joined."""
        stamp = packet.pts if self._by_keyframes else packet.dts
        return None if stamp is None else stamp + self._offset

    def _begins_part(self, packet: av.Packet, any_frame: bool = False) -> bool:
        stamp = self._stamp(packet)
        if self._due is None or stamp is None:
            return False
        if self._by_keyframes and not (packet.is_keyframe or any_frame):
            return False
        late = stamp - self._due
        return late < -self._back or late > self._ahead

    def _continue(self, packet: av.Packet) -> None:
        """Give a packet the times of the joined parts."""
        stamp = self._stamp(packet)
        if stamp is not None:
            due = stamp + (packet.duration or self._step)
            self._due = max(self._due or due, due) if self._by_keyframes else due
        if self._offset:
            packet.pts = None if packet.pts is None else packet.pts + self._offset
            packet.dts = None if packet.dts is None else packet.dts + self._offset


@dataclass(frozen=True)
class Scan:
    """What the packets of a whole file say; times are seconds on its own clock, parts joined.

    Attributes:
        begin: the first time.
        end: the end of the last frame.
        key_stamps: (K,) int64 ticks, of the keyframes in decoding order.
        key_packets: (K,) int64, the numbers of their packets in decoding order.
        joined: whether timestamps begin again somewhere.
        timed: whether packets have presentation times. They have none in elementary streams, whose
            times FFmpeg makes up.
        in_file_order: whether all presentation times are the decoding times: where frames are
            reordered, they are those of packets, not of frames.
    """

    begin: float
    end: float
    key_stamps: np.ndarray
    key_packets: np.ndarray
    joined: bool
    timed: bool
    in_file_order: bool


def scan(path: str) -> Scan:
    """Read all packets of a file, which is remembered as long as the file does not change.

    Raises VideoError: it has none, or lasts too long.
    """
    status = os.stat(file_of(path))
    return _scan(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _scan(path: str, size: int, modified: int) -> Scan:
    begin, seconds, count, in_file_order = math.inf, 0.0, 0, True
    last = (-math.inf, -math.inf)  # when the frame that is shown last begins and ends
    first_key: av.Packet | None = None
    keys: list[tuple[int, int]] = []
    with opened(path) as (container, stream):
        tick, step = float(stream.time_base), _frame_seconds(container, stream)
        packets = Packets(container, stream)
        for number, packet in enumerate(_until_damage(packets)):
            count += 1
            length = (packet.duration or 0) * tick or step
            first_key = first_key or (packet if packet.is_keyframe else None)
            if first_key and (packet.pts or 0) >= (first_key.pts or 0):
                seconds += length
            if packet.pts is not None and not packet.is_discard and not packet.is_corrupt:
                time = packet.pts * tick
                begin, last = min(begin, time), max(last, (time, time + length))
                in_file_order &= packet.pts == packet.dts
                if packet.is_keyframe and packet.size:
                    keys.append((packet.pts, number))
        made_up = _are_times_made_up(container)
    if not count:
        raise VideoError("no frame can be decoded: the video stream is empty")
    if made_up:
        begin, end = 0.0, seconds
    elif last[0] < begin:
        raise VideoError("no packet of the video stream has a timestamp")
    else:
        end = last[1]
    check_length(end - begin)
    stamps, numbers = np.array(keys, np.int64).reshape(-1, 2).T
    return Scan(begin, end, stamps, numbers, packets.joined, not made_up, in_file_order)


def _until_damage(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """The packets; decoding them comes to the damage as well, and names it."""
    with suppress(av.FFmpegError):
        yield from packets


def _are_times_made_up(container: Any) -> bool:
    """Whether the file has no timestamps, and FFmpeg makes them up from a rate of its own."""
    return bool(container.format.flags & av.format.Flags.no_timestamps.value)


def _frame_seconds(container: Any, stream: Any) -> float:
    """Seconds per frame at the stream's rate, 0 where it is unknown."""
    rate = None if _are_times_made_up(container) else stream.average_rate
    rate = rate or stream.guessed_rate
    return float(1 / rate) if rate else 0.0


class Timeline:
    """The timeline of an open file.

    Attributes:
        scan: None where the file's index is believed.
        timed: whether packets have presentation times; else frames come at the stream's rate.
        counted: whether frames take their times in the order in which they come out of the decoder,
            so that decoding has to begin with the file.
        from_first: whether it has to for that or another reason.
        tick: seconds of the stream's time base.
        step: seconds per frame at the stream's rate, 0 where it is unknown.
    """

    scan: Scan | None

    def __init__(self, path: str, container: Any, stream: Any) -> None:
        """Raises VideoError: the file lasts too long, or has no packet."""
        self._path, self._container, self._stream = path, container, stream
        self.tick = float(stream.time_base)
        self.step = _frame_seconds(container, stream)
        codec, name = stream.codec_context, container.format.name
        self.scan = None if name in INDEXED else scan(path)
        reordered = bool(codec.has_b_frames)
        self.timed = self.scan is None or self.scan.timed
        in_file_order = name in DECODING_TIMES_ONLY or (
            self.scan is not None and self.scan.in_file_order
        )
        self.counted = not self.timed or (reordered and in_file_order)
        # A palette comes with the first packet alone.
        self.from_first = self.counted or codec.pix_fmt == "pal8"
        self._begin = self._container_start()
        if self.scan is None and self.header_end < math.inf:
            check_length(self.header_end)

    def _container_start(self) -> float:
        if self.scan and (self._container.start_time is None or not self.scan.timed):
            return self.scan.begin
        if self._container.start_time is not None:
            return self._container.start_time / av.time_base
        return (self._stream.start_time or 0) * self.tick

    def seconds(self, stamp: int) -> float:
        """A timestamp of the stream, in seconds from the file's start."""
        return stamp * self.tick - self._begin

    def stamp(self, seconds: float) -> int:
        """The last timestamp of the stream at or before ``seconds`` from the file's start."""
        return math.floor((seconds + self._begin) / self.tick)

    @property
    def header_end(self) -> float:
        """Seconds until the video's end, unless the file is longer than its header says.

        Infinite where the header does not say.
        """
        if self.scan:
            return self.scan.end - self._begin
        stream, duration = self._stream, self._container.duration
        if stream.duration and stream.duration > 0:
            return self.seconds((stream.start_time or 0) + stream.duration)
        return duration / av.time_base if duration and duration > 0 else math.inf

    @property
    def seekable(self) -> bool:
        """Whether decoding may begin at the keyframe that a seek finds."""
        return not self.from_first and not (self.scan and self.scan.joined)

    def find_end(self) -> float:
        """Seconds until the end of the last frame; moves the container's position.

        Raises VideoError: the file lasts too long, or has no packet.
        """
        if self.scan is None and self.header_end < math.inf:
            end = self._end_by_tail()
            if end is not None:
                check_length(end)
                return end
        self.scan = self.scan or scan(self._path)
        return self.header_end

    def _end_by_tail(self) -> float | None:
        """The end, from the packets that a seek to the header's finds; None if they do not tell."""
        try:
            self._container.seek(self.stamp(self.header_end), stream=self._stream)
            tail = Packets(self._container, self._stream)
            _, end = max(map(self.span_of, tail), default=(0.0, 0.0))
        except av.FFmpegError:
            return None
        return None if tail.joined or end <= 0 else end

    def span_of(self, packet: av.Packet) -> tuple[float, float]:
        """When what a packet shows begins and ends; zeros if it shows nothing or has no time.

        Of several the largest is the one that is shown last. Its end is the file's, not the largest
        end: MP4 stores the steps of decoding times, which may span a gap that is shown elsewhere.
        """
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            return 0.0, 0.0
        begin = self.seconds(packet.pts)
        return begin, begin + ((packet.duration or 0) * self.tick or self.step)

    def knows_keyframe(self, stamp: int) -> bool:
        """Whether a keyframe that a seek has found is one of those that reading through found.

        True where the file's index is believed.
        """
        return self.scan is None or bool(np.isin(stamp, self.scan.key_stamps))

    def keyframe_before(self, seconds: float) -> int | None:
        """The number of the packet of the last keyframe at or before ``seconds``, if there is one.

        Only where the file has been read through.
        """
        if self.scan is None:
            return None
        before = np.flatnonzero(self.scan.key_stamps <= self.stamp(seconds))
        return int(self.scan.key_packets[before[-1]]) if before.size else None
