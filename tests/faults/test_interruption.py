"""SIGTERM and SIGUSR1 during training; real runs, recorded update by update."""

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests import warm
from tests.commands import PLUGIN, ROOT, TINY
from vt_fairseq.training.signals import EXIT_INTERRUPTED

UPDATES = 16
OPTIONS = [
    *["--max-update", str(UPDATES), "--num-workers", "2", "--no-epoch-checkpoints"],
    *["--batch-size", "4", "--validate-interval-updates", "3", "--save-interval", "99"],
]


def start(data: Path, out: Path):
    """A training whose losses go to ``out/recorded`` and whose log goes to ``out/log``."""
    out.mkdir(exist_ok=True)
    script = str(ROOT / "tests" / "recording.py")
    arguments = [script, out / "recorded", data, *PLUGIN, *TINY, *OPTIONS, "--save-dir", out]
    return warm.start(list(map(str, arguments)), out / "log")


def recorded(out: Path) -> dict[int, float]:
    if not (out / "recorded").exists():
        return {}
    lines = map(json.loads, (out / "recorded").read_text().splitlines())
    return {line["update"]: line["loss"] for line in lines}


def finish(process, out: Path) -> int:
    process.join(200)
    assert process.exitcode is not None, (out / "log").read_text()[-2000:]
    return process.exitcode


@pytest.fixture(scope="module")
def whole(data_directory, tmp_path_factory) -> dict[int, float]:
    """Losses of the run that nothing happens to."""
    out = tmp_path_factory.mktemp("whole")
    assert finish(start(data_directory, out), out) == 0
    found = recorded(out)
    assert len(found) == UPDATES
    return found


@pytest.mark.parametrize(
    ("number", "to_workers", "times"), [("SIGTERM", True, 1), ("SIGUSR1", False, 3)]
)
def test_a_signal_saves_at_the_next_update_and_nothing_finished_is_lost(
    data_directory, tmp_path, whole, number, to_workers, times
):
    process = start(data_directory, tmp_path)
    deadline = time.monotonic() + 200
    while len(recorded(tmp_path)) < 4:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children() if to_workers else []
    for _ in range(times):  # it may come again while it is being dealt with
        for pid in (*(worker.pid for worker in workers), process.pid):
            os.kill(pid, getattr(signal, number))
        time.sleep(0.05)
    assert finish(process, tmp_path) == EXIT_INTERRUPTED
    log = (tmp_path / "log").read_text()
    saved = int(re.search(rf"{number}: saved at update (\d+)", log)[1])
    assert saved == max(recorded(tmp_path)) < UPDATES
    (tmp_path / "recorded").unlink()
    assert finish(start(data_directory, tmp_path), tmp_path) == 0
    assert recorded(tmp_path) == {k: v for k, v in whole.items() if k > saved}
