"""Copies at the training size show the same frames at the same times."""

import json

import av
import numpy as np
import pytest

from tests import media
from tests.conftest import run_main
from vt_fairseq.corpora.rows import copy_name
from vt_fairseq.corpora.transcode import GOP_SECONDS, transcode
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import VideoError
from vt_fairseq.video.decoding import probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

SAMPLING = FrameSampling(num_frames=16, max_seconds=None)
X264 = {"preset": "ultrafast", "bf": "2"}


def numbers(path, start=None, end=None) -> list[int]:
    return media.read_numbers(read_clip(path, SAMPLING, start=start, end=end, short_side=48))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("constant.mp4", {"options": X264}),
        ("variable.mkv", {"milliseconds": [10 * i + (i // 7) * 90 for i in range(100)]}),
        ("packed.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
    ],
)
def test_a_copy_shows_the_same_frames_at_the_same_times(tmp_path, name, options):
    source = media.write_numbered(tmp_path / name, 100, **options)
    copy = tmp_path / "copies" / copy_name(name, tmp_path)
    seconds = transcode(source, copy, 48)
    assert seconds == pytest.approx(probe(source), abs=0.06)
    for start, end in [(None, None), (0.33, 0.8), (0.5, 1.1)]:
        assert numbers(copy, start, end) == numbers(source, start, end)


def test_a_copy_is_upright_small_and_has_a_keyframe_a_second(tmp_path):
    source = media.write_numbered(tmp_path / "a.mp4", 100, options=X264, rotation=90)
    transcode(source, tmp_path / "b.mp4", 48)
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.width, frame.height, frame.rotation) == (48, 64, 0)
    with av.open(str(tmp_path / "b.mp4")) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe]
    assert keys == pytest.approx(np.arange(4) * GOP_SECONDS, abs=0.05)
    close = read_clip(tmp_path / "b.mp4", SAMPLING, short_side=48).astype(int)
    assert np.abs(close - read_clip(source, SAMPLING, short_side=48)).mean() < 8


def test_a_small_video_is_not_enlarged_and_odd_sides_are_kept_whole(tmp_path):
    frames = [np.full((33, 51, 3), 90, np.uint8)] * 5
    source = media.write_video(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format="bgr0")
    transcode(source, tmp_path / "b.mp4", 128)
    copy = read_clip(tmp_path / "b.mp4", SAMPLING, short_side=None)
    assert copy.shape[1:3] == (34, 52)


def test_a_folder_of_frames_becomes_a_folder_of_small_frames_in_the_same_order(tmp_path):
    source = media.write_folder(tmp_path / "frames", 12)
    assert copy_name("frames", tmp_path) == "frames"
    assert transcode(source, tmp_path / "copy", 48) == 4.0
    assert numbers(tmp_path / "copy") == numbers(source)
    assert read_clip(tmp_path / "copy", SAMPLING, short_side=None).shape[1] == 48


def test_a_copy_that_is_there_is_kept_and_an_outdated_one_made_anew(tmp_path):
    source = media.write_numbered(tmp_path / "a.mp4", 10, options=X264)
    copy = tmp_path / "b.mp4"
    transcode(source, copy, 48)
    inode = copy.stat().st_ino
    transcode(source, copy, 48)
    assert copy.stat().st_ino == inode
    media.write_numbered(source, 20, options=X264)
    assert transcode(source, copy, 48) == pytest.approx(0.8)
    assert copy.stat().st_ino != inode


def test_a_damaged_video_gives_its_reason_and_leaves_no_copy(tmp_path):
    source = media.write_numbered(tmp_path / "a.mp4", 100, options=X264)
    data = bytearray(source.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    source.write_bytes(data)
    with pytest.raises(VideoError):
        transcode(source, tmp_path / "copies" / "b.mp4", 48)
    assert not list((tmp_path / "copies").iterdir())


def test_vt_prepare_transcode_makes_copies_that_the_rows_name(tmp_path):
    """The real command; an unreadable video is rejected, a second run makes nothing again."""
    media.write_numbered(tmp_path / "a.mkv", 50, options=X264)
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    rows = [{"id": v, "video": v, "caption": "numbers", "end": 1.0} for v in ("a.mkv", "b.mp4")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["jsonl", "--annotations", tmp_path / "a.jsonl", "--videos", tmp_path]
    arguments += ["--out", tmp_path / "data", "--train-vocabulary", "60", "--transcode", "48"]
    for _ in range(2):
        run_main("vt_fairseq.cli.prepare", *map(str, arguments))
        data = DataDirectory.open(tmp_path / "data")
        assert data.splits == {"train": {"rows": 1, "rejected": 1}}
        copy = data.video_root / data.manifest("train")[0].video
        assert copy == tmp_path / "data" / "videos" / "a.mkv.mp4"
        assert numbers(copy, end=1.0) == numbers(tmp_path / "a.mkv", end=1.0)
    assert "broken video" in (tmp_path / "data" / "rejected.jsonl").read_text()
