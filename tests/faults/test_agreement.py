"""Processes that train together all run every module, whatever is in each one's batch.

Otherwise those that do wait for those that do not: for ever in ZeRO-3, which gathers parameters
from all, and until gloo gives up where the sums of a log have other shapes. Each cell trains and
validates, in one process and in two, with the same losses.

python -m pytest tests/faults/test_agreement.py --campaign
"""

import importlib
import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fairseq_cli.train
import pytest
import torch
from fairseq.logging import metrics

from tests import killing
from tests.commands import free_port
from tests.faults.test_media import bad_draws
from tests.media import write_numbered, write_sound
from vt_fairseq.data.manifest import ClipRow, Manifest, write_manifest
from vt_fairseq.models.video_backbones import register_video_network
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.training import watchdog

REAL_VALIDATION = fairseq_cli.train.validate
SECONDS = 300  # a cell takes five when the machine is calm and DeepSpeed is compiled
UPDATES = 4
ENGINE = ["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--zero-stage"]
TRAINERS = {
    "fairseq": [*killing.PLAIN, "--ddp-backend", "legacy_ddp"],
    **{f"ZeRO-{stage}": [*ENGINE, str(stage)] for stage in (1, 2, 3)},
}


@register_video_network("one-layer-without-statistics")
class OneLayer(torch.nn.Module):
    """No BatchNorm: its statistics are each process's own, and losses could not be compared."""

    width = 8

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv3d(3, self.width, 3, padding=1)

    def num_tokens(self, frames: int) -> int:
        return frames

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.convolution(frames).relu().mean(dim=(3, 4)).transpose(1, 2)


# --- what is in the batches -----------------------------------------------------------------------

Rows = list[ClipRow]


def unreadable(rows: Rows) -> Rows:
    return [replace(row, video="gone.mp4") for row in rows]


def without_texts(rows: Rows) -> Rows:
    return [replace(row, captions=()) for row in rows]


def without_candidates(rows: Rows) -> Rows:
    return [replace(row, candidates=(), answer=None) for row in rows]


# Of 8 rows for training and 4 for validation, in batches of one: what becomes of them.
DATA: dict[str, Callable[[Rows, Rows], tuple[Rows, Rows]]] = {
    "all is there": lambda train, valid: (train, valid),
    "a share of unreadable clips": lambda train, valid: (
        train,
        [valid[0], *unreadable(valid[1:2]), valid[2], *unreadable(valid[3:])],
    ),
    "rows without targets": lambda train, valid: (
        [*without_texts(train[:5]), *train[5:]],
        [*without_texts(valid[:1]), valid[1], *without_texts(valid[2:])],
    ),
    "questions without candidates": lambda train, valid: (
        [*without_candidates(train[:5]), *train[5:]],
        [*without_candidates(valid[:1]), *valid[1:]],
    ),
    "an uneven number of batches": lambda train, valid: (train[:7], valid[:3]),
    "an empty share of the validation": lambda train, valid: (train, valid[:1]),
}
HEADS = ["--heads", "answer", "--criterion", "video_translate_classification"]


@pytest.fixture(scope="module")
def questions(data_directory) -> Rows:
    rows = [r for r in Manifest(data_directory / "train.arrow") if r.candidates and r.captions]
    assert len(rows) >= 12
    return rows


def prepared(kind: str, rows: Rows, data: Path, folder: Path) -> Path:
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("world"))
    train, valid = DATA[kind](rows[:8], rows[8:12])
    write_manifest(folder / "train.arrow", train)
    write_manifest(folder / "valid.arrow", valid)
    return folder


# --- one cell -------------------------------------------------------------------------------------


def measured(
    data: Path, folder: Path, trainer: str, processes: int, kind: str
) -> dict[int, list[float]]:
    """Of each update: validation loss after it, and the norm of its gradient.

    Fails where a process hangs or ends otherwise.
    """
    folder.mkdir()
    options = [*TRAINERS[trainer], "--video-network", "one-layer-without-statistics", "--no-save"]
    options += ["--batch-size", "1", "--update-freq", str(4 // processes)]
    options += ["--validate-interval-updates", "1", "--max-bad-fraction", "1", "--no-flip"]
    options += HEADS if "candidates" in kind else ["--actions", "caption"]
    cfg = killing.configuration(data, folder / "save", options, UPDATES)
    train_together(cfg, folder, processes, lambda rank: noted(folder / f"valid{rank}"))
    found = [(folder / f"valid{rank}").read_text() for rank in range(processes)]
    assert len(set(found)) == 1, "all processes have the same"
    return dict(map(json.loads, found[0].splitlines()))


def train_together(
    cfg, folder: Path, processes: int, validation: Callable[[int], Callable]
) -> list[str]:
    """The logs of processes that train together, each with the validation of its rank.

    Fails where one hangs or ends otherwise than well.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def joining(rank: int) -> Callable[[], None]:
        def join() -> None:
            fairseq_cli.train.validate = validation(rank)
            if processes > 1:
                here = {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ.update(address | here)

        return join

    ranks = range(processes)
    children = [killing.start(cfg, folder / str(r), change=joining(r)) for r in ranks]
    deadline = time.monotonic() + SECONDS
    ended: dict[int, int] = {}
    while len(ended) < processes and time.monotonic() < deadline:
        for rank, child in enumerate(children):
            if rank not in ended and (found := os.waitpid(child, os.WNOHANG))[0]:
                ended[rank] = os.waitstatus_to_exitcode(found[1])
        time.sleep(0.05)
    for rank in set(ranks) - set(ended):
        os.kill(children[rank], signal.SIGKILL)
        os.waitpid(children[rank], 0)
    logs = [(folder / f"{rank}.log").read_text() for rank in ranks]
    assert ended == dict.fromkeys(ranks, 0), (ended, *(log[-1500:] for log in logs))
    return logs


def noted(path: Path) -> Callable:
    """fairseq's validation, which also writes updates, loss and the gradient's norm to a file."""

    def validate(cfg, trainer, *others):
        losses = REAL_VALIDATION(cfg, trainer, *others)
        norm = float(metrics.get_meter("train", "gnorm").val)
        with open(path, "a") as file:
            file.write(json.dumps([trainer.get_num_updates(), [losses[0], norm]]) + "\n")
        return losses

    return validate


@pytest.mark.timeout(900)
def test_processes_have_the_gradients_and_losses_of_one_whatever_their_batches_have(
    questions, data_directory, tmp_path, campaign, record
):
    importlib.import_module("deepspeed.runtime.zero")  # once, which takes seconds
    cells = list(itertools.product(DATA, TRAINERS))
    if not campaign:  # what hung, crashed or ended in an abort
        cells = [
            ("a share of unreadable clips", "ZeRO-3"),
            ("rows without targets", "fairseq"),
            ("an uneven number of batches", "fairseq"),
            ("questions without candidates", "ZeRO-3"),
        ]
    table = {}
    for kind, trainer in cells:
        name = f"{kind}-{trainer}".replace(" ", "-")
        data = prepared(kind, questions, data_directory, tmp_path / name)
        one, two = (
            measured(data, tmp_path / f"{name}-{count}", trainer, count, kind) for count in (1, 2)
        )
        assert len(one) == UPDATES
        for update, (loss, norm) in one.items():
            assert two[update] == pytest.approx([loss, norm], rel=2e-3), (kind, trainer, update)
        difference = max(abs(two[u][0] / one[u][0] - 1) for u in one)
        table[f"{kind}, {trainer}"] = float(f"{difference:.2g}")
    record("largest relative difference between two processes and one", table)


@pytest.mark.parametrize("trainer", ["fairseq", pytest.param("ZeRO-2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("reuse", [False, True])
def test_two_processes_count_each_missing_or_sound_file_once_and_take_one_frame_for_a_video(
    data_directory, tmp_path, trainer, reuse
):
    data, videos = tmp_path / "data", tmp_path / "videos"
    shutil.copytree(data_directory, data, ignore=shutil.ignore_patterns("world"))
    videos.mkdir()
    row = replace(Manifest(data / "train.arrow")[0], start=None, end=None)
    # Nine batches in training and three in validation, which two processes cannot share evenly.
    rows = [replace(row, id=f"clip-{n}", video=f"{n}.mp4") for n in range(17)]
    for n in range(17):
        write_numbered(videos / f"{n}.mp4", 1 if n == 11 else 10)
    (videos / "2.mp4").unlink()
    write_sound(videos / "3.mp4")
    write_manifest(data / "train.arrow", rows)
    write_manifest(data / "valid.arrow", rows[:5])
    options = [*TRAINERS[trainer], "--video-network", "one-layer-without-statistics", "--no-save"]
    options += ["--video-root", str(videos), "--batch-size", "2", "--max-epoch", "2"]
    options += ["--max-bad-fraction", "1", "--log-format", "simple", "--save-interval-updates", "0"]
    reusing = ["--actions", "caption,classify", "--reuse-batch", "--update-freq", "2"]
    options += reusing if reuse else ["--actions", "caption"]
    cfg = killing.configuration(data, tmp_path / "save", options, 99)
    (folder := tmp_path / "logs").mkdir()
    logs = train_together(cfg, folder, 2, lambda rank: REAL_VALIDATION)
    named = set(re.findall(r"cannot read clip ([\w-]+): ", "".join(logs)))
    assert named == {"clip-2", "clip-3"}
    counted = re.findall(r"INFO:train:.* bad_clips (\d+)", logs[0])
    assert list(map(int, counted)) == [bad_draws(rows, named, epoch) for epoch in (1, 2)]
    assert set(re.findall(r"INFO:valid:.* bad_clips (\d+)", logs[0])) == {"2"}


def test_a_process_that_stands_still_is_named_by_the_other_which_ends(
    questions, data_directory, tmp_path
):
    data = prepared("all is there", questions, data_directory, tmp_path / "data")
    options = [*TRAINERS["fairseq"], "--batch-size", "1", "--no-save", "--actions", "caption"]
    cfg = killing.configuration(data, tmp_path / "save", options, 5)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}

    def join(rank: int) -> Callable[[], None]:
        def change() -> None:
            os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
            watchdog.NAMING_SECONDS, watchdog.ENDING_SECONDS = 2.0, 6.0
            watchdog.SECONDS_BETWEEN_LOOKS = 0.2
            step = VideoTranslateTask.train_step
            steps = itertools.count(1)

            def stands_still(*args, **kwargs):
                if rank == 1 and next(steps) == 3:
                    time.sleep(SECONDS)
                return step(*args, **kwargs)

            VideoTranslateTask.train_step = stands_still

        return change

    children = [killing.start(cfg, tmp_path / str(r), change=join(r)) for r in (0, 1)]
    deadline = time.monotonic() + SECONDS
    while not (ended := os.waitpid(children[0], os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(children[1], signal.SIGKILL)
    os.waitpid(children[1], 0)
    log = (tmp_path / "0.log").read_text()
    assert os.waitstatus_to_exitcode(ended[1]) == 1, log[-2000:]
    assert "waiting for process 1 (in update 3, at test_agreement.py:" in log.splitlines()[-1]
    assert "process 0" not in log.splitlines()[-1]
    assert "no progress for" in log.splitlines()[-2]
    assert "no progress" not in (tmp_path / "1.log").read_text(), "it waits for nobody"
