"""Decoding of real files: odd ones give frames or one named reason."""

import json

import av
import numpy as np
import pytest
import torch

from vt_fairseq.errors import VideoError
from vt_fairseq.video.decoding import FrameSampling, probe, read_clip

pytestmark = pytest.mark.data
CLIP = FrameSampling()
# File to (H, W) of its frames at short side 128, or the beginning of the reason.
ODD = {
    "decord/corrupted.mp4": "damaged at ",
    "decord/flipping_a_pancake.mkv": (128, 227),
    "decord/unordered.mov": (128, 128),
    "decord/video_0.mov": (128, 227),
    "decord/video_90.mov": (227, 128),
    "decord/video_180.mov": (128, 227),
    "decord/video_270.mov": (227, 128),
    "moviepy/-video-with-dash-.mp4": (128, 128),
    "moviepy/bitmap.mp4": (128, 128),
    "moviepy/crunching.mp3": "not a video file of a known format",
    "moviepy/fire2.mp4": (128, 228),
    "moviepy/no_duration.webm": (128, 228),
    "moviepy/result.webm": "the file is empty (0 bytes)",
    "moviepy/transparent.webm": (128, 128),
    "mp4parse/bipbop_cbcs_video_init.mp4": "no frame can be decoded",
    "mp4parse/chunk_out_of_range.mp4": "an MP4 or MOV file, cut off or damaged: ",
    "mp4parse/no_timescale.mp4": "damaged at ",
    "mp4parse/opus_audioinit.mp4": "has no video stream, found audio",
    "mp4parse/short-cenc.mp4": "no frame can be decoded",
    "mp4parse/test_case_1185230.mp4": "no frame can be decoded",
    "mp4parse/video_colr_nclx_hdr10.mp4": (128, 128),
    "mp4parse/video_rotation_90.mp4": (213, 128),
}
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mp3")


@pytest.fixture
def videos(test_data):
    return test_data / "video"


def test_every_odd_file_gives_frames_or_its_named_reason(videos):
    files = {p.relative_to(videos / "odd").as_posix() for p in (videos / "odd").glob("*/*")}
    assert {f for f in files if f.endswith(SUFFIXES)} == set(ODD)
    for name, expected in ODD.items():
        path = videos / "odd" / name
        if isinstance(expected, tuple):
            assert read_clip(path, CLIP).shape == (32, *expected, 3), name
            assert probe(path) > 0
            continue
        with pytest.raises(VideoError) as caught:
            read_clip(path, CLIP)
        assert str(caught.value).startswith(expected), name
        assert "\n" not in str(caught.value)


def test_all_clips_decode(videos):
    files = sorted(p for p in (videos / "clips").glob("*/*") if p.suffix in SUFFIXES[:-1])
    assert len(files) > 60
    for path in files:
        clip = read_clip(path, CLIP)
        assert clip.shape[0] == 32 and min(clip.shape[1:3]) == 128, path
        assert probe(path) > 0.5, path


@pytest.mark.parametrize(("name", "turns"), [("0", 0), ("90", 1), ("180", 2), ("270", 3)])
def test_rotated_recordings_come_out_upright(videos, name, turns):
    """The four show a keyboard from other places; these turns made its letters upright by eye."""
    path = videos / f"odd/decord/video_{name}.mov"
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    upright = read_clip(path, FrameSampling(num_frames=1), end=0.03, short_side=None)
    np.testing.assert_array_equal(upright[0], np.rot90(stored, -turns))


@pytest.mark.parametrize("frame", [0, 35])
def test_frames_equal_torchcodecs_known_answers(videos, frame):
    folder = videos / "clips/torchcodec"
    info = json.loads((folder / "nasa_13013.mp4.stream3.all_frames_info.json").read_text())
    start = float(info[frame]["pts_time"])
    video = folder / "nasa_13013.mp4"  # its best stream is number 3
    options = {"start": start, "end": start + 0.03, "short_side": None}
    clip = read_clip(video, FrameSampling(num_frames=1), **options)
    answer = torch.load(folder / f"nasa_13013.mp4.stream3.frame{frame:06d}.pt", weights_only=True)
    np.testing.assert_array_equal(clip[0], answer.numpy())


def test_damage_after_the_last_wanted_frame_does_no_harm(videos):
    clip = read_clip(videos / "odd/decord/corrupted.mp4", CLIP, start=0.5, end=2.0)
    assert clip.shape[0] == 32


def test_a_missing_duration_is_found_from_the_packets(videos):
    assert probe(videos / "odd/moviepy/no_duration.webm") == pytest.approx(4.94, abs=0.05)


def test_avi_files_with_names_that_are_not_utf8_decode(videos):
    for path in (videos / "clips/torchvision").glob("*.avi"):
        assert len(np.unique(read_clip(path, CLIP), axis=0)) > 20, path
