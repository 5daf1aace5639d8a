"""Data workers that die: one line names worker and cause, nothing hangs, nothing is lost."""

import gc
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tests import media, warm
from tests.commands import PLUGIN, ROOT, TINY, environment, run
from vt_fairseq.corpora.transcode import transcode
from vt_fairseq.data.data_workers import (
    EXIT_NO_SHARED_MEMORY,
    EXIT_TOO_MANY_FILES,
    WatchedDataLoader,
    death,
)
from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.video.decoding import probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.images import encode_jpeg


def dying(tmp_path, *arguments) -> tuple[int, str]:
    """Exit code and output of ``tests/dying.py``."""
    output = tmp_path / "output"
    script = str(ROOT / "tests" / "dying.py")
    process = warm.start([script, *map(str, arguments)], output, environment())
    process.join(90)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode, output.read_text(errors="replace")


@pytest.mark.slow
def test_a_killed_worker_is_named_and_the_checkpoint_before_it_goes_on(data_directory, tmp_path):
    arguments = [data_directory, *PLUGIN, *TINY, "--disable-validation", "--save-dir", tmp_path]
    arguments += ["--num-workers", "2"]
    run("fairseq-train", *arguments, "--max-epoch", "1")
    path = tmp_path / "checkpoint_last.pt"
    before = path.read_bytes()
    began = time.monotonic()
    code, log = dying(tmp_path, "SIGKILL", *arguments, "--max-epoch", "3")
    assert code == 1 and "Traceback" not in log, log[-2000:]
    last = log.splitlines()[-1]
    assert re.match(r"error: data worker [01] \(process \d+\) was killed by SIGKILL, often ", last)
    assert "fewer data workers" in last and "goes on from the last checkpoint" in last
    assert time.monotonic() - began < 45, "the other worker is not waited for"
    assert path.read_bytes() == before
    # Nothing is lost: the same command goes on from the first epoch's end.
    log = run("fairseq-train", *arguments, "--max-epoch", "2")
    assert "(epoch 2 @ 3 updates)" in log
    history = torch.load(path, weights_only=True)["optimizer_history"]
    assert history[-1]["num_updates"] == 6


@pytest.mark.slow
def test_batches_without_room_in_shared_memory_are_named_with_the_cure(data_directory, tmp_path):
    if dying(tmp_path, "may-mount")[0]:
        pytest.skip("no /dev/shm of one's own can be mounted here: not root")
    arguments = [data_directory, *PLUGIN, *TINY, "--num-workers", "2", "--no-save"]
    code, log = dying(tmp_path, "shm", *arguments, "--disable-validation", "--save-dir", tmp_path)
    assert code == 1 and "Traceback" not in log, log[-2000:]
    last = log.splitlines()[-1]
    assert (
        "no room for a batch in the shared memory /dev/shm (0." in last and "0.3 MiB free" in last
    )
    assert "--shm-size" in last and "or none" in last and last.startswith("error: ")


@pytest.mark.parametrize(
    ("code", "cause", "cure"),
    [
        (-signal.SIGBUS, "was killed by SIGBUS", "--shm-size"),
        (EXIT_NO_SHARED_MEMORY, "ended with exit code 71", "--shm-size"),
        (EXIT_TOO_MANY_FILES, "ended with exit code 72", "ulimit -n"),
        (-signal.SIGSEGV, "was killed by SIGSEGV", "vt-prepare"),
        (3, "ended with exit code 3", "the lines above"),
    ],
)
def test_each_end_of_a_worker_has_its_cause_and_cure(code, cause, cure):
    line = death(4, 1234, code)
    assert line.startswith(f"data worker 4 (process 1234) {cause}, ") and cure in line
    assert "\n" not in line


class Killing(Dataset):
    """Rows the fourth of which kills the process that wants it."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_a_loader_names_its_dead_worker_and_leaves_the_processs_signals_alone():
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(UserError, match=r"^data worker 1 \(process \d+\) was killed by SIGKILL"):
        list(WatchedDataLoader(Killing(), num_workers=2))
    assert signal.getsignal(signal.SIGCHLD) is handler


class Tensors(Dataset):
    """Rows of tensors, each of which is an open file on its way from a worker."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return [torch.full((9,), index) for _ in range(9)]


@contextmanager
def few_files(more: int) -> Iterator[None]:
    """Only so many ``more`` files can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0) for _ in range(40)]  # there are gaps among the numbers below
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 1 + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in held:
            os.close(number)


@pytest.mark.parametrize("more", [40, 60, 90])
def test_too_many_open_files_between_workers_and_trainer_are_a_failure_with_the_cure(more):
    """Its own workers run out of files, or it itself does, with the batches that it keeps."""
    with few_files(more), pytest.raises(RunFailure, match=r"too many files are open.*ulimit -n"):
        kept = list(WatchedDataLoader(Tensors(), num_workers=2))
        assert not kept, "there were enough"


def test_a_video_that_cannot_be_opened_for_too_many_files_is_no_unreadable_video(tmp_path):
    video = media.write_numbered(tmp_path / "a.mp4", 5)
    (tmp_path / "frames").mkdir()
    frame = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "frames" / "0.jpg").write_bytes(frame)
    calls = [
        lambda: probe(video),
        lambda: probe(tmp_path / "frames"),
        lambda: read_clip(video, FrameSampling(2)),
        lambda: transcode(video, tmp_path / "copy.mp4", 16),
    ]
    for call in calls[:3]:
        call()
    with few_files(0):
        for call in calls:
            with pytest.raises(RunFailure, match="too many files are open"):
                call()


class Leaves:
    """Cyclic garbage that leaves a file when it is collected."""

    def __init__(self, path):
        self.path, self.itself = path, self

    def __del__(self):
        self.path.touch()


class Collecting(Dataset):
    """One row: whether the worker collects its own garbage, and alone that."""

    def __init__(self, trainers, own):
        self.trainers, self.own = trainers, own

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[bool, bool, bool]:
        Leaves(self.own)
        gc.collect()
        return self.own.exists(), self.trainers.exists(), gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_forked_worker_never_collects_the_garbage_of_the_trainer(tmp_path, enabled):
    """The trainer's garbage may be tensors on a GPU, whose end aborts a forked process."""
    collected = tmp_path / "the trainer's"
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    gc.collect()  # so that none is due by itself before the workers start
    try:
        Leaves(collected)
        rows = Collecting(collected, tmp_path / "the worker's")
        loader = WatchedDataLoader(rows, num_workers=1, batch_size=None)
        assert list(next(iter(loader))) == [True, False, enabled]
        assert gc.isenabled() == enabled
        gc.collect()
        assert collected.exists(), "the trainer itself collects it"
    finally:
        (gc.enable if was_enabled else gc.disable)()
