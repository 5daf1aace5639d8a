"""Videos that cannot be read, in training."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from fairseq.tasks import FairseqTask

from tests.commands import PLUGIN, TINY, run
from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.data.manifest import ClipRow, Manifest, write_manifest
from vt_fairseq.data.unreadable_clips import UnreadableClips
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.task import VideoTranslateTask


@pytest.mark.slow
def test_training_stops_when_too_many_clips_cannot_be_read(data_directory, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(data_directory / "world" / "videos", videos)
    for path in sorted(videos.glob("train-*.mp4"))[:2]:
        path.write_bytes(b"not a video")
    arguments = [data_directory, *PLUGIN, *TINY, "--video-root", videos, "--no-save"]
    arguments += ["--disable-validation", "--max-epoch", "9", "--save-dir", tmp_path / "save"]
    log = run("fairseq-train", *arguments, expected_code=2)
    last = log.splitlines()[-1]
    assert "Traceback" not in log
    bad, seen = map(int, re.search(r"error: (\d+) of (\d+) clips of this process", last).groups())
    assert bad > 20 and bad > 0.1 * seen and "--max-bad-fraction" in last and "0.1;" in last
    assert re.search(r"the last one was train-\d+-\d: .*video", last)


def bad_draws(rows: list[ClipRow], corrupt: set[str], epoch: int) -> int:
    """Reads that fail in an epoch: each corrupt row's, and those of the rows drawn for it."""

    def load(row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        if row.id in corrupt:
            raise VideoError("corrupt")
        return np.zeros((1, 1, 1, 3), np.uint8)

    dataset = VideoTextDataset(rows, load, 1, [], False, None, seed=1, train=True)
    dataset.set_epoch(epoch)
    return sum(len(dataset[index].unreadable) for index in range(len(rows)))


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--actions", "caption,classify", "--reuse-batch"]])
def test_with_one_clip_in_twenty_corrupt_training_goes_to_its_end_and_counts_them(
    data_directory, tmp_path, more
):
    data, videos = tmp_path / "data", tmp_path / "videos"
    shutil.copytree(data_directory, data, ignore=shutil.ignore_patterns("world"))
    videos.mkdir()
    sound = (data_directory / "world" / "videos" / "train-00000.mp4").read_bytes()
    row = Manifest(data / "train.arrow")[0]
    rows = [replace(row, id=f"clip-{n}", video=f"{n}.mp4") for n in range(40)]
    for made in rows:
        (videos / made.video).write_bytes(sound)
    (videos / "7.mp4").write_bytes(b"not a video")
    (videos / "33.mp4").write_bytes(sound[: len(sound) // 2])
    write_manifest(data / "train.arrow", rows)
    described = json.loads((data / "data.json").read_text())
    described["splits"]["train"]["rows"] = len(rows)
    (data / "data.json").write_text(json.dumps(described))
    log = run(
        "fairseq-train",
        *[data, *PLUGIN, *TINY, "--video-root", videos, "--save-dir", tmp_path / "save"],
        *["--max-epoch", "3", "--disable-validation", "--no-epoch-checkpoints"],
        *["--max-target-tokens", "caption=3", *more],
    )
    assert (tmp_path / "save" / "checkpoint_last.pt").exists() and "done training" in log
    assert sorted(re.findall(r"cannot read clip ([\w-]+): ", log)) == ["clip-33", "clip-7"]
    counted = [int(n) for n in re.findall(r"\| train \|.* bad_clips (\d+)", log)]
    expected = [bad_draws(rows, {"clip-7", "clip-33"}, epoch) for epoch in (1, 2, 3)]
    assert counted == expected and min(counted) >= 2
    # Captions cut at the length limit are counted as well: all of them here.
    assert re.findall(r"\| train \|.* cut_targets (\d+)", log) == ["40", "40", "40"]


def test_a_sample_that_only_fills_up_an_epoch_counts_no_clip(monkeypatch):
    logged = {"loss": 2.0, "ntokens": 3}
    monkeypatch.setattr(FairseqTask, "train_step", lambda *args, **kwargs: (None, 4, dict(logged)))
    task = object.__new__(VideoTranslateTask)
    task.unreadable = UnreadableClips(max_fraction=0)
    sample = {"unreadable": [("a", "gone")] * 11, "num_decoded": 11}
    assert task.train_step(sample, ignore_grad=False) == (None, 4, logged)
    for _ in range(2):
        filled = task.train_step(sample, ignore_grad=True)
        assert filled == (None, 0, dict.fromkeys(logged, 0))
    with pytest.raises(UserError, match="22 of 22 clips of this process"):
        task.train_step(sample, ignore_grad=False)
