"""Whose word the folder of videos is: one's own vt-prepare's, or one's own on the command line."""

import json
import multiprocessing
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.commands import PLUGIN, TINY, run
from tests.corpora import write_jsonl
from tests.media import write_numbered
from vt_fairseq.cli import prepare
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.root_signatures import sign
from vt_fairseq.errors import UserError
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.task_config import VideoTranslateTaskConfig


def key_file() -> Path:
    return Path(os.environ["XDG_CONFIG_HOME"]) / "vt_fairseq" / "key"


@pytest.fixture
def other_user(tmp_path, monkeypatch):
    """Called: from now on this is another user, or another machine."""
    return lambda: monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another" / "config"))


@pytest.fixture
def prepared(tmp_path, call_main) -> Path:
    """A data directory beside its videos."""
    (tmp_path / "videos").mkdir()
    write_numbered(tmp_path / "videos" / "a.mp4", 25)
    write_jsonl(tmp_path / "a.jsonl", {"id": "a", "video": "a.mp4", "caption": "a red circle"})
    files = ["--annotations", tmp_path / "a.jsonl", "--videos", tmp_path / "videos"]
    arguments = ["jsonl", *files, "--out", tmp_path / "data", "--train-vocabulary", 30]
    assert call_main(prepare.main, *arguments)[0] == 0
    return tmp_path / "data"


def set_up(data: Path, **options) -> VideoTranslateTask:
    return VideoTranslateTask.setup_task(
        VideoTranslateTaskConfig(data=str(data), cpu=True, **options)
    )


def test_what_the_user_has_prepared_is_opened_wherever_it_is_moved(prepared, tmp_path):
    videos = tmp_path / "videos"
    assert set_up(prepared).data.video_root == videos
    shutil.move(prepared, tmp_path / "moved")
    assert set_up(tmp_path / "moved").data.video_root == videos
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600


def test_a_folder_that_another_user_has_signed_is_opened_only_when_it_is_named(
    prepared, tmp_path, other_user
):
    other_user()
    videos = str(tmp_path / "videos")
    with pytest.raises(UserError) as caught:
        set_up(prepared)
    message = str(caught.value)
    assert f"data.json names {videos}" in message and "\n" not in message
    assert message.endswith(f"confirm it: --video-root {videos}")
    assert not key_file().exists()  # reading makes no key
    assert str(set_up(prepared, video_root=videos).data.video_root) == videos


@pytest.mark.parametrize("signature", [None, "", "0" * 64, 5, [], "\ud800", "of another folder"])
def test_a_data_json_that_names_the_whole_disk_is_refused(prepared, tmp_path, signature):
    data = json.loads((prepared / "data.json").read_bytes())
    genuine = data["video_root_signature"]
    changed = {"video_root": "/", "video_root_signature": signature}
    if signature == "of another folder":
        changed["video_root_signature"] = genuine
    (prepared / "data.json").write_text(json.dumps(data | changed))
    with pytest.raises(UserError, match=r"confirm it: --video-root /$"):
        set_up(prepared)
    with pytest.raises(UserError, match=r"names / as the folder of its videos"):
        _ = DataDirectory.open(prepared).video_root


def test_the_commands_end_in_one_line_for_a_folder_that_nobody_confirmed(
    data_directory, trained, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(data_directory, data, ignore=shutil.ignore_patterns("world"))
    content = json.loads((data / "data.json").read_bytes())
    content |= {"video_root": "/", "video_root_signature": "0" * 64}
    (data / "data.json").write_text(json.dumps(content))
    score = ["--path", trained, "--device", "cpu", "--out", tmp_path / "out"]
    generate = [*PLUGIN, "--path", trained]
    for command, *arguments in (
        ("fairseq-train", data, *PLUGIN, *TINY, "--no-save"),
        ("fairseq-generate", data, *generate, "--gen-subset", "test"),
        ("fairseq-validate", data, *generate, "--valid-subset", "test", "--batch-size", "8"),
        ("vt-score", "classify", data, *score),
    ):
        log = run(command, *arguments, expected_code=2)
        assert "Traceback" not in log and log.count("confirm it: --video-root /") == 1, log


def test_videos_in_the_data_directory_itself_come_with_it(prepared, tmp_path, other_user):
    other_user()
    shutil.move(tmp_path / "videos", prepared / "videos")
    content = json.loads((prepared / "data.json").read_bytes())
    content |= {"video_root": str(prepared / "videos"), "video_root_signature": None}
    (prepared / "data.json").write_text(json.dumps(content))
    assert set_up(prepared).data.video_root == prepared / "videos"
    # A link in the place of the folder does not.
    shutil.move(prepared / "videos", tmp_path / "videos")
    (prepared / "videos").symlink_to(tmp_path / "videos")
    with pytest.raises(UserError, match="confirm it"):
        set_up(prepared)


@pytest.mark.parametrize("name", ["labels.txt", "spiece.model", "train.arrow"])
def test_a_file_of_the_directory_that_is_a_link_out_of_it_is_not_read(prepared, tmp_path, name):
    """The lines of a secret would be class names, which everybody is shown."""
    shutil.move(prepared / name, tmp_path / "elsewhere")
    (prepared / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{name} is a link that leads out .*; --follow-links"):
        set_up(prepared).data.manifest("train")
    assert set_up(prepared, follow_links=True).data.manifest("train")[0].id == "a"
    # A link that stays in the directory is one's own business.
    shutil.move(tmp_path / "elsewhere", prepared / "here")
    (prepared / name).unlink()
    (prepared / name).symlink_to("here")
    assert set_up(prepared).data.manifest("train")[0].id == "a"


def test_without_a_place_for_the_key_the_preparation_says_so_and_goes_on(
    tmp_path, call_main, monkeypatch
):
    (tmp_path / "config").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "videos").mkdir()
    write_jsonl(tmp_path / "a.jsonl", {"id": "a", "video": "a.mp4", "caption": "a red circle"})
    files = ["--annotations", tmp_path / "a.jsonl", "--videos", tmp_path / "videos"]
    arguments = ["jsonl", *files, "--out", tmp_path / "data", "--train-vocabulary", 30]
    code, _, errors = call_main(prepare.main, *arguments, "--skip-probe")
    assert code == 0 and "warning: the folder of the videos could not be signed" in errors
    with pytest.raises(UserError, match="confirm it"):
        set_up(tmp_path / "data")
    assert set_up(tmp_path / "data", video_root=str(tmp_path / "videos"))


def _sign_at(barrier, queue, root: Path) -> None:
    barrier.wait()
    queue.put(sign(root))


def test_processes_that_make_the_key_at_once_sign_alike(tmp_path, other_user):
    other_user()
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(8), context.Queue()
    processes = [
        context.Process(target=_sign_at, args=(barrier, queue, tmp_path)) for _ in range(8)
    ]
    for process in processes:
        process.start()
    signatures = {queue.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert signatures == {sign(tmp_path)}
    assert [path.name for path in key_file().parent.iterdir()] == ["key"]
