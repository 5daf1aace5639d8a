"""The recipe for gestures: its command lines, its splits, and the whole of it on made clips."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import media, recipes
from tests.commands import ROOT, environment, parsed

FOLDER = ROOT / "examples" / "gestures"
SMALL = (
    "--num-frames 4 --frame-size 16 --batch-size 4 --max-update 2 --total-num-update 2 "
    "--warmup-updates 1"
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """A bright square that goes to the right or to the left, in three batches."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number in range(18):
        frames = [np.full((48, 64, 3), 40, np.uint8) for _ in range(8)]
        right = number % 2
        for step, frame in enumerate(frames):
            left = 6 * (step if right else 7 - step)
            frame[16:32, left : left + 16] = 220
        name, split = f"{number}.mp4", ("train", "valid", "more")[number // 6]
        media.write_video(folder / name, frames)
        side = "right" if right else "left"
        rows.append(
            {"id": str(number), "video": name, "label": f"swipe {side}", "split": split}
            | {"caption": f"a finger moves to the {side}"}
        )
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def split(clips: Path, out: Path, train: str, test: str) -> str:
    """What splits.py prints; empty where it wrote its files."""
    words = [FOLDER / "splits.py", clips, "--train", train, "--test", test, "--out", out]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert bool(done.returncode) == bool(done.stderr)
    return done.stderr


def written(out: Path) -> dict[str, set[Path]]:
    """The videos of each split."""
    found: dict[str, set[Path]] = {}
    root = Path((out / "root").read_text())
    for line in (out / "clips.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (root / row["video"]).is_file()
        found.setdefault(row["split"], set()).add((root / row["video"]).resolve())
    return found


def test_a_batch_is_learned_and_another_one_tested_either_way_round(clips, tmp_path):
    for train, test in (("train", "valid"), ("valid", "train")):
        assert not split(clips, tmp_path / train, train, test)
    one, other = (written(tmp_path / name) for name in ("train", "valid"))
    assert one["train"] == other["valid"] and one["valid"] == other["train"]
    assert len(one["train"]) == len(one["valid"]) == 6


def test_both_batches_are_learned_and_another_folder_is_tested(clips, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(clips, kept)
    assert not split(clips, tmp_path / "out", "train,valid", str(kept))
    found = written(tmp_path / "out")
    assert len(found["train"]) == 12 and {path.parent for path in found["valid"]} == {kept}


def test_a_row_without_a_split_is_for_training_as_for_vt_prepare(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    manifest = tmp_path / "clips" / "clips.jsonl"
    manifest.write_text(manifest.read_text().replace(', "split": "train"', ""))
    assert not split(tmp_path / "clips", tmp_path / "out", "train", "valid")
    assert len(written(tmp_path / "out")["train"]) == 6


def test_a_folder_is_found_from_where_the_recipe_is_started(clips, tmp_path):
    """Its second stage writes the splits before it wants a vocabulary, which is not there."""
    subprocess.run(
        ["bash", FOLDER / "train.sh", clips.name, "prepare"],
        cwd=clips.parent,
        env={**environment(), "OUT": str(tmp_path / "out"), "MOTIONS": str(tmp_path / "none.pt")},
        capture_output=True,
    )
    assert len(written(tmp_path / "out")["train"]) == 6


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ("train", "train", "6 videos are learned and tested"),
        ("nothing", "valid", "has the splits more, train, valid"),
        ("train", "nowhere", "neither a split of"),
    ],
)
def test_splits_that_cannot_be_are_refused(clips, tmp_path, train, test, reason):
    assert reason in split(clips, tmp_path / "out", train, test)
    assert not (tmp_path / "out").exists()


def test_rows_that_are_none_are_named(clips, tmp_path):
    shutil.copytree(clips, tmp_path / "clips")
    for line in ("[1]", "{", '{"id": "a"}', '{"id": "a", "video": "0.mp4", "split": 5}'):
        (tmp_path / "clips" / "clips.jsonl").write_text(f"\n{line}\n")
        said = split(tmp_path / "clips", tmp_path / "out", "train", "valid")
        assert "clips.jsonl line 2: expected an object with id and video" in said
        assert "Traceback" not in said
    (tmp_path / "clips" / "clips.jsonl").unlink()
    said = split(tmp_path / "clips", tmp_path / "out", "train", "valid")
    assert said.startswith("error: no file") and said.count("\n") == 1


def test_what_was_made_of_other_splits_is_not_measured_in_silence(clips, tmp_path):
    assert not split(clips, tmp_path / "out", "train", "valid")
    assert not split(clips, tmp_path / "out", "train", "valid")
    said = split(clips, tmp_path / "out", "train", "more")
    assert "was made of other clips or splits: remove it, or name another OUT" in said


def test_mistakes_end_before_any_training_and_folders_are_where_it_is_started(clips, tmp_path):
    def started(*stages: str, **variables: str) -> str:
        words = ["bash", FOLDER / "train.sh", clips, *stages]
        given = {**environment(), "OUT": "own out", "MOTIONS": "none/m.pt", **variables}
        done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True)
        assert done.returncode
        return done.stderr

    assert "error: no stage date: expected motions, prepare," in started("prepare", "date")
    assert "neither a split of" in started(TEST="nowhere")
    assert not any(tmp_path.iterdir())
    started("prepare")  # wants a vocabulary, which is not there
    assert len(written(tmp_path / "own out")["train"]) == 6


def test_every_command_is_a_real_one_and_all_of_them_augment_without_flips(
    clips, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    commands = recipes.recorder(tmp_path / "bin")
    given = {"OUT": tmp_path / "out", "MOTIONS": tmp_path / "motions" / "checkpoint_last.pt"}
    (tmp_path / "motions").mkdir()
    (tmp_path / "out").mkdir()
    record = tmp_path / "record.jsonl"
    recipes.bash(FOLDER / "train.sh", str(clips), path=commands, RECORD=record, **given)
    recorded = [json.loads(line) for line in record.read_text().splitlines()]
    for command in recorded:
        parsed(command)
    motions, classes, captions = recipes.trainings(recorded)
    assert all(
        t["no_flip"] and t["lr_scheduler"] == "polynomial_decay" for t in (classes, captions)
    )
    updates = [(t["max_update"], int(t["total_num_update"])) for t in (motions, classes, captions)]
    assert all(most == total > 0 for most, total in updates)
    same = ("whole_frame", "rotate", "stretch", "shift", "time_jitter", "still_mix", "seed")
    assert all(classes[name] == captions[name] for name in same)
    assert classes["finetune_from_model"] == str(given["MOTIONS"])
    assert classes["heads_on"] == "video" and captions["heads"] == ""


def test_the_recipe_runs_on_made_clips(clips, real_commands, tmp_path):
    runs = {"OUT": tmp_path / "out", "MOTIONS": tmp_path / "motions" / "checkpoint_last.pt"}
    given = {"TRAIN": "train,more", "OMP_NUM_THREADS": 1, "SMALL": SMALL, **runs}
    output = recipes.bash(FOLDER / "train.sh", str(clips), path=real_commands, **given)
    assert "measure: ended" in output
    for results in ("results", "results--blank-video"):
        for name in ("captions", "classes", "video-network"):
            found = json.loads((tmp_path / "out" / results / name / "metrics.json").read_text())
            assert (found["n"], found["missing"]) == (6, 0), name
    # A second run makes nothing anew but the numbers.
    before = runs["MOTIONS"].stat().st_mtime_ns
    stages = ["motions", "prepare"]
    recipes.bash(FOLDER / "train.sh", str(clips), *stages, path=real_commands, **given)
    assert runs["MOTIONS"].stat().st_mtime_ns == before
