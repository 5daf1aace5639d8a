"""SIGTERM, SIGUSR1 and Ctrl-C during training; real runs, recorded update by update."""

import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from tests import warm
from tests.commands import PLUGIN, ROOT, TINY
from vt_fairseq.training import signals
from vt_fairseq.training.signals import EXIT_INTERRUPTED

UPDATES = 16
OPTIONS = [
    *["--max-update", str(UPDATES), "--num-workers", "2", "--no-epoch-checkpoints"],
    *["--batch-size", "4", "--validate-interval-updates", "3", "--save-interval", "99"],
]


def start(data: Path, out: Path, *more: str):
    """A training whose losses go to ``out/recorded`` and whose log goes to ``out/log``."""
    out.mkdir(exist_ok=True)
    script = str(ROOT / "tests" / "recording.py")
    options = [*PLUGIN, *TINY, *OPTIONS, *more, "--save-dir", out]
    arguments = [script, out / "recorded", data, *options]
    return warm.start(list(map(str, arguments)), out / "log")


def recorded(out: Path) -> dict[int, float]:
    if not (out / "recorded").exists():
        return {}
    lines = map(json.loads, (out / "recorded").read_text().splitlines())
    return {line["update"]: line["loss"] for line in lines}


def wait_for(process, out: Path, updates: int) -> None:
    """Until the run has come to so many updates."""
    deadline = time.monotonic() + 200
    while max(recorded(out), default=0) < updates:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


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
    ("number", "to_workers", "times"),
    [pytest.param("SIGTERM", True, 1, marks=pytest.mark.slow), ("SIGUSR1", False, 3)],
)
def test_a_signal_saves_at_the_next_update_and_nothing_finished_is_lost(
    data_directory, tmp_path, whole, number, to_workers, times
):
    process = start(data_directory, tmp_path)
    wait_for(process, tmp_path, 4)
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


def test_ctrl_c_saves_and_a_second_one_ends_at_once(data_directory, tmp_path, whole):
    process = start(data_directory, tmp_path)
    wait_for(process, tmp_path, 4)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process, tmp_path) == EXIT_INTERRUPTED
    log = (tmp_path / "log").read_text()
    saved = int(re.search(r"SIGINT: saved at update (\d+)", log)[1])
    assert saved == max(recorded(tmp_path)) < UPDATES and "Traceback" not in log


def test_a_second_ctrl_c_ends_the_process_at_once_and_one_that_comes_twice_does_not():
    def ended_by(gap: float) -> int:
        if (child := os.fork()) == 0:
            signals.watch(SimpleNamespace(is_done=False))
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(gap)
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert ended_by(signals.SAME_KEY_SECONDS + 0.1) == -signal.SIGINT
    assert ended_by(0.1) == 7


SIGNALS_AGAIN_AT_THE_END = """
import atexit, os, signal, sys
from fairseq_cli.train import cli_main

if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        atexit.register(os.kill, os.getpid(), number)
    cli_main()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_that_comes_again_while_a_run_ends_does_not_change_its_exit_code(
    data_directory, tmp_path, processes
):
    (tmp_path / "again.py").write_text(SIGNALS_AGAIN_AT_THE_END)
    options = [*PLUGIN, *TINY, *OPTIONS, "--distributed-world-size", str(processes), "--cpu"]
    options += ["--log-interval", "1", "--save-dir", str(tmp_path), "--max-update", "200"]
    log = tmp_path / "log"
    process = warm.start([str(tmp_path / "again.py"), str(data_directory), *options], log)
    deadline = time.monotonic() + 200
    while not (log.exists() and "num_updates" in log.read_text()):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGUSR1)
    assert finish(process, tmp_path) == EXIT_INTERRUPTED, log.read_text()[-2000:]
    assert ": saved at update" in log.read_text()


SIGNAL_AT_THE_START = """
import sys, time
from pathlib import Path
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from tests.commands import PLUGIN, TINY
from vt_fairseq.training import process_groups

def begin(cfg):
    Path(cfg.checkpoint.save_dir, str(cfg.distributed_training.distributed_rank)).touch()
    time.sleep(200)

if __name__ == "__main__":
    arguments = ["DATA", *PLUGIN, *TINY, "--distributed-world-size", "2", "--save-dir", sys.argv[1]]
    cfg = options.parse_args_and_arch(options.get_training_parser(), arguments)
    process_groups.call_main(convert_namespace_to_omegaconf(cfg), begin)
"""
SIGNAL_WITH_A_WORKER = """
import sys, time
from pathlib import Path
from vt_fairseq.data.data_workers import WatchedDataLoader
from vt_fairseq.training import signals

class Rows:
    def __len__(self):
        return 1
    def __getitem__(self, row):
        Path(sys.argv[1], "0").touch()
        time.sleep(200)

if __name__ == "__main__":
    with signals.passed_on():
        next(iter(WatchedDataLoader(Rows(), num_workers=1)))
"""


def exit_code_of(number: int, script: str, folder: Path, begun: int) -> tuple[int, str]:
    """Exit code, as shells have it, and output of a script whose processes make ``begun`` files."""
    (folder / "script.py").write_text(script)
    process = warm.start([str(folder / "script.py"), str(folder / "begun")], folder / "log")
    (folder / "begun").mkdir()
    deadline = time.monotonic() + 200
    while len(list((folder / "begun").iterdir())) < begun:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
    code = finish(process, folder)
    return code if code >= 0 else 128 - code, (folder / "log").read_text()


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_while_started_processes_set_up_ends_the_run_as_one_process(tmp_path, number):
    code, log = exit_code_of(number, SIGNAL_AT_THE_START, tmp_path, begun=2)
    assert code == 128 + number and "Traceback" not in log


def test_a_signal_goes_to_the_command_and_not_to_its_data_workers(tmp_path):
    code, log = exit_code_of(signal.SIGTERM, SIGNAL_WITH_A_WORKER, tmp_path, begun=1)
    assert code == 128 + signal.SIGTERM and "Traceback" not in log


SIGNAL_IN_VALIDATION = """
import os, signal, sys
from tests import recording
from vt_fairseq.task import VideoTranslateTask

step, updates = VideoTranslateTask.valid_step, int(sys.argv.pop(1))
def valid_step(self, *arguments):
    if self.updates == updates:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments)
VideoTranslateTask.valid_step = valid_step
from vt_fairseq.training.trainer import VideoTranslateTrainer
trained = VideoTranslateTrainer.train_step
VideoTranslateTask.updates = 0
def train_step(self, samples, *arguments, **others):
    result = trained(self, samples, *arguments, **others)
    VideoTranslateTask.updates = self.get_num_updates()
    return result
VideoTranslateTrainer.train_step = train_step
recording.record(sys.argv.pop(1))
recording.cli_main()
"""


def validations(out: Path) -> dict[int, float]:
    """Validation losses by the number of updates, from the log."""
    lines = re.findall(r"subset \| loss ([\d.]+) .*? num_updates (\d+)", (out / "log").read_text())
    return {int(updates): float(loss) for loss, updates in lines}


def test_a_validation_that_a_signal_ended_is_made_up_for_and_patience_counts_on(
    data_directory, tmp_path
):
    (tmp_path / "signal.py").write_text(SIGNAL_IN_VALIDATION)

    def run(name: str, in_validation_of: int) -> tuple[int, Path]:
        (out := tmp_path / name).mkdir(exist_ok=True)
        options = [*PLUGIN, *TINY, "--max-update", "40", "--batch-size", "4", "--num-workers", "0"]
        options += ["--validate-interval-updates", "2", "--batch-size-valid", "1", "--seed", "1"]
        # No loss is larger than the first, so that nothing improves.
        options += ["--patience", "3", "--maximize-best-checkpoint-metric", "--save-dir", str(out)]
        begun = [str(tmp_path / "signal.py"), str(in_validation_of), str(out / "recorded")]
        return finish(warm.start([*begun, str(data_directory), *options], out / "log"), out), out

    code, whole = run("whole", -1)
    assert code == 0 and "early stop" in (whole / "log").read_text()
    expected, stopped = validations(whole), max(recorded(whole))
    last = max(expected)
    assert stopped == last < 40
    for at in (last, last - 2):  # the validation that stops the run, and the one before
        code, out = run(f"interrupted{at}", at)
        assert code == EXIT_INTERRUPTED
        before = validations(out)
        assert at not in before
        code, out = run(f"interrupted{at}", -1)
        assert code == 0 and max(recorded(out)) == stopped
        assert before | validations(out) == expected


SIGNAL_IN_COMPARISON = """
import os, signal, time
from fairseq.distributed.utils import get_global_rank
from fairseq_cli.train import cli_main
from vt_fairseq.task import VideoTranslateTask

step, sent = VideoTranslateTask.valid_step, []
def valid_step(self, *arguments):
    if "valid, blank" in self.datasets and not sent and get_global_rank() == 0:
        sent.append(os.kill(int(os.environ["RECEIVER"]), int(os.environ["SIGNAL"])))
        time.sleep(1)  # it may be passed on first
    return step(self, *arguments)
VideoTranslateTask.valid_step = valid_step
if __name__ == "__main__":
    os.environ["RECEIVER"] = str(os.getpid())
    cli_main()
"""


@pytest.mark.parametrize(("name", "processes"), [("SIGTERM", 1), ("SIGINT", 2)])
def test_a_signal_in_the_comparison_with_blank_video_leaves_a_run_that_is_done_done(
    data_directory, tmp_path, name, processes
):
    (tmp_path / "signal.py").write_text(SIGNAL_IN_COMPARISON)
    options = [*PLUGIN, *TINY, "--max-update", "2", "--batch-size-valid", "1", "--num-workers", "0"]
    options += ["--distributed-world-size", str(processes), "--save-dir", str(tmp_path)]
    arguments = [str(tmp_path / "signal.py"), str(data_directory), *options]
    number = {"SIGNAL": str(int(getattr(signal, name)))}
    code = finish(warm.start(arguments, tmp_path / "log", number), tmp_path)
    log = (tmp_path / "log").read_text()
    assert code == 0, log[-2000:]
    assert f"{name}: the comparison with blank video is left out" in log
    assert "Traceback" not in log and "with the video" not in log and "saving after" not in log
    saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    assert saved["optimizer_history"][-1]["num_updates"] == 2


def test_with_no_save_a_signal_says_that_nothing_is_saved(data_directory, tmp_path):
    process = start(data_directory, tmp_path, "--no-save")
    wait_for(process, tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process, tmp_path) == 128 + signal.SIGTERM
    log = (tmp_path / "log").read_text()
    assert "not saved (--no-save)" in log and ": saved at" not in log
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_without_last_checkpoints_a_signal_saves_all_the_same(data_directory, tmp_path, whole):
    process = start(data_directory, tmp_path, "--no-last-checkpoints")
    wait_for(process, tmp_path, 2)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process, tmp_path) == EXIT_INTERRUPTED
    saved = max(recorded(tmp_path))
    (tmp_path / "recorded").unlink()
    assert finish(start(data_directory, tmp_path), tmp_path) == 0
    assert recorded(tmp_path) == {k: v for k, v in whole.items() if k > saved}
