import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.commands import environment
from vt_fairseq.training.patches import install, split_by_lr_scale
from vt_fairseq.training.patches import set_scaled_lr as set_lr

install()


class Optimizer:
    """What the patches use of a fairseq optimizer."""

    def __init__(self, parameters):
        self.optimizer = torch.optim.Adam(parameters, lr=1.0)

    @property
    def param_groups(self):
        return self.optimizer.param_groups


def test_parameters_with_a_scale_get_a_group_whose_learning_rate_follows_at_that_scale():
    plain, video = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    video.optim_overrides = {"optimizer": {"lr_scale": 0.1}}
    optimizer = split_by_lr_scale(Optimizer([video, plain]))
    set_lr(optimizer, 0.5)
    found = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert found == {id(plain): 0.5, id(video): pytest.approx(0.05)}


def test_without_scales_there_is_one_group_as_before():
    optimizer = split_by_lr_scale(Optimizer([torch.nn.Parameter(torch.ones(2))]))
    assert len(optimizer.param_groups) == 1


def test_harmless_types_of_a_fairseq_checkpoint_load_with_weights_only(tmp_path):
    state = {"args": argparse.Namespace(lr=1.0), "meter": np.float64(2.5), "counts": np.arange(3)}
    torch.save(state, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert loaded["args"].lr == 1.0 and loaded["meter"] == 2.5
    assert loaded["counts"].tolist() == [0, 1, 2]


READING_AHEAD = """
import torch
from fairseq.data.iterators import BufferedIterator

from vt_fairseq.training import patches

patches.install()


class Zeros(torch.utils.data.Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return torch.zeros(1000)


batches = iter(BufferedIterator(2**30, torch.utils.data.DataLoader(Zeros(), batch_size=1)))
next(batches)
"""


def test_a_process_that_ends_while_batches_are_read_ahead_ends_well():
    # Without stop_readers the thread is inside torch when Python ends, which aborts the process.
    done = subprocess.run(
        [sys.executable, "-c", READING_AHEAD], env=environment(), capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
