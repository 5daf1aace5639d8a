"""Losses that are no numbers, a loss scale at its floor, too little memory."""

import subprocess
from types import SimpleNamespace

import pytest
import torch
from fairseq.trainer import Trainer

from tests.commands import PLUGIN, ROOT, TINY, environment, launcher, run
from vt_fairseq.errors import UserError
from vt_fairseq.training.trainer import VideoTranslateTrainer

UNEVEN = 2  # the update whose loss is not finite


class FakeTrainer(VideoTranslateTrainer):
    """As much of a trainer as the messages are made of."""

    data_parallel_rank = 1
    watchdog = SimpleNamespace(note=lambda doing: None)
    compilation = SimpleNamespace(update=lambda run: run())
    cfg = SimpleNamespace(checkpoint=SimpleNamespace(save_dir="runs/a"))

    def get_num_updates(self) -> int:
        return 41


SAMPLES = [
    {
        "clip_ids": [f"clip{i}" for i in range(10)],
        "net_input": {"video": torch.zeros(10, 8, 32, 32, 3), "src_tokens": torch.zeros(10, 7)},
        "target": torch.zeros(10, 5),
    }
]


def step(monkeypatch, error: Exception, samples: list[dict] = SAMPLES) -> None:
    """A training step in which fairseq raises ``error``."""

    def raises(*args, **kwargs):
        assert kwargs["raise_oom"], "fairseq would go on and leave the other processes waiting"
        raise error

    monkeypatch.setattr(Trainer, "train_step", raises)
    object.__new__(FakeTrainer).train_step(samples)


def failing(*arguments) -> str:
    """The one-line message that the step ends with."""
    with pytest.raises(UserError) as raised:
        step(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_loss_scale_at_its_floor_names_the_batch_and_where_to_go_on(monkeypatch):
    error = FloatingPointError("Minimum loss scale reached (0.0001).\nTry lowering the lr")
    line = failing(monkeypatch, error)
    assert line.startswith("update 42: Minimum loss scale reached (0.0001). Try lowering the lr;")
    assert "on process 1: clip0, clip1, clip2" in line and "clip7 and 2 more" in line
    assert "the last checkpoint in runs/a with a lower --lr or --clip-norm" in line


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_too_little_memory_names_the_shapes_and_what_to_do(monkeypatch, error):
    line = failing(monkeypatch, error)
    assert line.startswith("update 42: out of memory on process 1 with video (10, 8, 32, 32, 3)")
    assert "src_tokens (10, 7), target (10, 5)" in line
    for cure in ("--batch-size", "--checkpoint-activations", "--zero-stage 2", "vt-memory"):
        assert cure in line


def test_other_errors_stay_what_they_are(monkeypatch):
    with pytest.raises(RuntimeError, match="shapes differ"):
        step(monkeypatch, RuntimeError("shapes differ"))


def test_an_empty_batch_is_named_as_one(monkeypatch):
    assert "process 1: none (an empty batch)" in failing(monkeypatch, FloatingPointError("x"), [{}])
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert "process 1 with an empty batch" in failing(monkeypatch, error, [{}])


def saved_update(path) -> int:
    return torch.load(path, weights_only=True)["optimizer_history"][-1]["num_updates"]


def test_an_infinite_loss_ends_training_with_the_clips_and_keeps_the_last_checkpoint(
    data_directory, tmp_path
):
    script = str(ROOT / "tests" / "poisoned.py")
    options = ["--max-update", "4", "--save-interval-updates", "1", "--disable-validation"]
    log = run(
        *[script, "loss", "0", data_directory, *PLUGIN, *TINY, *options, "--save-dir", tmp_path],
        expected_code=1,
    )
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert last.startswith(f"error: update {UNEVEN + 1}: "), last
    assert "Clips of the batch on process 0: train-" in last and str(tmp_path) in last
    path = tmp_path / "checkpoint_last.pt"
    assert saved_update(path) == UNEVEN
    model = torch.load(path, weights_only=True)["model"]
    assert all(t.isfinite().all() for t in model.values() if t.is_floating_point())


def test_too_little_memory_ends_training_in_one_line(data_directory, tmp_path):
    script = str(ROOT / "tests" / "poisoned.py")
    log = run(
        *[script, "memory", "0", data_directory, *PLUGIN, *TINY, "--no-save"],
        *["--save-dir", tmp_path],
        expected_code=1,
    )
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert f"update {UNEVEN + 1}: out of memory on process 0 with src_tokens (" in last
    assert "video (8, 8, 32, 32, 3)" in last


@pytest.mark.slow
@pytest.mark.parametrize("what", ["loss", "memory"])
def test_what_happens_on_one_of_two_processes_ends_both(data_directory, tmp_path, what):
    done = subprocess.run(
        [
            *launcher(2),
            *map(str, [ROOT / "tests" / "poisoned.py", what, 1, data_directory, *PLUGIN, *TINY]),
            *["--batch-size", "4", "--max-update", "4", "--save-interval-updates", "1"],
            *["--disable-validation", "--save-dir", str(tmp_path), "--ddp-backend", "legacy_ddp"],
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    log = done.stdout + done.stderr
    assert done.returncode != 0, log[-3000:]
    assert "on process 1" in log
    assert saved_update(tmp_path / "checkpoint_last.pt") == UNEVEN
    if what == "loss":  # both found it before the update, from the gradients they share
        assert "on process 0" in log
