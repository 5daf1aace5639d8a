"""Shared fixtures: real test material, a small MiniWorld prepared, a model trained on it."""

import os
import sys
from pathlib import Path

import pytest

from tests.commands import PLUGIN, TINY, run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real material, named by VT_TEST_DATA; tests that want it skip without."""
    folder = os.environ.get("VT_TEST_DATA")
    if not folder:
        pytest.skip("VT_TEST_DATA is not set: no real material to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def data_directory(tmp_path_factory) -> Path:
    """A prepared data directory of the smallest MiniWorld."""
    out = tmp_path_factory.mktemp("miniworld") / "data"
    run_main(
        "vt_fairseq.cli.prepare",
        *["miniworld", "--size", "tiny", "--out", str(out), "--train-vocabulary", "200"],
    )
    return out


@pytest.fixture(scope="session")
def trained(data_directory, tmp_path_factory) -> Path:
    """A checkpoint of a few updates, with validation that generates."""
    save = tmp_path_factory.mktemp("trained")
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--actions", "caption,classify", "--save-dir", save],
        *["--max-epoch", "2", "--eval-bleu", "--best-checkpoint-metric", "bleu"],
        *["--maximize-best-checkpoint-metric", "--lr-scheduler", "inverse_sqrt"],
        *["--warmup-updates", "4", "--video-lr-scale", "0.1"],
    )
    assert "| bleu " in log and "| exact_match " in log and "accuracy" in log
    return save / "checkpoint_best.pt"


def run_main(module: str, *arguments: str, function: str = "main") -> None:
    """Call a command's ``main()`` in this process, as its console script does."""
    import importlib

    old, sys.argv = sys.argv, [module, *arguments]
    try:
        getattr(importlib.import_module(module), function)()
    finally:
        sys.argv = old
