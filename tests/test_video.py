"""Decoding: the right frames, upright, from any file, and one clear reason where there are none."""

import math
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests import media
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.video.decoding import _decoded, probe, read_clip
from vt_fairseq.video.frame_sampling import (
    TIME_EPSILON,
    FrameSampling,
    Plan,
    window_phase,
    window_position,
)
from vt_fairseq.video.transforms import ClipTransform

WHOLE = FrameSampling(num_frames=16, max_seconds=None)
ONE = FrameSampling(num_frames=1)
X264 = {"preset": "ultrafast", "crf": "30"}
ENCODINGS = {
    "h264-open-gop-8-b.mp4": (
        "libx264",
        {"preset": "fast", "bf": "8", "b-pyramid": "normal", "x264-params": "open-gop=1:keyint=30"},
    ),
    "h264-one-gop.mkv": ("libx264", {"preset": "veryfast", "g": "600", "bf": "3"}),
    "h264-baseline.flv": ("libx264", {**X264, "profile": "baseline", "g": "12"}),
    "h264.ts": ("libx264", {"preset": "veryfast", "g": "20"}),
    "h264-b.avi": ("libx264", {"preset": "veryfast", "g": "20", "bf": "3"}),
    "hevc-open-gop.mp4": (
        "libx265",
        {"preset": "veryfast", "x265-params": "log-level=none:keyint=25:open-gop=1:bframes=4"},
    ),
    "mpeg4-b.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "vp9.webm": ("libvpx-vp9", {"g": "40", "deadline": "realtime", "cpu-used": "8"}),
    "av1.mp4": ("libsvtav1", {"preset": "10", "crf": "20", "g": "40", "svtav1-params": "lp=1"}),
}
FRAMES = 120


@pytest.fixture(scope="session")
def numbered(tmp_path_factory) -> Path:
    """150 frames, 25 per second, H.264 with B-frames."""
    return media.write_numbered(tmp_path_factory.mktemp("video") / "numbered.mp4", 150, options={})


def shown(path: Path, times: np.ndarray) -> list[int]:
    """Numbers of the frames on screen at ``times``, by decoding everything in order."""
    frames = media.sequential_decode(path)
    return [[n for pts, n in frames if pts <= t + TIME_EPSILON][-1] for t in times]


def numbers(path: Path, sampling: FrameSampling = WHOLE, **options) -> list[int]:
    return media.read_numbers(read_clip(path, sampling, **options))


def reason(path: Path, **options) -> str:
    """The one-line reason why ``path`` cannot be read."""
    with pytest.raises(VideoError) as caught:
        read_clip(path, WHOLE, **options)
    assert str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


# --- the right frames ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODINGS)
def test_random_segments_hold_the_frames_that_a_sequential_decode_shows(tmp_path, name):
    codec, options = ENCODINGS[name]
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {codec}")
    path = media.write_numbered(tmp_path / name, FRAMES, codec=codec, options=options)
    assert [n for _, n in media.sequential_decode(path)] == list(range(FRAMES))
    rng = np.random.default_rng(0)
    for _ in range(12):
        start, end = np.sort(rng.uniform(0, FRAMES / 25, 2)).tolist()
        times = Plan(WHOLE, start, end, 0.5).times(FRAMES / 25)
        # AVI has no timestamps: frames are at their number / 25.
        avi = np.floor((times + TIME_EPSILON) * 25).astype(int).tolist()
        expected = avi if name.endswith(".avi") else shown(path, times)
        assert numbers(path, start=start, end=end) == expected
    if name in ("hevc-open-gop.mp4", "h264-b.avi", "mpeg4-b.mp4"):  # every frame on its own
        found = [numbers(path, ONE, start=i / 25, end=(i + 1) / 25)[0] for i in range(60)]
        assert found == list(range(60))


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    steps = np.random.default_rng(1).choice([20, 40, 500, 1000], 60)
    stamps = np.concatenate([[0], np.cumsum(steps)[:-1]]).tolist()
    options = {"preset": "veryfast", "bf": "2"}
    path = media.write_numbered(tmp_path / "v.mp4", 60, milliseconds=stamps, options=options)
    for start in (0.0, 3.3, 9.1):
        times = Plan(WHOLE, start, start + 8, 0.5).times(math.inf)
        expected = np.searchsorted(stamps, times * 1000 + 0.1, side="right") - 1
        assert numbers(path, start=start, end=start + 8) == expected.tolist()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_times_count_from_the_first_timestamp(tmp_path, suffix):
    stamps = [7000 + 40 * i for i in range(100)]
    path = tmp_path / f"late.{suffix}"
    media.write_numbered(path, 100, milliseconds=stamps, options={"preset": "veryfast", "g": "10"})
    found = [numbers(path, ONE, start=s, end=s + 0.04)[0] for s in (0.0, 1.0, 2.0, 3.8)]
    assert found == [0, 25, 50, 95]


def test_frames_repeat_when_the_clip_has_fewer(numbered):
    found = numbers(numbered, FrameSampling(num_frames=8), start=1, end=1.16)
    assert found == np.arange(25, 29).repeat(2).tolist()


def test_an_end_past_the_video_is_moved_to_its_end(numbered):
    assert numbers(numbered, start=4, end=100) == numbers(numbered, start=4, end=6)
    assert numbers(numbered, start=5.9)[-1] == 149


def test_resampling_shows_what_a_24_fps_copy_would(tmp_path):
    path = media.write_numbered(tmp_path / "fast.mp4", 180, rate=90, options=X264)
    sampling = FrameSampling(num_frames=24, max_seconds=None, resample_fps=24)
    found = numbers(path, sampling, start=0.5, end=1.5)
    assert set(found) <= {math.floor(i / 24 * 90 + 1e-6) for i in range(48)}
    assert len(set(found)) == 24


# --- windows ---------------------------------------------------------------------------------


def test_a_clip_is_32_frames_of_up_to_6_seconds_as_in_the_paper():
    sampling = FrameSampling()
    assert (sampling.num_frames, sampling.max_seconds, sampling.mode) == (32, 6.0, "uniform")


def test_a_long_segment_is_cut_to_max_seconds_in_the_middle():
    times = Plan(FrameSampling(), 10, 30, window_position("center", None)).times(100)
    assert len(times) == 32
    assert [times[0], times[-1]] == pytest.approx([17 + 6 / 64, 23 - 6 / 64])


def test_the_window_of_checkpoints_with_british_spelling_is_the_center():
    assert window_position("centre", None) == window_position("center", None) == 0.5


def test_a_random_window_stays_inside_and_follows_the_generator():
    sampling, starts = FrameSampling(), []
    for seed in range(50):
        draws = [window_position("random", np.random.default_rng(seed)) for _ in range(2)]
        assert draws[0] == draws[1]
        times = Plan(sampling, 10, 30, draws[0]).times(100)
        assert times[0] >= 10 and times[-1] < 30
        assert np.ptp(times) == pytest.approx(6 * 31 / 32)
        starts.append(times[0])
    assert np.ptp(starts) > 10


def test_ten_windows_cover_the_segment_from_its_start_to_its_end():
    plans = [Plan(FrameSampling(), 0, 60, window_position(f"{k}/10", None)) for k in range(1, 11)]
    starts = [plan.times(60)[0] - 6 / 64 for plan in plans]
    np.testing.assert_allclose(starts, np.linspace(0, 54, 10))


def test_ten_windows_of_a_short_segment_are_ten_offsets_of_the_uniform_grid():
    """3.2 s in 32 parts of 0.1 s: the k-th clip shows second 5 + 0.1 (i + (k - 0.5) / 10)."""
    sampling = FrameSampling(max_seconds=None)
    windows = [f"{k}/10" for k in range(1, 11)]
    plans = [Plan(sampling, 5, 8.2, window_position(w, None), window_phase(w)) for w in windows]
    shown = np.array([plan.times(100) for plan in plans])
    np.testing.assert_allclose(shown[0], 5.005 + 0.1 * np.arange(32))
    np.testing.assert_allclose(shown[9], 5.095 + 0.1 * np.arange(32))
    np.testing.assert_allclose(np.sort(shown.T.ravel()), 5.005 + 0.01 * np.arange(320))
    assert window_phase("center") == window_phase("whole") == window_phase("1/1") == 0.5


def test_the_whole_window_ignores_max_seconds(numbered):
    sampling = FrameSampling(num_frames=16, max_seconds=1.0)
    assert numbers(numbered, sampling, window="whole") == numbers(numbered, WHOLE)
    assert np.ptp(numbers(numbered, sampling)) < 25


def test_uniform_frames_are_the_middles_of_equal_parts_of_the_clip(numbered):
    times = Plan(FrameSampling(max_seconds=None), 0, 6, 0.0).times(6)
    assert times == pytest.approx([6 / 32 * (k + 0.5) for k in range(32)], abs=TIME_EPSILON)
    four = FrameSampling(num_frames=4, max_seconds=None)
    # Of 100 frames at 25 per second; the middles of seconds 1 to 5 are at 1.5, 2.5, 3.5 and 4.5.
    assert numbers(numbered, four, start=1, end=5) == [37, 62, 87, 112]


def test_consecutive_frames_are_a_sixteenth_apart_and_the_last_one_is_held(numbered):
    sampling = FrameSampling(mode="consecutive")
    times = Plan(sampling, 0, 10, 0.0).times(10)
    np.testing.assert_allclose(np.diff(times), 1 / 16)
    short = numbers(numbered, sampling, start=1, end=2)
    assert short[:2] == [25, 27] and short[16:] == [49] * 16


@pytest.mark.parametrize("window", ["0/10", "11/10", "middle", "", "-1/3"])
def test_unknown_windows_are_the_users_mistake(numbered, window):
    with pytest.raises(UserError, match="K/N"):
        read_clip(numbered, WHOLE, window=window)


@pytest.mark.parametrize(
    ("start", "end"), [(2, 2), (3, 2), (-1, 2), (math.nan, 2), (0, math.nan), (0, math.inf)]
)
def test_impossible_segments_are_named_with_their_values(numbered, start, end):
    bad = next(v for v in (start, end) if not (math.isfinite(v) and v >= 0) or start >= end)
    assert str(bad) in reason(numbered, start=start, end=end)


def test_a_segment_after_the_end_is_refused(numbered):
    assert reason(numbered, start=7) == "starts after the end: start 7 s, the video has 6.000 s"


# --- pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((96, 128), 128, (128, 171)),  # enlarged
        ((128, 96), 64, (85, 64)),
        ((96, 128), None, (96, 128)),
        ((242, 322), 112, (112, 149)),
    ],
)
def test_the_short_side_is_scaled(tmp_path, size, short_side, expected):
    path = media.write_video(tmp_path / "a.mp4", [np.zeros((*size, 3), np.uint8)] * 3)
    clip = read_clip(path, WHOLE, short_side=short_side)
    assert clip.shape == (16, *expected, 3) and clip.dtype == np.uint8


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p10le", "yuvj420p"])
def test_colors_survive_pixel_formats_and_odd_sizes(tmp_path, pixel_format):
    odd = (241, 321) if pixel_format == "yuv444p" else (240, 320)
    frame = np.broadcast_to(np.array([200, 60, 30], np.uint8), (*odd, 3)).copy()
    path = media.write_video(tmp_path / "a.mp4", [frame] * 2, pixel_format=pixel_format)
    clip = read_clip(path, WHOLE)
    assert np.abs(clip.astype(int) - [200, 60, 30]).max() <= 6


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_videos_come_out_upright(tmp_path, rotation):
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:48, :64] = 255  # white at the top left
    stored = np.ascontiguousarray(np.rot90(picture, -rotation // 90))
    path = media.write_video(tmp_path / "a.mp4", [stored] * 3, rotation=rotation)
    clip = read_clip(path, WHOLE, short_side=None)
    assert clip.shape[1:3] == (96, 128)
    assert clip[0, 20, 20].min() > 200 and clip[0, 20, 100].max() < 50
    assert clip[0, 70, 20].max() < 50 and clip[0, 70, 100].max() < 50


# --- folders of frames -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_folder_is_played_at_three_frames_a_second_in_natural_order(tmp_path, suffix):
    folder = media.write_folder(tmp_path / "frames", 12, suffix)
    (folder / "notes.txt").write_text("not a frame")
    twice = FrameSampling(num_frames=24, max_seconds=None)  # 6 per second over 4 s
    assert numbers(folder, twice) == np.arange(12).repeat(2).tolist()
    assert numbers(folder, FrameSampling(num_frames=3), start=1, end=2) == [3, 4, 5]
    assert probe(folder) == 4.0


def test_bad_folders_name_the_frame(tmp_path):
    assert "no frames" in reason(tmp_path)
    folder = media.write_folder(tmp_path / "frames", 3)
    (folder / "2.jpg").write_text("not a picture")
    assert reason(folder) == "frame 2.jpg is neither jpg nor png"
    (folder / "2.jpg").write_bytes((folder / "1.jpg").read_bytes()[:40])
    assert "frame 2.jpg cannot be decoded" in reason(folder)


# --- damage ----------------------------------------------------------------------------------


def test_files_that_are_no_videos_are_refused_with_what_was_found(tmp_path):
    assert reason(tmp_path / "missing.mp4") == "no such file"
    empty, text, fifo = tmp_path / "empty.mp4", tmp_path / "text.mp4", tmp_path / "pipe.mp4"
    empty.touch()
    text.write_text("hello " * 1000)
    os.mkfifo(fifo)
    assert reason(empty) == "the file is empty (0 bytes)"
    assert "not a video file" in reason(text)
    assert reason(fifo) == "not a regular local file"
    assert reason(media.write_sound(tmp_path / "sound.mp4")) == "has no video stream, found audio"


def test_a_file_that_may_not_be_read_is_refused_like_any_other(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x10ftypisom")
    monkeypatch.setattr("vt_fairseq.video.containers.open", denied, raising=False)
    assert reason(tmp_path / "broken.mp4").startswith("not a video file")


def test_a_clip_behind_a_link_that_leads_out_is_loaded_on_demand_alone(numbered, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.mp4").symlink_to(numbered)
    load = ClipLoader(root, FrameSampling(num_frames=2), ClipTransform(16, train=False), "center")
    with pytest.raises(VideoError, match="link"):
        load(ClipRow("a", "a.mp4"), None)
    assert replace(load, follow_links=True)(ClipRow("a", "a.mp4"), None).shape == (2, 16, 16, 3)


def test_a_cut_off_file_gives_what_lies_before_the_cut(tmp_path):
    options = {"preset": "veryfast", "g": "25"}
    for suffix, muxer in (("mp4", {"movflags": "faststart"}), ("mkv", {})):
        path = tmp_path / f"full.{suffix}"
        media.write_numbered(path, 150, options=options, muxer_options=muxer)
        cut = tmp_path / f"cut.{suffix}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
        assert numbers(cut, start=0, end=1) == numbers(path, start=0, end=1)
        assert reason(cut, start=5, end=6)
    # FFmpeg sees no error in the Matroska file: it is a shorter video, sampled evenly.
    shorter = numbers(cut)
    assert 60 < shorter[-1] < 149 and np.ptp(np.diff(shorter)) <= 1
    with_index_at_end = media.write_numbered(tmp_path / "end.mp4", 50, options=options)
    with_index_at_end.write_bytes(with_index_at_end.read_bytes()[:-2000])
    assert reason(with_index_at_end).startswith("an MP4 or MOV file, cut off or damaged: ")


def test_too_large_and_too_narrow_frames_are_refused(tmp_path):
    black = np.zeros((4400, 8200, 3), np.uint8)
    large = media.write_video(
        tmp_path / "large.mkv", [black], codec="mjpeg", pixel_format="yuvj420p"
    )
    assert "more than 35389440 pixels" in reason(large)
    narrow = media.write_video(tmp_path / "narrow.mp4", [np.zeros((1000, 2, 3), np.uint8)])
    assert "2x1000 pixels are no picture" in reason(narrow)


def test_a_file_whose_decoding_does_not_end_is_given_up(tmp_path, monkeypatch):
    path = media.write_numbered(tmp_path / "a.webm", 30, codec="libvpx")
    monkeypatch.setattr("vt_fairseq.video.decoding.MAX_DECODING_SECONDS", -1.0)
    assert "decoding takes more than" in reason(path)


# --- security --------------------------------------------------------------------------------


@pytest.fixture
def url():
    """An address on this machine; the test fails when anything has connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.mp4"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_address_nor_protocol_is_opened(url, numbered, tmp_path, monkeypatch):
    local = str(numbered)
    monkeypatch.chdir(tmp_path)
    for path in (
        *(url, url.replace("http", "tcp"), f"concat:{local}|{local}", f"file:{local}"),
        *(f"subfile,,start,0,end,0,,:{local}", f"cache:{local}", "pipe:0", "-i", "data:,x"),
    ):
        assert reason(path) == "no such file"
    shutil.copy(numbered, tmp_path / "concat:a")  # an innocent file with an odd name
    assert numbers(Path("concat:a")) == numbers(numbered)


@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ffconcat", "sdp", "avi"])
def test_disguised_playlists_open_nothing_else(url, numbered, tmp_path, suffix):
    playlists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{target}\n#EXT-X-ENDLIST\n"
        for target in (url, numbered)
    ]
    playlists += [f"ffconcat version 1.0\nfile '{target}'\n" for target in (url, numbered)]
    playlists += [
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ]
    playlists += [f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>']
    for text in playlists:
        path = tmp_path / f"list.{suffix}"
        path.write_text(text)
        assert "not a video file" in reason(path)


class Decoder:
    """A stream in which packets are lists of frames, or None for a broken one."""

    def decode(self, packet):
        if packet is None:
            return []  # nothing was kept back
        if packet.frames is None:
            raise av.error.InvalidDataError(1, "broken")
        return packet.frames


def packet(frames):
    return SimpleNamespace(size=1, is_corrupt=False, frames=frames)


def test_a_broken_last_packet_is_where_the_file_was_cut_off_unless_nothing_came_before_it():
    assert list(_decoded(Decoder(), [packet(["first"]), packet(None)])) == ["first"]
    with pytest.raises(av.error.InvalidDataError):
        list(_decoded(Decoder(), [packet(None)]))
    frames = _decoded(Decoder(), [packet(["first"]), packet(None), packet(["second"])])
    assert next(frames) == "first"
    with pytest.raises(av.error.InvalidDataError):
        next(frames)
