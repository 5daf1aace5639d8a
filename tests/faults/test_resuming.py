"""Runs that go on: exactly, and with what changed named."""

import logging
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests import killing
from tests.commands import PLUGIN, TINY, run, train_losses
from vt_fairseq.training import changed_options

SAVED = {
    "common": {"seed": 1, "fp16": False, "bf16": False},
    "dataset": {"batch_size": 8, "max_tokens": None, "train_subset": "train"},
    "optimization": {"lr": [0.001], "clip_norm": 1.0, "update_freq": [1]},
    "model": {"_name": "video_translate_tiny", "dropout": 0.1},
    "task": {"_name": "video_translate", "actions": "caption", "video_root": "/a", "data": "b"},
    "optimizer": {"_name": "adam", "adam_betas": "(0.9, 0.999)"},
}


def warning(caplog, changes: dict, rows: tuple[int | None, int | None] = (20, 20)) -> str:
    """The log when the command differs in ``changes`` from the checkpoint."""
    cfg = OmegaConf.merge(OmegaConf.create(SAVED), changes)
    saved = {"cfg": SAVED, "task_state": {changed_options.TRAIN_ROWS: rows[0]}}
    with caplog.at_level(logging.WARNING):
        changed_options.warn_of_changes("a.pt", saved, cfg, {changed_options.TRAIN_ROWS: rows[1]})
    return caplog.text


def test_without_changes_nothing_is_said(caplog):
    moved = {"task": {"video_root": "/elsewhere", "data": "copy"}}
    assert warning(caplog, moved) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": {"batch_size": 4}}, "--batch-size 8 -> 4"),
        ({"optimization": {"lr": [0.01, 0.1]}}, "--lr [0.001] -> [0.01, 0.1]"),
        ({"optimizer": {"_name": "adafactor"}}, "--optimizer adam -> adafactor"),
        ({"task": {"actions": "caption,answer"}}, "--actions caption -> caption,answer"),
        ({"model": {"dropout": 0.3}}, "--dropout 0.1 -> 0.3"),
    ],
)
def test_a_changed_option_is_named_with_old_and_new_value(caplog, changes, said):
    text = warning(caplog, changes)
    assert text.count("\n") == 1 and text.count(" -> ") == 1
    assert f"a.pt was trained otherwise; from here on as the command says: {said}\n" in text


@pytest.mark.parametrize(("old", "new"), [("centre", "center"), ("center", "centre")])
def test_another_spelling_of_the_same_window_is_no_change(old, new):
    saved, current = ({"task": {"test_window": window, "seed": []}} for window in (old, new))
    assert changed_options.changed_options(saved, current) == []


def test_another_size_of_the_data_is_named_and_an_older_checkpoint_does_not_know(caplog):
    assert "rows of the training data 20 -> 1,900" in warning(caplog, {}, (20, 1900))
    caplog.clear()
    assert warning(caplog, {}, (None, 1900)) == ""


@pytest.mark.slow
def test_resumed_three_times_at_epoch_boundaries_and_inside_with_other_workers_nothing_differs(
    data_directory, tmp_path
):
    """Three batches per epoch: stops after 3 (a boundary), 5 (inside) and 6 (a boundary)."""
    common = [data_directory, *PLUGIN, *TINY, "--disable-validation", "--clip-norm", "1"]
    whole = train_losses(
        run(
            "fairseq-train", *common, "--no-save", "--max-update", "8", "--save-dir", tmp_path / "w"
        )
    )
    found: dict[int, tuple[str, str]] = {}
    for last, workers in ((3, 0), (5, 2), (6, 4), (8, 1)):
        log = run(
            "fairseq-train",
            *[*common, "--save-dir", tmp_path / "save", "--max-update", last],
            *["--num-workers", workers, "--save-interval-updates", "1"],
        )
        new = train_losses(log)
        assert not new.keys() & found.keys(), "nothing is computed twice"
        found |= new
        assert "was trained otherwise" not in log
    assert found == whole and sorted(whole) == list(range(1, 9))


WAYS = {
    "plain": killing.PLAIN,
    "plain, bf16": [*killing.PLAIN, "--bf16", "--fp16-no-flatten-grads"],
    "deepspeed": killing.DEEPSPEED,
}


def difference(one: Path, other: Path) -> float:
    """The largest of any weight of two checkpoints; counts of batches are no weights."""
    first, second = (torch.load(path, weights_only=True)["model"] for path in (one, other))
    assert first.keys() == second.keys()
    weights = [name for name, tensor in first.items() if tensor.is_floating_point()]
    return max(float((first[n].double() - second[n].double()).abs().max()) for n in weights)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_resumed_at_an_epochs_end_and_inside_one_no_weight_differs(
    way, processes, data_directory, tmp_path, record
):
    """Eight updates, three per epoch, stopped after the third and the fifth."""

    def train(name: str, updates: int) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        options = [*WAYS[way], "--batch-size", str(8 // processes), "--ddp-backend", "legacy_ddp"]
        cfg = killing.configuration(data_directory, folder / "save", options, updates)
        log = folder / str(updates)
        if processes == 2:
            killing.train_with_two(cfg, log)
        else:
            killing.wait(killing.start(cfg, log), log)
        return folder / "save" / "checkpoint_last.pt"

    whole = train("whole", 8)
    stopped = [train("stopped", updates) for updates in (3, 5, 8)][-1]
    found = {
        "difference": difference(whole, stopped),
        "learned after the second epoch": difference(whole, whole.with_name("checkpoint2.pt")),
    }
    record(f"{way}, processes: {processes}", found)
    assert found["difference"] == 0 and found["learned after the second epoch"] > 0.01


def test_the_real_command_names_a_changed_batch_size(data_directory, tmp_path, trained):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--actions", "caption,classify", "--batch-size", "4"],
        *["--lr-scheduler", "inverse_sqrt", "--warmup-updates", "4", "--video-lr-scale", "0.1"],
        *["--eval-bleu", "--restore-file", trained, "--save-dir", tmp_path, "--no-save"],
        *["--max-epoch", "1", "--disable-validation"],
    )
    [said] = re.findall(r"was trained otherwise; .*says: (.*)", log)
    assert said == "--batch-size 8 -> 4"
