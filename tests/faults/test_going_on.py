"""Runs that a signal, a full disk, a damaged checkpoint or other processes come in between of."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fairseq_cli.train
import pytest
import torch
from fairseq.trainer import Trainer

from tests import killing, tracing
from tests.commands import PLUGIN, TINY, command_line, environment, launcher
from tests.faults.test_checkpoints import cut
from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.training import trainer
from vt_fairseq.training.signals import EXIT_INTERRUPTED

REAL_VALIDATION = fairseq_cli.train.validate
AT = 2  # the update at or after which something happens


@pytest.fixture(scope="module")
def training(data_directory, tmp_path_factory) -> killing.Training:
    return killing.Training(data_directory, tmp_path_factory.mktemp("plain"), killing.PLAIN)


@pytest.fixture(scope="module")
def zero_training(data_directory, tmp_path_factory) -> killing.Training:
    return killing.Training(data_directory, tmp_path_factory.mktemp("zero"), killing.DEEPSPEED)


# --- signals --------------------------------------------------------------------------------------


def once(call: Callable, when: Callable[[], bool]) -> Callable:
    """``call`` that sends this process a SIGTERM the first time that ``when`` is true."""
    sent = []

    def called(*args, **others):
        if not sent and when():
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return call(*args, **others)

    return called


class Updates:
    """Counts the updates of a trainer in this process."""

    def __init__(self):
        self.done = 0
        step = Trainer.train_step

        def counted(*args, **others):
            result = step(*args, **others)
            self.done += 1
            return result

        Trainer.train_step = counted


def signal_in_validation() -> None:
    updates = Updates()
    fairseq_cli.train.validate = REAL_VALIDATION
    step = VideoTranslateTask.valid_step
    VideoTranslateTask.valid_step = once(step, lambda: updates.done == AT)


def signal_in_a_save() -> None:
    updates = Updates()
    torch.save = once(torch.save, lambda: updates.done == AT)


def signal_while_waiting_for_data() -> None:
    """The worker sends it, from the middle of a clip that it takes its time for."""
    trainer, read, rows = os.getpid(), VideoTextDataset.__getitem__, itertools.count()

    def slow(self, row):
        if os.getpid() != trainer and next(rows) == AT * 8 + 1:
            time.sleep(1)
            os.kill(trainer, signal.SIGTERM)
            time.sleep(1)
        return read(self, row)

    VideoTextDataset.__getitem__ = slow


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (signal_in_validation, ["--batch-size-valid", "1"]),
        (signal_in_a_save, []),
        (signal_while_waiting_for_data, ["--num-workers", "1"]),
    ],
)
def test_a_signal_whenever_it_comes_loses_no_finished_update(
    data_directory, tmp_path, training, change, options
):
    save_dir, first, then = tmp_path / "save", tmp_path / "first", tmp_path / "then"
    cfg = killing.configuration(data_directory, save_dir, [*killing.PLAIN, *options], killing.FINAL)
    killing.wait(killing.start(cfg, first, change=change), first, EXIT_INTERRUPTED)
    finished = killing.lines(first, "trained")
    assert 1 <= max(finished) <= AT + 1
    assert killing.finished_update(save_dir) == max(finished)
    killing.wait(killing.start(cfg, then), then)
    again = killing.lines(then, "trained")
    assert min(again) == max(finished) + 1 and max(again) == killing.FINAL
    assert (finished | again).items() <= training.weights.items()


# --- two processes --------------------------------------------------------------------------------


ON_CPUS = ["--ddp-backend", "legacy_ddp"]


def test_a_signal_to_one_of_two_processes_saves_and_ends_both_at_the_same_update(
    data_directory, tmp_path
):
    def told(rank: int, update: int, before: bool) -> None:
        if (rank, update, before) == (1, AT, False):
            os.kill(os.getpid(), signal.SIGTERM)

    options = [*killing.PLAIN, "--batch-size", "4", *ON_CPUS]
    whole = killing.configuration(data_directory, tmp_path / "whole", options, killing.FINAL)
    killing.train_with_two(whole, tmp_path / "0")
    cfg = killing.configuration(data_directory, tmp_path / "save", options, killing.FINAL)
    killing.train_with_two(cfg, tmp_path / "1", told, EXIT_INTERRUPTED)
    finished, other = (killing.lines(tmp_path / "1" / rank, "trained") for rank in "01")
    assert finished.keys() == other.keys() and AT <= max(finished) <= AT + 1
    assert killing.finished_update(tmp_path / "save") == max(finished)
    killing.train_with_two(cfg, tmp_path / "2")
    again = killing.lines(tmp_path / "2" / "0", "trained")
    assert min(again) == max(finished) + 1
    assert finished | again == killing.lines(tmp_path / "0" / "0", "trained")


def test_two_processes_go_on_where_one_has_no_batch_left_in_the_epoch(data_directory, tmp_path):
    """20 rows in batches of 4: the third update has one batch for two processes."""
    options = [*killing.PLAIN, "--batch-size", "4", *ON_CPUS]
    found = []
    for name, stops in (("whole", [4]), ("stopped", [2, 4])):
        for updates in stops:
            cfg = killing.configuration(data_directory, tmp_path / name, options, updates)
            killing.train_with_two(cfg, tmp_path / f"{name}{updates}")
        found.append(killing.lines(tmp_path / f"{name}4" / "0", "trained")[4])
    assert found[0] == found[1]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_with_the_rows_that_the_epoch_has_left(
    data_directory, tmp_path, first, then
):
    """20 rows in batches of 4: two of the five batches before, three after."""
    options = [*killing.PLAIN, "--batch-size", "4", "--max-epoch", "1", *ON_CPUS]
    seen: list[str] = []
    last: dict[int, str] = {}
    for number, updates in ((first, 2 // first), (then, 99)):
        cfg = killing.configuration(data_directory, tmp_path / "save", options, updates)
        folder = tmp_path / f"with{number}"
        if number == 2:
            killing.train_with_two(cfg, folder)
        else:
            folder.mkdir()
            killing.wait(killing.start(cfg, folder / "0"), folder / "0")
        records = [folder / str(rank) for rank in range(number)]
        for record in records:
            assert not last or killing.lines(record, "loaded") == last
            seen += itertools.chain(*killing.lines(record, "trained", "clips").values())
        trained = killing.lines(records[0], "trained")
        last = {max(trained): trained[max(trained)]}
    assert len(seen) == len(set(seen)) == 20


# --- half precision -------------------------------------------------------------------------------


def fp16_on_a_cpu() -> None:
    torch.Tensor.cuda = lambda self, *args, **others: self  # fairseq's handling of overflows
    trainer.refuse_fp16_on_a_cpu = lambda cfg, device: None


@pytest.mark.parametrize(("precision", "scale"), [("--fp16", 16), ("--bf16", None)])
def test_in_16_bits_the_weights_the_loss_scale_and_its_window_go_on(
    data_directory, tmp_path, precision, scale
):
    """The scale doubles every third update, also where a run was stopped in between."""
    options = [*killing.PLAIN, precision, "--fp16-no-flatten-grads"]
    options += ["--fp16-init-scale", "4", "--fp16-scale-window", "3"]
    found: dict[str, dict[int, tuple]] = {"whole": {}, "stopped": {}}
    for name, stops in (("whole", [6]), ("stopped", [2, 4, 6])):
        for updates in stops:
            cfg = killing.configuration(data_directory, tmp_path / name, options, updates)
            record = tmp_path / f"{name}{updates}"
            killing.wait(killing.start(cfg, record, change=fp16_on_a_cpu), record)
            scales = killing.lines(record, "trained", "scale")
            weights = killing.lines(record, "trained")
            found[name] |= {update: (scales[update], weights[update]) for update in weights}
    assert found["stopped"] == found["whole"]
    assert [scale for scale, _ in found["whole"].values()][-1] == scale, found["whole"]


# --- the disk -------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path, request) -> Iterator[Path]:
    """A file system of ``request.param`` MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system may not be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("small_disk", "fits", "training_name", "written"),
    [
        (4, 0, "training", "checkpoint_1_1.pt"),
        (24, 3, "training", "checkpoint_2_4.pt"),
        pytest.param(4, 0, "zero_training", "deepspeed/update1", marks=pytest.mark.slow),
        pytest.param(12, 0, "zero_training", "checkpoint_1_1.pt", marks=pytest.mark.slow),
        pytest.param(14, 1, "zero_training", "deepspeed/update2", marks=pytest.mark.slow),
    ],
    indirect=["small_disk"],
)
def test_a_full_disk_ends_the_run_in_one_line_and_with_room_it_goes_on(
    data_directory, tmp_path, request, small_disk, fits, training_name, written
):
    """A checkpoint has 9 MB, and the best and the epoch's stay beside the last."""
    training = request.getfixturevalue(training_name)
    save_dir, record = small_disk / "save", tmp_path / "record"
    cfg = killing.configuration(data_directory, save_dir, training.arguments, killing.FINAL)
    killing.wait(killing.start(cfg, record), record, 1)
    log = record.with_suffix(".log").read_text()
    assert f"error: cannot write {save_dir / written}: " in log.splitlines()[-1]
    assert "Traceback" not in log
    assert "the disk is full: make room" in log.splitlines()[-1]
    assert ("the disk will be full soon" in log) == bool(fits)
    assert killing.finished_update(save_dir) == fits and not killing.leftovers(save_dir)
    room = ["mount", "-o", "remount,size=99m", str(small_disk)]
    subprocess.run(room, check=True, capture_output=True)
    killing.wait(killing.start(cfg, record), record)
    assert max(killing.lines(record, "trained")) == killing.FINAL
    assert killing.lines(record, "trained").items() <= training.weights.items()


@pytest.mark.slow
@pytest.mark.parametrize("launched", ["by fairseq", "by torchrun"])
@pytest.mark.parametrize(
    ("small_disk", "stage", "written"),
    [
        (4, 1, "deepspeed/update1"),
        (4, 3, "deepspeed/update1"),
        (12, 1, "deepspeed/update1"),
        (12, 3, "checkpoint_1_1.pt"),
    ],
    indirect=["small_disk"],
)
def test_a_full_disk_ends_several_processes_in_one_line_each(
    data_directory, small_disk, stage, written, launched
):
    """Those that could write, too: they wait for the others in barriers of DeepSpeed's."""
    save_dir = small_disk / "save"
    train = command_line("fairseq-train", data_directory, *PLUGIN, *TINY)[1:]
    train += ["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--cpu"]
    train += ["--zero-stage", str(stage), "--save-interval-updates", "1"]
    train += ["--max-update", "3", "--save-dir", str(save_dir)]
    if launched == "by fairseq":
        train += ["--distributed-world-size", "2"]
    command = [*launcher(2 if launched == "by torchrun" else 1), *train]
    ended = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 1, ended.stderr[-3000:]
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    full = f"error: cannot write {save_dir / written}: the disk is full: make room"
    lost = "error: the connection to another process of the run is lost"
    assert any(line.startswith(full) for line in lines), ended.stderr[-3000:]
    assert all(line.startswith((full, lost)) for line in lines)
    own, _, _ = ended.stderr.partition("ChildFailedError")  # torchrun's last word is a traceback
    assert own.count("Traceback") == (launched == "by torchrun")
    if written.startswith("deepspeed"):
        assert not list((save_dir / "deepspeed").glob("update*"))


def test_retention_never_deletes_the_last_whole_checkpoint_also_where_the_newest_is_damaged(
    training,
):
    if not tracing.possible():
        pytest.skip("processes may not be traced here (ptrace)")

    def damaged() -> None:
        training.restore(AT + 2)
        cut(training.save_dir / "checkpoint_last.pt", 0.5)
        assert killing.finished_update(training.save_dir) == AT

    damaged()
    made = tracing.kill_at(training.traced(AT + 1), 0)
    deleted = [number for number, name in enumerate(made, 1) if name == "unlink"]
    for operation in (made.index("rename") + 1, deleted[-1]):
        damaged()
        tracing.kill_at(training.traced(AT + 1), operation)
        assert training.verdict() == "whole", (made[:operation], training.log())
