"""Paths in a manifest that somebody else prepared: nothing outside of the video root is opened."""

import os
from pathlib import Path

import pytest

from tests import media
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform


@pytest.fixture(scope="module")
def loader(tmp_path_factory) -> ClipLoader:
    """Of a folder with one video; another video lies beside the folder."""
    root = tmp_path_factory.mktemp("paths") / "videos"
    root.mkdir()
    media.write_numbered(root / "-a.mp4", 10, codec="mpeg4")
    (root.parent / "secret.mp4").write_bytes((root / "-a.mp4").read_bytes())
    (root / "link.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "inside.mp4").symlink_to(root / "-a.mp4")
    return ClipLoader(root, FrameSampling(num_frames=4), ClipTransform(24, train=False), "center")


@pytest.mark.parametrize("video", ["-a.mp4", "inside.mp4", "./x/../-a.mp4"])
def test_a_file_below_the_root_is_read(loader, video):
    (loader.video_root / "x").mkdir(exist_ok=True)
    assert loader(ClipRow("1", video), None).shape == (4, 24, 24, 3)


@pytest.mark.parametrize("video", ["../secret.mp4", "{root}/../secret.mp4", "link.mp4"])
def test_a_path_or_link_out_of_the_root_is_refused(loader, video):
    path = video.replace("{root}", str(loader.video_root))
    assert os.path.exists(loader.video_root / path)
    with pytest.raises(VideoError, match="outside of the video root"):
        loader(ClipRow("1", path), None)


@pytest.mark.parametrize(
    "video",
    [
        "http://127.0.0.1:1/a.mp4", "rtsp://x", "concat:-a.mp4|-a.mp4", "subfile,,start,0,,:-a",
        "data:,x", "pipe:0", "-i", ";touch ran", "$(touch ran)", "a\nb.mp4", " ", "file:-a.mp4",
    ],
)  # fmt: skip
def test_anything_else_is_only_the_name_of_a_file_that_is_not_there(loader, video, monkeypatch):
    monkeypatch.chdir(loader.video_root)
    before = sorted(Path().iterdir())
    with pytest.raises(VideoError, match="no such file"):
        loader(ClipRow("1", video), None)
    assert sorted(Path().iterdir()) == before
