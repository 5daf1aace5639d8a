"""Odd files are shown as FFmpeg's own tools show them: the last frame at or before each time.

Times count from the file's start. Frames carry their numbers, and the expected ones follow from how
the files are made; ``tests/oracle`` compares with the ffmpeg program.
"""

import os
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from tests.field_pairs import write_field_pairs
from vt_fairseq.video.containers import opened
from vt_fairseq.video.decoding import frames_of, probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.frame_skipping import decode_wanted
from vt_fairseq.video.images import Scaler
from vt_fairseq.video.timeline import Timeline

RATE = 25
X264 = {"preset": "veryfast", "g": "25"}
PLAIN = {"preset": "ultrafast", "g": "25", "bf": "0"}


def numbers(path: Path, count: int, start: float | None = None, end: float | None = None):
    """Numbers of the frames in the middles of ``count`` equal parts of a segment."""
    sampling = FrameSampling(num_frames=count, max_seconds=None)
    return media.read_numbers(read_clip(path, sampling, start=start, end=end))


def at(path: Path, *seconds: float) -> list[int]:
    """Number of the frame that is shown at each time, each in a segment of its own."""
    return [numbers(path, 1, t, t + 0.002)[0] for t in seconds]


def middles(begin: float, end: float, count: int) -> list[float]:
    return (begin + (np.arange(count) + 0.5) * (end - begin) / count).tolist()


def shown(stamps: Sequence[float], times: Sequence[float]) -> list[int]:
    """The last number whose stamp, or a later number's before it, is not after each time."""
    raised = np.maximum.accumulate(stamps)
    return [int(np.flatnonzero(raised <= t + 1e-4)[-1]) for t in times]


def remux(source: Path, target: Path, change: Callable[[int, av.Packet], None]) -> Path:
    """Copy the packets, each changed by ``change(number in decoding order, packet)``."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size:
                change(number, packet)
                packet.stream = stream
                new.mux(packet)
    return target


# --- durations that the header does not tell ---------------------------------------------------


def patched(path: Path, mark: bytes, distance: int, new: bytes) -> Path:
    """The file with ``new`` that many bytes behind the first ``mark``."""
    data = bytearray(path.read_bytes())
    place = data.index(mark) + distance
    data[place : place + len(new)] = new
    path.write_bytes(data)
    return path


def says_one_second(path: Path) -> Path:
    """A video of 10 s whose header says 1 s, or says nothing and lets FFmpeg guess."""
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    options = {"g": "25"} if codec == "mpeg4" else {**X264, "profile": "baseline"}
    media.write_numbered(path, 10 * RATE, codec=codec, options=options)
    if path.suffix == ".mkv":
        return patched(path, b"\x44\x89\x88", 3, struct.pack(">d", 1000.0))
    if path.suffix == ".flv":
        return patched(path, b"duration\0", 9, struct.pack(">d", 1.0))
    if path.suffix == ".mp4":
        data = path.read_bytes()
        header = data.index(b"mdhd")
        return patched(path, b"mdhd", 20, data[header + 16 : header + 20])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"idx1")])  # as after a crash of the recorder
    return path


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4", "avi"])
def test_a_video_is_as_long_as_its_packets_say(tmp_path, suffix):
    path = says_one_second(tmp_path / f"short.{suffix}")
    assert numbers(path, 5) == [25, 75, 125, 175, 225]
    assert numbers(path, 3, 0.5, 9.5) == [50, 125, 200]
    assert numbers(path, 3, 8, 20) == [208, 225, 241]
    assert at(path, 0.31, 5.01, 9.97) == [7, 125, 249]
    assert probe(path) == pytest.approx(10)


# --- timestamps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "begin"), [("ts", 0), ("ts", 100), ("mpg", 0), ("mkv", 0), ("flv", 0)]
)
def test_joined_files_are_shown_one_after_the_other(tmp_path, suffix, begin):
    """``begin``: seconds at which the clock of the second file begins."""
    path = tmp_path / f"both.{suffix}"
    if suffix == "flv":  # FFmpeg reads up to the second header: one file whose clock begins again
        media.write_numbered(path, 300, options=PLAIN)
        restart_flv_clock(path, 100)
    else:
        data = b""
        for first, count, clock in ((0, 100, 0), (100, 200, begin)):
            options = {"codec": "mpeg2video", "options": {"g": "25", "bf": "2"}}
            if suffix != "mpg":
                stamps = [1000 * clock + 40 * n for n in range(count)]
                options = {"options": X264, "milliseconds": stamps}
            frames = [media.numbered_frame(first + n) for n in range(count)]
            data += media.write_video(tmp_path / f"part.{suffix}", frames, **options).read_bytes()
        path.write_bytes(data)
    assert probe(path) == pytest.approx(12, abs=0.05)
    assert numbers(path, 2, 5, 7) == [137, 162]
    assert numbers(path, 12) == [12 + 25 * n for n in range(12)]
    assert numbers(path, 4, 3.9, 4.1) == [98, 99, 100, 101]
    assert at(path, 0.01, 3.99, 4.01, 11.97) == [0, 99, 100, 299]


def flv_tags(data: bytes) -> list[int]:
    """Positions of the video tags of an FLV file."""
    place, tags = 13, []
    while place < len(data) - 11:
        if data[place] == 9:
            tags.append(place)
        place += 15 + int.from_bytes(data[place + 1 : place + 4], "big")
    return tags


def restart_flv_clock(path: Path, number: int) -> None:
    """Set the times of all video tags from that frame's on back, so that they begin at 0 again."""
    data = bytearray(path.read_bytes())
    for place in flv_tags(data)[number + 1 :]:  # the first holds the codec's header
        stamp = int.from_bytes(data[place + 4 : place + 7], "big")
        data[place + 4 : place + 7] = (max(0, stamp - 40 * number)).to_bytes(3, "big")
    path.write_bytes(data)


def test_one_timestamp_that_goes_back_is_raised_to_the_one_before_it(tmp_path):
    stamps = [0, 40, 80, 120, 5000, 5040, 5080, 5120, 9000, 9040, 9030, 9080, 9120, 15000, 15040]
    even = media.write_numbered(tmp_path / "even.mkv", len(stamps), options=PLAIN)

    def unordered(number: int, packet: av.Packet) -> None:
        packet.pts, packet.dts = stamps[number], number - 20
        packet.time_base, packet.duration = Fraction(1, 1000), 40

    path = remux(even, tmp_path / "back.mkv", unordered)
    seconds = [stamp / 1000 for stamp in stamps]
    assert numbers(path, 8) == shown(seconds, middles(0, 15.08, 8))
    assert numbers(path, 40, 8.5, 9.3) == shown(seconds, middles(8.5, 9.3, 40))
    assert at(path, 9.035, 9.045, 9.07, 9.09) == [8, 10, 10, 11]


def test_one_tag_of_an_flv_that_goes_back_moves_no_other(tmp_path):
    path = media.write_numbered(tmp_path / "back.flv", 100, options=PLAIN)
    data = bytearray(path.read_bytes())
    place = flv_tags(data)[61]
    data[place + 4 : place + 7] = (60 * 40 - 400).to_bytes(3, "big")
    path.write_bytes(data)
    assert probe(path) == pytest.approx(4)
    assert at(path, 2.3, 2.37, 2.43, 2.45, 3.5) == [57, 60, 60, 61, 87]
    assert numbers(path, 4) == [12, 37, 62, 87]


def test_a_timestamp_out_of_order_does_not_hide_behind_b_frames(tmp_path):
    source = media.write_numbered(tmp_path / "even.mkv", 100, options={**X264, "bf": "2"})
    with av.open(str(source)) as container:
        packets = [(p.pts, bytes(p)) for p in container.demux(video=0) if p.size]
    # A frame that no other refers to is stamped before the one that is shown before it. Each packet
    # is one unit, after its length; the bits of 0x60 say whether others refer to it.
    early = [pts for pts, data in packets if not data[4] & 0x60 and 1000 < pts < 3500][::3]
    assert len(early) > 5

    def stamped(number: int, packet: av.Packet) -> None:
        packet.pts -= 50 if packet.pts in early else 0
        packet.dts = 40 * number - 400

    path = remux(source, tmp_path / "early.mkv", stamped)
    stamps = [(40 * n - 50 * (40 * n in early)) / 1000 for n in range(100)]
    for begin in (0.9, 1.5, 2.2):
        times = middles(begin, begin + 1, 25)
        assert numbers(path, 25, begin, begin + 1) == shown(stamps, times)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_that_nobody_needs_are_left_out_where_timestamps_are_regular(tmp_path, suffix):
    path = media.write_numbered(tmp_path / f"a.{suffix}", 100, options={**X264, "bf": "3"})
    times = np.array(middles(1.1, 3.1, 5))
    with opened(os.fspath(path)) as (container, stream):
        line = Timeline(os.fspath(path), container, stream)
        pictures = decode_wanted(container, stream, line, times, Scaler(None))
    assert pictures is not None
    assert media.read_numbers(np.stack(pictures)) == [32, 42, 52, 62, 72]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_times_count_from_the_files_start_where_sound_begins_before_the_video(tmp_path, suffix):
    path = tmp_path / f"late.{suffix}"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("mp2", rate=48000, layout="mono")
        video = container.add_stream("libx264", rate=RATE, options=PLAIN)
        video.width, video.height, video.pix_fmt = media.WIDTH, media.HEIGHT, "yuv420p"
        for n in range(5 * 48000 // 1152):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16", "mono")
            frame.rate, frame.pts = 48000, 1152 * n
            container.mux(sound.encode(frame))
        for n in range(100):
            frame = av.VideoFrame.from_ndarray(media.numbered_frame(n), format="rgb24")
            frame.pts, frame.time_base = n + 2 * RATE, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux([*sound.encode(None), *video.encode(None)])
    with av.open(str(path)) as container:
        begin = container.streams.video[0].start_time * container.streams.video[0].time_base
        late = float(begin) - container.start_time / av.time_base
    assert 1.9 < late < 2.1
    wanted = [late + 0.01, late + 1.01, late + 3.97]
    assert at(path, 0.3, late - 0.01, *wanted) == [0, 0, 0, 25, 99]
    assert numbers(path, 2, late, late + 2) == [12, 37]
    assert probe(path) == pytest.approx(late + 4)
    times = [seconds for seconds, _, _ in frames_of(path)]
    assert times[0] == 0 and times[1] == pytest.approx(late + 0.04, abs=1e-3)


def test_every_frame_of_a_file_has_a_time_of_its_own(tmp_path):
    """Of two with one time the later is shown, as in the segments that are read."""
    stamps = [40 * n for n in range(50)]
    stamps[20] = stamps[21]
    even = media.write_numbered(tmp_path / "even.mkv", 50, options=PLAIN)

    def doubled(number: int, packet: av.Packet) -> None:
        packet.pts, packet.dts = stamps[number], number - 50
        packet.time_base = Fraction(1, 1000)

    path = remux(even, tmp_path / "double.mkv", doubled)
    frames = [(s, d, media.read_numbers(f.to_ndarray(format="rgb24")[None])[0])
              for s, d, f in frames_of(path)]  # fmt: skip
    assert [number for _, _, number in frames] == [*range(20), *range(21, 50)]
    assert all(later[0] == pytest.approx(s + d) for (s, d, _), later in pairwise(frames))
    assert at(path, 0.81, 0.85) == [19, 21]


# --- AVI ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("b_frames", ["0", "2"])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_kth_frame_of_an_avi_has_the_time_of_the_kth_packet(tmp_path, codec, b_frames, dropped):
    options = {"g": "12", "bf": b_frames} | ({"preset": "veryfast"} if codec == "libx264" else {})
    path = media.write_numbered(tmp_path / "all.avi", 60, codec=codec, options=options)
    slots = list(range(60))
    if dropped:  # the muxer writes empty chunks where decoding times are left out
        slots = [n + 3 * (n >= 5) + 10 * (n >= 20) + (n >= 40) for n in range(60)]

        def late(number: int, packet: av.Packet) -> None:
            packet.pts = packet.dts = slots[number]

        path = remux(path, tmp_path / "dropped.avi", late)
    seconds, end = [slot / RATE for slot in slots], (slots[-1] + 1) / RATE
    assert probe(path) == pytest.approx(end)
    assert numbers(path, 30) == shown(seconds, middles(0, end, 30))
    for begin in (0.1, 0.77, 1.2):
        assert numbers(path, 10, begin, end) == shown(seconds, middles(begin, end, 10))
    assert at(path, end - 0.02, 1.05) == shown(seconds, [end - 0.02, 1.05])


def test_a_palette_is_there_wherever_reading_begins(tmp_path):
    path = tmp_path / "palette.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = media.WIDTH, media.HEIGHT, "pal8"
        for n in range(50):
            rgb = av.VideoFrame.from_ndarray(media.numbered_frame(n), format="rgb24")
            # FFmpeg converts to palettes by way of the 256 colors of RGB8.
            indices = rgb.reformat(format="rgb8").to_ndarray()
            colors = np.zeros((256, 4), np.uint8)
            colors[:, 0] = 255
            colors[:, 1:] = np.where(np.arange(256) > 127, 235, 20)[:, None]
            frame = av.VideoFrame.from_ndarray((indices, colors), format="pal8")
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert at(path, 0.01, 0.5, 1.97) == [0, 12, 49]
    assert numbers(path, 3, 1, 1.9) == [28, 36, 43]


# --- packets and pictures ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("a.mov", "png", "rgb24"), ("a.mp4", "mpeg4", "yuv420p")]
)
def test_a_sample_without_bytes_shows_the_picture_before_it(tmp_path, name, codec, pixels):
    path = media.write_numbered(tmp_path / name, 60, codec=codec, pixel_format=pixels)
    data = bytearray(path.read_bytes())
    for number in (30, 59):  # whose bytes become those of the frame before
        place = data.index(b"stsz") + 16 + 4 * (number - 1)
        before, own = struct.unpack(">II", data[place : place + 8])
        data[place : place + 8] = struct.pack(">II", before + own, 0)
    path.write_bytes(data)
    assert numbers(path, 3, 2.28, 2.4) == [57, 58, 58]
    assert probe(path) == pytest.approx(2.4)
    assert at(path, 2.39) == [58]
    if codec == "png":  # each frame stands alone
        assert at(path, 1.17, 1.21, 1.25) == [29, 29, 31]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), "RGBW"),
        ((0, 1, -1, 0), "BRWG"),
        ((-1, 0, 0, -1), "WBGR"),
        ((0, -1, 1, 0), "GWRB"),
        ((-1, 0, 0, 1), "GRWB"),
        ((1, 0, 0, -1), "BWRG"),
        ((0, 1, 1, 0), "RBGW"),
        ((0, -1, -1, 0), "WGBR"),
    ],
)
def test_display_matrices_turn_and_mirror(tmp_path, matrix, expected):
    """``matrix``: a, b, c, d of QuickTime's: (x, y) is shown at (a x + c y, b x + d y)."""
    picture = np.zeros((96, 128, 3), np.uint8)
    corners = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
    for place, color in enumerate(corners.values()):
        top, left = divmod(place, 2)
        picture[48 * top : 48 * top + 48, 64 * left : 64 * left + 64] = color
    path = media.write_video(tmp_path / "a.mp4", [picture] * 3, options=PLAIN)
    a, b, c, d = (65536 * value for value in matrix)
    patched(path, b"tkhd", 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30))
    clip = read_clip(path, FrameSampling(num_frames=1), short_side=None)[0]
    assert clip.shape == ((96, 128, 3) if matrix[0] else (128, 96, 3))
    height, width = clip.shape[:2]
    found = [clip[height * y // 4, width * x // 4] > 128 for y in (1, 3) for x in (1, 3)]
    names = {tuple(value > 128 for value in color): name for name, color in corners.items()}
    assert "".join(names[tuple(bool(v) for v in value)] for value in found) == expected


@pytest.mark.parametrize("suffix", ["mts", "mp4"])
def test_frames_of_two_fields_have_both_wherever_reading_begins(tmp_path, suffix):
    path = write_field_pairs(tmp_path / f"fields.{suffix}", 50)

    def fields(start: float, end: float, count: int) -> tuple[list[int], list[int]]:
        sampling = FrameSampling(num_frames=count, max_seconds=None)
        frames = read_clip(path, sampling, start=start, end=end, short_side=None)
        return media.read_numbers(frames[:, 0::2]), media.read_numbers(frames[:, 1::2])

    assert probe(path) == pytest.approx(2)
    rng = np.random.default_rng(0)
    for start, end in [(0.0, 2.0), *np.sort(rng.uniform(0, 2, (15, 2))).tolist()]:
        expected = np.floor(np.array(middles(start, end, 6)) * RATE + 1e-3).astype(int)
        assert fields(start, end, 6) == ((2 * expected).tolist(), (2 * expected + 1).tolist())
    for number in range(0, 50, 3):
        assert fields(number / RATE, number / RATE + 0.018, 1) == ([2 * number], [2 * number + 1])
