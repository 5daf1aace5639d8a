"""Videos made to take memory or time forever, sizes that change, and containers across a fork."""

import os
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests import media
from tests.faults.forks import in_a_process
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError
from vt_fairseq.video import decoding
from vt_fairseq.video.decoding import frames_of, probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

WHOLE = FrameSampling(num_frames=8, max_seconds=None)
LARGE = (16384, 8192)
MOST_MB = 100


def peak_mb() -> float:
    """This process's most memory since its "clear_refs" was written."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def refusal(call, path: Path) -> tuple[str, float]:
    """Reason why ``path`` is refused, and by how many MB memory rose; in a process of its own."""

    def measured() -> tuple[str, float]:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mb()
        with pytest.raises(VideoError) as caught:
            call(path)
        return str(caught.value), peak_mb() - before

    kind, found = in_a_process(measured)
    assert kind == "done", (kind, found)
    return found


def write_large(path: Path, seconds: float) -> None:
    """A black frame of 537 MB as RGB in 200 kB of H.264, shown at ``seconds``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height = LARGE
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(*LARGE, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = round(seconds * 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    for name, seconds in (("large.mp4", 0), ("large.ts", 3)):  # encoding takes 700 MB, not kept
        assert in_a_process(lambda n=name, s=seconds: write_large(folder / n, s)) == ("done", None)
    return folder


@pytest.mark.parametrize("name", ["large.mp4", "large.ts"])
@pytest.mark.parametrize("call", [probe, lambda path: read_clip(path, WHOLE)])
def test_a_frame_of_gigabytes_is_refused_before_it_is_decoded(large, name, call):
    why, rise = refusal(call, large / name)
    print(f"{name}, {(large / name).stat().st_size} bytes: {rise:.0f} MB more memory")
    assert "16384x8192 pixels, at most" in why and rise < MOST_MB


def test_a_frame_that_grows_inside_a_stream_is_refused_too(large, tmp_path):
    small = media.write_numbered(tmp_path / "small.ts", 50)
    path = tmp_path / "grows.ts"
    parts = (small, large / "large.ts", small)
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    why, rise = refusal(lambda path: read_clip(path, WHOLE), path)
    assert "damaged at" in why and rise < MOST_MB, (why, rise)
    before = media.read_numbers(read_clip(path, WHOLE, end=1))
    assert before == media.read_numbers(read_clip(small, WHOLE, end=1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_ten_hours_are_refused_with_their_length(tmp_path, suffix):
    path = tmp_path / f"long.{suffix}"
    media.write_numbered(path, 3, milliseconds=[0, 40, 10 * 3600 * 1000])
    for call in (probe, lambda path: read_clip(path, WHOLE)):
        why, rise = refusal(call, path)
        assert why == "lasts 10.0 hours, at most 8 are read" and rise < MOST_MB


@pytest.mark.parametrize("sizes", [((96, 128), (192, 256)), ((192, 256), (96, 128))])
def test_a_size_that_changes_inside_a_stream_gives_the_frames_in_the_first_size(tmp_path, sizes):
    parts = []
    for part, size in enumerate(sizes):
        numbers = range(25 * part, 25 * part + 25)
        pictures = [
            np.kron(media.numbered_frame(n), np.ones((size[0] // 96, size[0] // 96, 1), np.uint8))
            for n in numbers
        ]
        path = tmp_path / f"{part}.ts"
        # Without B-frames, whose delay would shift the first part into the second.
        stamps = [40 * n for n in numbers]
        media.write_video(path, pictures, milliseconds=stamps, options={"bf": "0"})
        parts.append(path.read_bytes())
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    one = FrameSampling(num_frames=1)
    for number in (0, 10, 24, 25, 30, 45):
        start = number / 25
        frames = read_clip(path, one, start=start, end=start + 0.04, short_side=None)
        # Some ways to a frame begin at the change, where the first size is another.
        assert frames.shape[1:] in ((*sizes[0], 3), (*sizes[number // 25], 3))
        assert media.read_numbers(frames) == [number]
    assert read_clip(path, WHOLE, short_side=None).shape == (8, *sizes[0], 3)
    for clip in (read_clip(path, WHOLE), read_clip(path, WHOLE, start=0.5, end=1.5)):
        assert clip.shape == (8, 128, 171, 3)
        assert media.read_numbers(clip)[0] < 25 <= media.read_numbers(clip)[-1]


# --- a decoder that does not come back -----------------------------------------------------------


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """A folder with ``sound.mp4`` and ``hangs.mp4``, which FFmpeg opens and waits for forever."""
    media.write_numbered(tmp_path / "sound.mp4", 10)
    path = tmp_path / "hangs.mp4"
    os.mkfifo(path)
    isfile, getsize = os.path.isfile, os.path.getsize
    monkeypatch.setattr(os.path, "isfile", lambda p: str(p) == str(path) or isfile(p))
    monkeypatch.setattr(os.path, "getsize", lambda p: getsize(p) or 1)
    monkeypatch.setattr(decoding, "MAX_CALL_SECONDS", 0.4)
    yield tmp_path
    for _ in range(threading.active_count()):  # let the abandoned threads end
        with open(os.open(path, os.O_RDWR), "wb"):
            pass


@pytest.mark.parametrize("train", [True, False])
def test_a_call_of_the_decoder_that_hangs_is_skipped_and_counted(hanging, train):
    rows = [ClipRow(name, f"{name}.mp4") for name in ("hangs", "sound")]
    loader = ClipLoader(hanging, WHOLE, ClipTransform(28, train=False), "center")
    dataset = VideoTextDataset(rows, loader, 1, [], False, None, seed=0, train=train)
    clips = [dataset[0], dataset[1]]
    reason = "its reading has not ended after 0.4 s, in one call of the decoder"
    assert set(clips[0].unreadable) == {("hangs", reason)} and clips[1].unreadable == []
    assert clips[1].frames.shape == (8, 28, 28, 3)
    if train:  # another row in its place
        np.testing.assert_array_equal(clips[0].frames, clips[1].frames)
    else:
        assert clips[0].missing and clips[0].frames is None


def test_a_container_open_in_the_trainer_does_not_disturb_its_workers(tmp_path):
    path = media.write_numbered(tmp_path / "a.mp4", 40)
    expected = read_clip(path, WHOLE)  # this process's thread for reading does not survive a fork
    opened = frames_of(path)
    seen = [next(opened)[0] for _ in range(5)]
    workers = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 60}
    for clip in DataLoader([path] * 4, collate_fn=lambda p: read_clip(p[0], WHOLE), **workers):
        np.testing.assert_array_equal(clip, expected)
    seen += [seconds for seconds, _, _ in opened]
    np.testing.assert_allclose(seen, np.arange(40) / 25)
