import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch
from fairseq.optim import FairseqOptimizer

from tests.commands import environment
from vt_fairseq.training.lr_scale import scale_learning_rates
from vt_fairseq.untrusted_files import checkpoint_types


class Optimizer(FairseqOptimizer):
    """The least that fairseq calls an optimizer."""

    def __init__(self, *parameters: torch.nn.Parameter):
        self._optimizer = torch.optim.Adam(parameters, lr=1.0)


def test_parameters_with_a_scale_get_a_group_whose_learning_rate_follows_at_that_scale():
    plain, video = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    video.optim_overrides = {"optimizer": {"lr_scale": 0.1}}
    optimizer, other = Optimizer(video, plain), Optimizer(video, plain)
    scale_learning_rates(optimizer)
    for expected in (1.0, 0.5):
        rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
        assert rates == {id(plain): expected, id(video): pytest.approx(0.1 * expected)}
        assert optimizer.get_lr() == expected
        optimizer.set_lr(0.5)
        other.set_lr(0.5)
    assert [g["lr"] for g in other.param_groups] == [0.5], "other optimizers are left alone"


def test_harmless_types_of_a_fairseq_checkpoint_load_with_weights_only(tmp_path):
    state = {"args": argparse.Namespace(lr=1.0), "meter": np.float64(2.5), "counts": np.arange(3)}
    torch.save(state, tmp_path / "checkpoint.pt")
    with torch.serialization.safe_globals(checkpoint_types()):
        loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert loaded["args"].lr == 1.0 and loaded["meter"] == 2.5
    assert loaded["counts"].tolist() == [0, 1, 2]


READING_AHEAD = """
import torch

from vt_fairseq.data.epoch_iterator import ReadAhead


class Zeros(torch.utils.data.Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return torch.zeros(1000)


batches = iter(ReadAhead(2**30, torch.utils.data.DataLoader(Zeros(), batch_size=1)))
next(batches)
"""


def test_a_process_that_ends_while_batches_are_read_ahead_ends_well():
    # Without stop_readers the thread is inside torch when Python ends, which aborts the process.
    done = subprocess.run(
        [sys.executable, "-c", READING_AHEAD], env=environment(), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
