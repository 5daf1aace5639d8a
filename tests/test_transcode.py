"""Copies at the training size show the same frames at the same times."""

import errno
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from tests.conftest import run_main
from vt_fairseq import corpora
from vt_fairseq.corpora.rows import copy_name
from vt_fairseq.corpora.transcode import GOP_SECONDS, transcode
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import RunFailure, UserError, VideoError
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


def test_a_copy_is_written_to_a_folder_whose_name_looks_like_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = media.write_numbered(tmp_path / "a.mp4", 10, options=X264)
    transcode(source, Path("concat:a/b.mp4"), 48)
    assert numbers("concat:a/b.mp4") == numbers(source)


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


def test_a_copy_of_another_size_is_made_anew(tmp_path):
    source = media.write_numbered(tmp_path / "a.mp4", 4, options=X264)
    folder = media.write_folder(tmp_path / "frames", 2)
    for short_side in (24, 40):
        for original in (source, folder):
            copy = tmp_path / "copies" / original.name
            transcode(original, copy, short_side)
            made = copy.stat().st_mtime_ns
            transcode(original, copy, short_side)
            assert copy.stat().st_mtime_ns == made
            assert read_clip(copy, SAMPLING, short_side=None).shape[1] == short_side


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


def test_an_outdated_copy_of_a_folder_of_frames_is_made_anew(tmp_path):
    source = media.write_folder(tmp_path / "frames", 3)
    transcode(source, tmp_path / "copy", 48)
    (source / "1.jpg").unlink()
    os.utime(source, (2e9, 2e9))
    assert transcode(source, tmp_path / "copy", 48) == pytest.approx(2 / 3)
    assert set(numbers(tmp_path / "copy")) == {1, 2}


def test_no_two_videos_have_the_same_copy(tmp_path):
    names = ["a.mp4", "a.mkv", "a.mkv.mp4", "a", "b.MP4", "a.mkv.mp4.mp4"]
    for name in names:
        (tmp_path / name).touch()
    copies = [copy_name(name, tmp_path) for name in names]
    assert len(set(copies)) == len(names)
    assert copies[:1] == ["a.mp4"] and all(name.lower().endswith(".mp4") for name in copies)


def test_a_disk_that_takes_no_copies_is_no_fault_of_the_video(tmp_path):
    source = media.write_numbered(tmp_path / "a.mp4", 5, options=X264)
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"no copy can be written to .*b\.mp4: expected .* a folder"
    ):
        transcode(source, tmp_path / "file" / "b.mp4", 48)


def write_stamped(path, stamps):
    """A video whose frames have these timestamps in ms, in this order, whatever they are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={**X264, "bf": "0", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = media.WIDTH, media.HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        frames = [
            av.VideoFrame.from_ndarray(media.numbered_frame(n), format="rgb24")
            for n in range(len(stamps))
        ]
        for n, frame in enumerate(frames):
            frame.pts, frame.time_base = n * 10, Fraction(1, 1000)
        packets = [p for frame in (*frames, None) for p in stream.encode(frame)]
        for order, (packet, stamp) in enumerate(zip(packets, stamps, strict=True)):
            packet.dts, packet.pts, packet.time_base = order, stamp, Fraction(1, 1000)
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    "stamps",
    [
        [0, 40, 80, 80, 120, 160, 200, 200, 200, 240],
        [0, 40, 80, 70, 120, 160, 150, 140, 200, 240],
        [0, 40, 80, 120, 120, 120, 120, 160],
    ],
)
def test_of_frames_with_one_timestamp_the_last_is_shown_and_copied(tmp_path, stamps):
    source = write_stamped(tmp_path / "a.mkv", stamps)
    transcode(source, tmp_path / "b.mp4", 48)
    first = stamps[0]
    shown = {max(stamps[: n + 1]): n for n in range(len(stamps))}  # stamp -> the last with it
    for stamp, number in shown.items():
        at = (stamp - first) / 1000
        for path in (source, tmp_path / "b.mp4"):
            assert set(numbers(path, at + 0.002, at + 0.008)) == {number}


def test_one_bad_file_never_ends_a_preparation(tmp_path):
    """Each file is copied or its row rejected with a reason; the command ends well."""
    videos = tmp_path / "videos"
    videos.mkdir()
    good = media.write_numbered(videos / "good.mp4", 30, options=X264)
    write_stamped(videos / "double.mkv", [0, 40, 40, 80, 120, 120])
    data = good.read_bytes()
    (videos / "cut.mp4").write_bytes(data[: len(data) // 2])
    (videos / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (videos / "text.mp4").write_text("no video")
    (videos / "empty.mp4").touch()
    (videos / "nothing").mkdir()
    media.write_folder(videos / "frames", 2)
    (videos / "frames" / "3.jpg").mkdir()
    (videos / "half").mkdir()
    (videos / "half" / "1.jpg").write_bytes(b"\xff\xd8\xff half")
    (videos / "loop.mp4").symlink_to("loop.mp4")
    media.write_video(videos / "odd.mkv", [np.zeros((33, 51, 3), np.uint8)], codec="ffv1")
    (videos / "good.mp4.mkv").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(200))
    names = [*sorted(p.name for p in videos.iterdir()), "gone.mp4", "a/\0.mp4", "x" * 400]
    rows = [{"id": str(n), "video": v, "caption": "numbers"} for n, v in enumerate(names)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["jsonl", "--annotations", tmp_path / "a.jsonl", "--videos", videos]
    arguments += ["--out", tmp_path / "data", "--train-vocabulary", "60", "--transcode", "48"]
    run_main("vt_fairseq.cli.prepare", *map(str, arguments))
    data = DataDirectory.open(tmp_path / "data")
    kept = {names[int(row.id)] for row in data.manifest("train")}
    assert kept == {"good.mp4", "double.mkv", "odd.mkv"}
    assert data.splits == {"train": {"rows": 3, "rejected": len(names) - 3}}


def test_a_full_disk_is_a_failure_and_not_the_videos_fault(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = media.write_numbered(tmp_path / "a.mp4", 5, options=X264)
    monkeypatch.setattr(corpora.transcode, "_encode", full)
    with pytest.raises(RunFailure, match=r"no copy can be written to .*b\.mp4: the disk is full"):
        transcode(source, tmp_path / "b.mp4", 48)
    assert not list(tmp_path.glob("*b.mp4*"))
