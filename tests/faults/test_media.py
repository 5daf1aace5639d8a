"""Videos that cannot be read, in training."""

import re
import shutil

from tests.commands import PLUGIN, TINY, run


def test_training_stops_when_too_many_clips_cannot_be_read(data_directory, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(data_directory / "world" / "videos", videos)
    for path in sorted(videos.glob("train-*.mp4"))[:2]:
        path.write_bytes(b"not a video")
    arguments = [data_directory, *PLUGIN, *TINY, "--video-root", videos, "--no-save"]
    arguments += ["--disable-validation", "--max-epoch", "9", "--save-dir", tmp_path / "save"]
    log = run("fairseq-train", *arguments, expected_code=1)
    last = log.splitlines()[-1]
    assert "Traceback" not in log
    bad, seen = map(int, re.search(r"error: (\d+) of (\d+) clips of this process", last).groups())
    assert bad > 20 and bad > 0.1 * seen and "--max-bad-fraction 0.1" in last
    assert re.search(r"the last one was train-\d+-\d: .*video", last)
