"""MiniWorld written as the six corpora: official names and columns, and the right videos."""

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import run_main
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import UserError
from vt_fairseq.miniworld import official_layouts
from vt_fairseq.miniworld.official_layouts import LAYOUTS
from vt_fairseq.miniworld.world import SIZES
from vt_fairseq.video.decoding import probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def dressed(tmp_path_factory):
    """Folder and World of each corpus's layout."""
    root = tmp_path_factory.mktemp("dressed")
    return {
        corpus: (
            root / corpus,
            official_layouts.write(corpus, root / corpus, size=TINY, workers=1),
        )
        for corpus in LAYOUTS
    }


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_named_video_is_there_and_as_long_as_it_says(dressed):
    for out, world in dressed.values():
        files = {path.stem: path for path in (out / "videos").rglob("*.*")}
        assert files.keys() == world.videos().keys()
        for name, rows in world.videos().items():
            assert probe(files[name]) == pytest.approx(rows[0]["seconds"], abs=0.01)


def test_a_folder_of_another_corpus_is_refused(dressed):
    with pytest.raises(UserError, match="choose another folder"):
        official_layouts.write("tvc", dressed["tvqa"][0], size=TINY, workers=1)


def test_the_frames_of_a_show_are_those_of_its_video_three_a_second(dressed):
    out, world = dressed["tvqa"]
    sampling = FrameSampling(num_frames=6, max_seconds=None)
    for clip, rows in world.videos().items():
        (folder,) = (out / "frames").glob(f"*_frames/{clip}")
        assert len(list(folder.iterdir())) == int(rows[0]["seconds"] * 3)
        times = {"start": 1.0, "end": 3.0, "short_side": None, "window": "whole"}
        shown = read_clip(folder, sampling, **times).astype(int)
        video = read_clip(out / "videos" / f"{clip}.mp4", sampling, **times).astype(int)
        assert np.abs(shown - video).mean() < 12  # the moving shape's edge, and JPEG


def test_the_columns_are_those_of_the_official_files(dressed, test_data):
    official = test_data / "annotations"
    pairs = {
        "epic-kitchens": official / "epic_kitchens_55",
        "youcook2": official / "youcook2",
        "msrvtt": official / "msrvtt",
    }
    compared = 0
    for corpus, folder in pairs.items():
        for ours in sorted((dressed[corpus][0] / "annotations").glob("*.csv")):
            theirs = folder / ours.name
            if theirs.exists():
                compared += 1
                assert ours.open().readline() == theirs.open().readline()
    assert compared == 9


def test_the_keys_are_those_of_the_official_json_files(dressed, test_data):
    official = test_data / "annotations"
    for name in ("tvqa/tvqa_test_public.jsonl", "tvc/tvc_test_public_release.jsonl"):
        corpus, _, file = name.partition("/")
        ours = lines_of(dressed[corpus][0] / "annotations" / file)[0]
        theirs = lines_of(official / name)[0]
        assert {key: type(value) for key, value in ours.items()} == {
            key: type(value) for key, value in theirs.items()
        }
    name = "youcookii_annotations_trainval.json"
    ours, theirs = (
        next(iter(json.loads((folder / name).read_text())["database"].values()))
        for folder in (dressed["youcook2"][0] / "annotations", official / "youcook2")
    )
    assert ours.keys() == theirs.keys()
    assert ours["annotations"][0].keys() == theirs["annotations"][0].keys()


def test_kitchens_follow_the_split_rule(dressed):
    folder = dressed["epic-kitchens"][0] / "annotations"
    train = rows_of(folder / "EPIC_train_action_labels.csv")
    kitchens = {row["participant_id"] for row in train}
    assert {k for k in kitchens if k > "P25"} == {"P26"}
    seen = {row["participant_id"] for row in rows_of(folder / "EPIC_test_s1_timestamps.csv")}
    unseen = {row["participant_id"] for row in rows_of(folder / "EPIC_test_s2_timestamps.csv")}
    assert seen <= kitchens and unseen.isdisjoint(kitchens)


def test_a_video_of_howto100m_shows_one_activity_and_tells_of_it_five_times(dressed):
    folder = dressed["howto100m"][0] / "annotations"
    tasks = dict(line.split("\t") for line in (folder / "task_ids.csv").read_text().splitlines())
    captions = json.loads((folder / "raw_caption.json").read_text())
    videos = rows_of(folder / "HowTo100M_v1.csv")
    assert {row["video_id"] for row in videos} == captions.keys()
    for row in videos:
        told = captions[row["video_id"]]
        assert len(told["text"]) == len(told["start"]) == len(told["end"]) == 5
        color, shape, doing = tasks[row["task_id"]].split()
        assert any(doing in text and color in text and shape in text for text in told["text"])


def test_a_clip_cut_out_for_msrvtt_shows_what_it_showed(dressed):
    out, world = dressed["msrvtt"]
    assert len(world.videos()) == 40
    for row in world.of("retrieval"):
        with av.open(str(out / "videos" / "TestVideo" / f"{row['name']}.mp4")) as container:
            images = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        first, last = round(row["start"] * 10), round(row["end"] * 10)
        assert len(images) == last
        colored = (np.ptp(images.astype(int), axis=-1) > 70).any(axis=(1, 2))
        assert not colored[:first].any() and colored[first:].all()


# --- read again by the readers of the real files --------------------------------------------------


def as_miniworld(row):
    """A ClipRow under MiniWorld's keys."""
    lists = {"caption": list(row.captions), "candidates": list(row.candidates)}
    return vars(row) | lists


TIMES = ("start", "end")
LABELED = ("caption", *TIMES, "verb", "noun")
ASKED = (*TIMES, "question", "candidates", "context")
# corpus: (data directory's split, MiniWorld's splits, keys that come back, captions that do)
ROUND_TRIPS = {
    "howto100m": [("train", ["pretrain"], ("caption", "label"), 1)],
    "epic-kitchens": [
        ("train", ["train"], LABELED, 1),
        ("valid", ["valid"], LABELED, 1),
        ("test_s1", ["test"], TIMES, 0),
        ("test_s2", ["novel"], TIMES, 0),
    ],
    "tvqa": [
        ("train", ["train"], (*ASKED, "answer"), 0),
        ("valid", ["valid"], (*ASKED, "answer"), 0),
        ("test", ["test"], ASKED, 0),
    ],
    "tvc": [
        ("train", ["train"], ("caption", *TIMES, "context"), 3),
        ("valid", ["valid"], ("caption", *TIMES, "context"), 3),
        ("test", ["test"], (*TIMES, "context"), 0),
    ],
    "youcook2": [
        ("train", ["train"], ("caption", *TIMES), 1),
        ("valid", ["retrieval"], ("caption", *TIMES), 1),
        ("retrieval", ["retrieval"], ("caption", *TIMES), 1),
    ],
    "msrvtt": [
        ("train", ["train"], ("caption",), 3),
        ("valid", ["valid"], ("caption",), 3),
        ("test", ["test", "retrieval"], ("caption",), 3),
        ("retrieval", ["retrieval"], ("caption",), 1),
        ("train_7k", ["train", "valid"], ("caption",), 3),
        ("train_9k", ["train", "valid", "test"], ("caption",), 3),
    ],
}


@pytest.mark.parametrize("corpus", list(ROUND_TRIPS))
def test_the_corpus_reader_gives_back_the_rows_of_miniworld(dressed, corpus, tmp_path, capsys):
    out, world = dressed[corpus]
    videos = out / ("frames" if corpus == "tvqa" else "videos")
    run_main(
        "vt_fairseq.cli.prepare",
        *[corpus, "--annotations", str(out / "annotations"), "--videos", str(videos)],
        *["--out", str(tmp_path), "--train-vocabulary", "200", "--num-workers", "1"],
    )
    # A reduced copy is another number of rows than was published: said, but no failure.
    assert "fewer than" in capsys.readouterr().out
    data = DataDirectory.open(tmp_path)
    assert {name: n["rejected"] for name, n in data.splits.items() if n["rejected"]} == {}
    assert set(data.splits) == {split for split, *_ in ROUND_TRIPS[corpus]}
    for split, sources, keys, captions in ROUND_TRIPS[corpus]:
        rows, originals = list(data.manifest(split)), world.of(*sources)
        assert [Path(row.video).stem for row in rows] == [o["name"] for o in originals]
        for row, original in zip(rows, originals, strict=True):
            original = original | {"caption": original["caption"][:captions]}
            assert {k: as_miniworld(row)[k] for k in keys} == {k: original[k] for k in keys}


def test_the_command_says_what_comes_next(tmp_path, capsys):
    run_main(
        "vt_fairseq.cli.prepare",
        *["miniworld", "--as", "youcook2", "--size", "tiny", "--num-workers", "1"],
        *["--out", str(tmp_path / "yc")],
    )
    assert f"vt-prepare youcook2 --annotations {tmp_path}/yc/annotations" in capsys.readouterr().out
