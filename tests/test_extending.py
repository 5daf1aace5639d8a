"""docs/extending.md runs as it stands: its files are written, its commands are called in order."""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from tests.commands import PLUGIN, TINY, run
from tests.conftest import run_main
from tests.markdown import ROOT, blocks, command_lines
from tests.weights import network, vocabulary, write_t5
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import UserError
from vt_fairseq.models import video_backbones
from vt_fairseq.models.architectures import TinyConfig, build_model, make_video_network
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS
from vt_fairseq.models.video_backbones import VIDEO_NETWORKS, register_video_network
from vt_fairseq.models.video_translate import VideoTokens

PAGE = Path("docs/extending.md")


@pytest.fixture(scope="module")
def outputs(data_directory, tmp_path_factory) -> tuple[Path, list[tuple[list[str], str]]]:
    """The folder in which all of the page was run, and each command with what it printed."""
    folder = tmp_path_factory.mktemp("extending")
    for block in blocks(PAGE):
        if block.file is not None:
            (folder / block.file).parent.mkdir(exist_ok=True)
            (folder / block.file).write_text(block.text)
    data = DataDirectory.open(data_directory)
    (folder / "videos").symlink_to(data.video_root)
    rows = list(data.manifest("test"))
    (folder / "listed").mkdir()
    with open(folder / "listed" / "clips.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start", "end", "text", "split"])
        for number, row in enumerate(rows):
            length = 1 if number % 2 else row.end - row.start
            for split in ("train", "valid", "test"):
                writer.writerow([row.video, row.start, row.start + length, row.captions[0], split])
    (folder / "lengths.txt").write_text("long\nshort\n")
    named = {"videos/a.mp4": f"videos/{rows[0].video}"}
    done = []
    for command, *arguments in command_lines(PAGE):
        arguments = [named.get(word, word) for word in arguments]
        done.append(([command, *arguments], run(command, *arguments, cwd=folder)))
    return folder, done


def test_every_section_fits_on_fifty_lines():
    _, *sections = (ROOT / PAGE).read_text().split("\n## ")
    assert [section.split("\n")[0] for section in sections] == [
        "A corpus", "A task", "A video network", "A network of another library",
    ]  # fmt: skip
    assert all(section.count("\n") <= 52 for section in sections)


@pytest.mark.slow
def test_a_corpus_of_ones_own_becomes_a_data_directory(outputs):
    folder, _ = outputs
    known = json.loads((folder / "DATA" / "data.json").read_text())
    assert known["corpus"] == "listed"
    assert {name: counts["rows"] for name, counts in known["splits"].items()} == dict.fromkeys(
        ("train", "valid", "test"), 5
    )


def test_a_task_of_ones_own_trains_generates_and_is_scored(outputs):
    folder, _ = outputs
    lines = (folder / "lengths" / "test" / "references.jsonl").read_text().splitlines()
    rows = list(DataDirectory.open(folder / "DATA").manifest("test"))
    expected = {row.id: ["long" if row.end - row.start >= 2 else "short"] for row in rows}
    assert {r["id"]: r["references"] for r in map(json.loads, lines)} == expected
    assert {"long", "short"} == {texts[0] for texts in expected.values()}
    scores = (folder / "lengths" / "scores" / "predictions.jsonl").read_text().splitlines()
    assert len(scores) == 5 and all(
        json.loads(s)["prediction"] in ("long", "short") for s in scores
    )


def test_an_action_defined_by_an_option_is_in_the_checkpoint(outputs):
    folder, done = outputs
    (caption,) = (text for words, text in done if words[0] == "vt-caption" and "title" in words)
    assert len(caption.splitlines()) == 1
    state = torch.load(folder / "titles" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["task"]["define_action"] == "title=caption:title :"


def test_a_video_network_of_ones_own_trains_and_captions(outputs):
    folder, done = outputs
    weights = torch.load(folder / "frames" / "checkpoint_last.pt", weights_only=True)["model"]
    assert weights["encoder.video.network.layers.0.weight"].shape == (32, 3, 7, 7)
    for _, captioned in done[-5], done[-2]:
        assert captioned.startswith("videos/")
    for _, predicted in done[-4], done[-1]:
        assert "GiB on each GPU" in predicted


def test_a_transformers_model_is_trained_on_its_own_clips_and_opened_without_its_weights(
    outputs, tmp_path
):
    folder, done = outputs
    state = torch.load(folder / "mae" / "checkpoint_last.pt", weights_only=True)
    assert state["cfg"]["model"]["video_network"] == "mae:layers=2,width=48"
    assert (state["cfg"]["task"]["num_frames"], state["cfg"]["task"]["frame_size"]) == (8, 32)
    write_t5(tmp_path / "t5", vocabulary())
    config = VideoMAEConfig(num_frames=8, image_size=32, hidden_size=48, num_hidden_layers=2)
    VideoMAEModel(config).save_pretrained(tmp_path / "mae")
    arguments = ["--t5", tmp_path / "t5", "--arch", "from-t5", "--user-dir", folder / "own"]
    arguments += ["--video-network", "mae:layers=2,width=48", "--out", tmp_path / "init.pt"]
    run("vt-init", *arguments, "--video", tmp_path / "mae")
    shutil.rmtree(tmp_path / "mae")
    video = next(folder.glob("videos/*"))
    said = run("vt-caption", video, "--path", tmp_path / "init.pt", "--user-dir", folder / "own")
    assert said.splitlines()[-1].startswith(f"{video}: ")
    train = next(words for words, _ in done if "mae" in words)
    small = [*train[1:-1], tmp_path / "small", "--num-frames", "4"]
    said = run(train[0], *small, expected_code=2, cwd=folder)
    assert "--num-frames 4: the video network takes --num-frames 8" in said


def test_a_network_of_ones_own_is_joined_with_a_pretrained_t5(outputs, tmp_path):
    folder, _ = outputs
    write_t5(tmp_path / "t5", vocabulary())
    arguments = ["--t5", tmp_path / "t5", "--arch", "from-t5", "--user-dir", folder / "own"]
    arguments += ["--video-network", "frames2d", "--out", tmp_path / "init.pt", "--video"]
    assert "--video-network frames2d" in run("vt-init", *arguments, "random")
    weights = torch.load(tmp_path / "init.pt", weights_only=True)["model"]
    assert weights["encoder.video.projection.weight"].size(1) == 32
    torch.save(network("tiny").state_dict(), tmp_path / "r2plus1d.pth")
    said = run("vt-init", *arguments, tmp_path / "r2plus1d.pth", expected_code=2)
    assert "the video network frames2d has no method load_pretrained(path)" in said


def test_without_user_dir_what_is_ones_own_is_unknown_and_the_cure_is_named(outputs):
    folder, _ = outputs
    for checkpoint, message in (
        ("lengths", "checkpoint of the task video_translate_length"),
        ("frames", "--video-network frames2d: expected one of tiny"),
        ("mae", "--video-network mae: expected one of tiny"),  # with arguments
    ):
        path = folder / checkpoint / "checkpoint_last.pt"
        # Here, because the checkpoint names "own" as its --user-dir: that must not be imported.
        said = run("vt-caption", "videos", "--path", path, expected_code=2, cwd=folder)
        assert message in said and "--user-dir" in said and "Traceback" not in said
    arguments = ["listed", "--annotations", ".", "--videos", ".", "--out", "x", "--skip-probe"]
    arguments += ["--train-vocabulary", "60"]
    said = run("vt-prepare", *arguments, expected_code=2, cwd=folder)
    assert "no corpus 'listed': expected one of miniworld, jsonl, video2dataset, howto100m" in said


@pytest.mark.parametrize(
    ("name", "message"), [("nowhere", "expected a folder with __init__.py"), ("json", "that name")]
)
def test_a_user_dir_that_is_none_is_named(tmp_path, monkeypatch, capsys, name, message):
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["jsonl", "--user-dir", str(tmp_path / name), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        run_main("vt_fairseq.cli.prepare", *arguments)
    assert message in capsys.readouterr().err


# The table of video networks


class Flat(torch.nn.Module):
    width = 3

    def num_tokens(self, frames: int) -> int:
        return 1

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video.mean(dim=(3, 4)).transpose(1, 2)


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setattr(video_backbones, "VIDEO_NETWORKS", dict(VIDEO_NETWORKS))
    register_video_network("flat")(Flat)
    with pytest.raises(ValueError, match="video network 'flat' already"):
        register_video_network("flat")(torch.nn.Identity)
    with pytest.raises(ValueError, match="video network '34' already"):
        register_video_network("34")(Flat)


def test_a_name_has_no_colon():
    with pytest.raises(ValueError, match="without a colon, which arguments follow"):
        register_video_network("flat:2")(Flat)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"width": "3"}, "its width is '3', expected a whole number from 1 on"),
        ({"width": 0}, "its width is 0, expected"),
        ({"num_frames": 8.0}, "its num_frames is 8.0, expected a whole number"),
        ({"frame_size": (32, 32)}, r"its frame_size is \(32, 32\), expected a whole number"),
        ({"frames_per_second": "8"}, "its frames_per_second is '8', expected a number"),
        ({"mean": (0.5, 0.5)}, r"its mean of colors is \(0.5, 0.5\), expected three numbers"),
        ({"mean": (123.0, 117.0, 104.0)}, r"expected three numbers for red, green and blue in \["),
        ({"std": (0, 0, 0)}, "its std of colors is"),
        ({"std": (math.nan,) * 3}, "its std of colors is"),
    ],
)
def test_attributes_that_no_network_can_have_are_named(monkeypatch, attributes, message):
    monkeypatch.setitem(VIDEO_NETWORKS, "own", type("Own", (Flat,), attributes))
    with pytest.raises(UserError, match=f"^--video-network own: .*{message}"):
        build_model(TinyConfig(video_network="own"), 384, 303)


@pytest.mark.parametrize(
    ("mean", "std"), [((0, 0, 0), (1, 1, 1)), (torch.zeros(3), torch.ones(3)), ([0.0] * 3, [1] * 3)]
)
def test_colors_may_be_whole_numbers_or_a_tensor(mean, std):
    network = type("Own", (Flat,), {"mean": mean, "std": std})()
    frames = torch.full((1, 1, 4, 4, 3), 51, dtype=torch.uint8)
    seen = VideoTokens(network, 8, "none").normalize(frames, torch.float32)
    assert seen.unique().tolist() == pytest.approx([51 / 255])


def test_features_of_another_shape_than_promised_are_refused():
    video = VideoTokens(Flat(), width=8, pooling="none")
    assert video(torch.zeros(2, 1, 4, 4, 3, dtype=torch.uint8)).shape == (2, 1, 8)
    with pytest.raises(ValueError, match=r"shape \(2, 5, 3\), expected \(2, 1, 3\)"):
        video(torch.zeros(2, 5, 4, 4, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_video": "all"}, "--freeze-video all: the video network flat has no"),
        ({"checkpoint_video_stages": 1}, "--checkpoint-video-stages 1: the video network flat"),
    ],
)
def test_options_that_a_network_does_not_support_are_refused(monkeypatch, options, message):
    monkeypatch.setitem(VIDEO_NETWORKS, "flat", Flat)
    with pytest.raises(UserError, match=message):
        build_model(TinyConfig(video_network="flat", **options), 384, 303)


def test_the_built_in_networks_have_the_width_of_their_features():
    with torch.device("meta"):
        for name, dims in R2PLUS1D_DIMS.items():
            network = make_video_network(TinyConfig(video_network=name))
            assert network.width == dims.widths[-1]


def test_an_unknown_network_ends_training_in_one_line(data_directory, tmp_path):
    arguments = [data_directory, *PLUGIN, *TINY, "--save-dir", tmp_path, "--max-update", "1"]
    said = run("fairseq-train", *arguments, "--video-network", "35", expected_code=2)
    assert "error: --video-network 35: expected one of tiny" in said
    assert "Traceback" not in said
