import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.optim import FairseqOptimizer

from tests.commands import PLUGIN, ROOT, TINY, command_line, environment, train_losses
from tests.conftest import run_main
from vt_fairseq.files.untrusted_files import checkpoint_types
from vt_fairseq.training.half_precision_state import SCALER, restore_half_precision
from vt_fairseq.training.lr_scale import scale_learning_rates


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


def test_a_loss_scaler_of_fp16_is_left_out_where_the_run_goes_on_without_one():
    restore_half_precision(SimpleNamespace(scaler=None), {SCALER: {"_iter": 7}})
    scaler = SimpleNamespace()
    restore_half_precision(SimpleNamespace(scaler=scaler), {SCALER: {"_iter": 7}})
    assert vars(scaler) == {"_iter": 7}


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


def replaced(tmp_path, *arguments) -> dict[str, list[str]]:
    """What ``tests/replaced.py`` finds in a process of its own."""
    what, *rest = arguments
    line = [sys.executable, ROOT / "tests" / "replaced.py", what, tmp_path / "replaced", *rest]
    done = subprocess.run(
        list(map(str, line)), env=environment(), capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "replaced").read_text())


def test_a_training_run_replaces_the_names_of_the_tables_and_no_others(data_directory, tmp_path):
    arguments = [data_directory, *PLUGIN, *TINY, "--max-update", "1", "--save-dir", tmp_path]
    found = replaced(tmp_path, "train", *arguments, "--num-workers", "1", "--disable-validation")
    assert found["found"] == found["tables"]
    assert len(found["found"]) <= 17


def test_opening_a_model_and_the_commands_that_read_one_replace_nothing(
    data_directory, trained, tmp_path
):
    found = replaced(tmp_path, "read", trained, data_directory, tmp_path)
    assert len(found) == 5 and not any(found.values()), found


@pytest.fixture(scope="module")
def parallel_corpus(tmp_path_factory):
    """A toy corpus as fairseq's own task ``translation`` reads it."""
    folder = tmp_path_factory.mktemp("translation")
    for split, first, last in (("train", 0, 40), ("valid", 40, 48)):
        numbers = [f"{number:b}".replace("", " ").strip() for number in range(first, last)]
        (folder / f"{split}.a").write_text("\n".join(numbers) + "\n")
        (folder / f"{split}.b").write_text("\n".join(n[::-1] for n in numbers) + "\n")
    run_main(
        *["fairseq_cli.preprocess", "--source-lang", "a", "--target-lang", "b"],
        *["--trainpref", f"{folder}/train", "--validpref", f"{folder}/valid"],
        *["--destdir", f"{folder}/binary"],
        function="cli_main",
    )
    return folder / "binary"


def test_another_task_trains_with_the_plugin_as_without(parallel_corpus, tmp_path):
    losses, states = [], []
    for name, plugin in (("alone", []), ("loaded", ["--user-dir", ROOT / "user_dir"])):
        line = command_line(
            *["fairseq-train", parallel_corpus, *plugin, "--task", "translation", "--cpu"],
            *["--arch", "transformer", "--encoder-embed-dim", "8", "--decoder-embed-dim", "8"],
            *["--encoder-layers", "1", "--decoder-layers", "1", "--encoder-ffn-embed-dim", "8"],
            *["--decoder-ffn-embed-dim", "8", "--optimizer", "adam", "--lr", "0.01"],
            *["--batch-size", "8", "--update-freq", "2", "--clip-norm", "1", "--max-epoch", "2"],
            *["--log-format", "simple", "--log-interval", "1", "--save-dir", tmp_path / name],
        )
        log = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=400)
        assert log.returncode == 0, log.stderr[-3000:]
        losses.append(train_losses(log.stdout))
        states.append(torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=False))
    assert len(losses[0]) == 6 and losses[0] == losses[1]
    alone, loaded = (
        {part: state[part] for part in ("model", "last_optimizer_state")} for state in states
    )
    torch.testing.assert_close(loaded, alone, rtol=0, atol=0)
