"""Paths in a manifest that somebody else prepared: nothing outside of the video root is opened."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests import media
from tests.commands import PLUGIN, run
from tests.corpora import write_jsonl
from vt_fairseq.cli import caption, prepare, report
from vt_fairseq.cli import score as score_command
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow, DataDirectory
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
    with pytest.raises(VideoError, match="outside of the folder of videos"):
        loader(ClipRow("1", path), None)


# --- links ----------------------------------------------------------------------------------------


@pytest.fixture
def frames(tmp_path) -> Path:
    """A video root with a folder of frames, of which the fifth is a link to a secret picture."""
    root = tmp_path / "root"
    root.mkdir()
    media.write_folder(root / "frames", 6)
    media.write_folder(tmp_path / "secret", 1)
    (root / "frames" / "5.jpg").unlink()
    (root / "frames" / "5.jpg").symlink_to(tmp_path / "secret" / "1.jpg")
    return root


def load(root: Path | None, video: str, start: float, end: float, **options) -> np.ndarray:
    transform = ClipTransform(24, train=False)
    sampling = FrameSampling(num_frames=2)
    loader = ClipLoader(root, sampling, transform, "center", link_suggestion="ASK", **options)
    return loader(ClipRow("1", video, start, end), None)


def test_a_frame_that_is_a_link_out_of_the_root_is_refused_and_the_others_are_read(frames):
    assert load(frames, "frames", 0, 1).shape == (2, 24, 24, 3)
    with pytest.raises(VideoError, match=r"outside of the folder of videos: .* 5\.jpg .*; ASK$"):
        load(frames, "frames", 1.4, 1.6)
    assert load(frames, "frames", 1.4, 1.6, follow_links=True).shape == (2, 24, 24, 3)


def test_the_frames_of_ones_own_folder_must_lie_in_it_but_a_file_that_is_named_may_be_a_link(
    frames, tmp_path
):
    own = str(frames / "frames")
    assert load(None, own, 0, 1).shape == (2, 24, 24, 3)
    with pytest.raises(VideoError, match="outside of the folder of videos"):
        load(None, own, 1.4, 1.6)
    assert load(None, own, 1.4, 1.6, follow_links=True).shape == (2, 24, 24, 3)
    media.write_numbered(tmp_path / "a.mp4", 10)
    (frames / "link.mp4").symlink_to(tmp_path / "a.mp4")
    assert load(None, str(frames / "link.mp4"), 0, 0.2).shape == (2, 24, 24, 3)


@pytest.mark.parametrize("video", ["folder/a.mp4", "folder/../a.mp4", "chain.mp4", "folder/frames"])
def test_a_link_anywhere_on_the_way_is_refused(frames, tmp_path, video):
    """In the middle of the path, before "..", and behind another link."""
    outside = tmp_path / "outside" / "deep"
    outside.mkdir(parents=True)
    for folder in (outside, outside.parent):
        media.write_numbered(folder / "a.mp4", 10)
    media.write_folder(outside / "frames", 3)
    (frames / "folder").symlink_to(outside)
    (frames / "chain.mp4").symlink_to(frames / "folder" / "a.mp4")
    with pytest.raises(VideoError, match=r"outside of the folder of videos|no such file"):
        load(frames, video, 0, 0.2)
    if video != "folder/../a.mp4":  # which names a.mp4 in the root, where there is none
        assert load(frames, video, 0, 0.2, follow_links=True).shape == (2, 24, 24, 3)


def test_links_that_lead_out_are_not_followed_where_links_are_allowed_and_the_path_has_dots(frames):
    """--follow-links trusts the links that are there, not the paths of the manifest."""
    (frames.parent / "a.mp4").touch()
    with pytest.raises(VideoError, match="the manifest's path leads out"):
        load(frames, "../a.mp4", 0, 1, follow_links=True)


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path) -> Path:
    """Annotations of a video and of a folder of frames, as a cache stores them: as links."""
    blobs, videos = tmp_path / "blobs", tmp_path / "videos"
    (videos / "frames").mkdir(parents=True)
    media.write_folder(blobs, 3)
    media.write_numbered(blobs / "0a1b", 25, muxer="mp4")
    (videos / "a.mp4").symlink_to(blobs / "0a1b")
    for number in (1, 2, 3):
        (videos / "frames" / f"{number}.jpg").symlink_to(blobs / f"{number}.jpg")
    rows = [{"id": name, "video": name, "caption": "a red circle"} for name in ("a.mp4", "frames")]
    write_jsonl(tmp_path / "a.jsonl", *rows)
    return tmp_path


def prepare_cached(folder: Path, call_main, out: str, *options: str) -> tuple[int, str]:
    files = ["--annotations", folder / "a.jsonl", "--videos", folder / "videos"]
    vocabulary = [] if "--vocabulary" in options else ["--train-vocabulary", "30"]
    arguments = ["jsonl", *files, "--out", folder / out, *vocabulary, *options]
    code, output, errors = call_main(prepare.main, *arguments)
    return code, output + errors


@pytest.mark.parametrize("copies", [[], ["--transcode", "32"]])
def test_a_cache_of_links_is_prepared_with_follow_links_which_the_refusal_names(
    cached, call_main, copies
):
    code, said = prepare_cached(cached, call_main, "refused", *copies)
    assert code == 2 and "every one of 2 rows was rejected" in said
    assert "--follow-links (in Python follow_links=True) allows links" in said
    code, said = prepare_cached(cached, call_main, "data", "--follow-links", *copies)
    assert code == 0, said
    assert len(DataDirectory.open(cached / "data").manifest("train")) == 2


@pytest.mark.slow
def test_every_command_that_opens_videos_refuses_links_and_takes_follow_links(
    cached, call_main, data_directory, trained
):
    vocabulary = ["--vocabulary", str(data_directory / "spiece.model")]
    assert prepare_cached(cached, call_main, "data", "--follow-links", *vocabulary)[0] == 0
    data, model = cached / "data", ["--path", trained, "--device", "cpu"]
    hint = "--follow-links (in Python follow_links=True) allows links"

    score = ["retrieval", data, *model, "--split", "train", "--num-workers", "0", "--out"]
    code, _, said = call_main(score_command.main, *score, cached / "refused")
    assert code == 1 and "none of the 2 clips could be read" in said
    assert call_main(score_command.main, *score, cached / "scores", "--follow-links")[0] == 0
    metrics = json.loads((cached / "scores" / "metrics.json").read_text())
    assert metrics["missing"] == 0

    folder = cached / "videos"
    code, _, said = call_main(caption.main, folder, *model)
    assert code == 2 and hint in said
    code, _, said = call_main(caption.main, folder / "frames", *model)
    assert code == 1 and hint in said  # one video, whose frames are links
    code, said, errors = call_main(caption.main, folder, "--follow-links", *model)
    assert code == 0 and len(said.splitlines()) == 2, errors
    assert call_main(caption.main, folder / "a.mp4", *model)[0] == 0  # named

    shown = [cached / "scores", "--data", data, "--out", cached / "report.html"]
    assert hint in _pictures(call_main, cached, shown)
    assert hint not in _pictures(call_main, cached, [*shown, "--follow-links"])

    command = [data, *PLUGIN, "--path", trained, "--gen-subset", "train"]
    assert run("fairseq-generate", *command, expected_code=1).count(hint) == 2
    assert hint not in run("fairseq-generate", *command, "--follow-links")


def _pictures(call_main, folder: Path, arguments: list) -> str:
    assert call_main(report.main, *arguments)[0] == 0
    return (folder / "report.html").read_text()


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
