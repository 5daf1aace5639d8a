"""Commands that are killed: no result is half, and the same command ends as if nothing had been.

Each command is a fork of this process, killed at a random moment between its first change of the
folder of its results and its end. In turn, that folder is empty before, or has an earlier result.
"""

import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  (a check of sizes imports it, which takes seconds)

import vt_fairseq.plugin  # noqa: F401
from tests.commands import MODULES, PLUGIN
from tests.faults import forks

# Imported once, for all forks.
USED = ("corpora.prepare", "corpora.transcode", "scoring.job", "scoring.run", "inference.api")
for module in (*MODULES.values(), *(f"vt_fairseq.{name}" for name in USED)):
    importlib.import_module(module)

KILLS = 50
POLL_SECONDS = 0.001
LONGEST = 200  # seconds of one run on a busy machine

Content = dict[str, bytes]


@dataclass(frozen=True)
class Command:
    """A command and what it makes.

    Attributes:
        name: of the command.
        arguments: of the run that is killed, and of an earlier one with another result.
        restart: what is added where there is an earlier result.
        last: the file that comes last: once it is there, it is one run's with all others; ""
            where each file is a result of its own.
    """

    name: str
    arguments: list[str]
    earlier: list[str]
    restart: list[str]
    last: str


def commands(data: Path, model: Path, folder: Path) -> dict[str, Command]:
    """The commands whose results take long to make; they write to ``folder``."""
    out, videos = ["--out", str(folder)], data / "world" / "videos"
    lines = (data / "world" / "annotations.jsonl").read_text().splitlines(keepends=True)
    manifest, fewer = folder.with_name("all.jsonl"), folder.with_name("fewer.jsonl")
    manifest.write_text("".join(lines))
    fewer.write_text("".join(lines[::2]))
    prepare = ["jsonl", "--videos", str(videos), *out, "--transcode", "24"]
    prepare += ["--train-vocabulary", "120", "--num-workers", "2", "--annotations"]
    score = ["retrieval", str(data), "--path", str(model), "--split", "train", *out]
    score += ["--batch-size", "4", "--device", "cpu"]
    generate = [str(data), *PLUGIN, "--path", str(model), "--gen-subset", "train"]
    generate += ["--action", "caption", "--batch-size", "2", "--results-path", str(folder)]
    generate += ["--max-len-b", "5", "--sampling", "--sampling-topk", "50", "--beam", "1"]
    caption = [*map(str, sorted(videos.glob("*.mp4"))[:8]), "--path", str(model), *out]
    caption += ["--format", "jsonl", "--decoding", "topk", "--sampling-topk", "50"]
    caption += ["--device", "cpu", "--batch-size", "1", "--max-target-tokens", "5"]
    return {
        command.name: command
        for command in (
            Command(
                "vt-prepare",
                *([*prepare, str(manifest)], [*prepare, str(fewer)], []),
                last="data.json",
            ),
            Command(
                "vt-score",
                *(score, [*score, "--length-normalize"], ["--restart"]),
                last="metrics.json",
            ),
            Command(
                "fairseq-generate",
                *([*generate, "--seed", "2"], [*generate, "--seed", "3"], []),
                last="predictions.jsonl",
            ),
            Command("vt-caption", caption, [*caption, "--seed", "2"], [], last=""),
        )
    }


def start(command: str, arguments: list[str], log: Path) -> int:
    """The process id of a fork that runs a command, whose output goes to ``log``."""

    def run() -> None:
        multiprocessing.set_start_method("fork", force=True)
        sys.argv = [command, *arguments]
        module = importlib.import_module(MODULES[command])
        getattr(module, "cli_main" if command.startswith("fairseq") else "main")()

    return forks.start(run, log)


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of all that lies below ``folder``, which changes meanwhile."""
    found = []
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            found.append((os.path.join(parent, name), status.st_size, status.st_mtime_ns))
    return sorted(found)


def results(folder: Path) -> Content:
    """What has the name of a result, by its path: nothing hidden, and no part of one."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and ".part" not in path.name
        and ".done" not in path.name
    }


class Killing:
    """One command, whose results of runs to which nothing happens are known."""

    def __init__(self, command: Command, folder: Path):
        self.command, self.folder, self.log = command, folder, folder.with_name("log")
        self.earlier = self.run(command.earlier)
        shutil.copytree(folder, folder.with_name("earlier"))
        self.whole = self.run([*command.arguments, *command.restart])
        shutil.rmtree(folder)
        assert self.run(command.arguments) == self.whole, "the command is not deterministic"
        assert self.whole != self.earlier

    def start(self, arguments: list[str]) -> tuple[int, float]:
        """Its process, and when it first changed its folder."""
        before = listing(self.folder)
        child = start(self.command.name, arguments, self.log)
        deadline = time.monotonic() + LONGEST
        while listing(self.folder) == before:
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(POLL_SECONDS)
        return child, time.monotonic()

    def run(self, arguments: list[str]) -> Content:
        """The results of a run to which nothing happens."""
        child, began = self.start(arguments)
        _, status = os.waitpid(child, 0)
        self.seconds = time.monotonic() - began
        assert os.waitstatus_to_exitcode(status) == 0, self.log.read_text()[-3000:]
        return results(self.folder)

    def kill(self, generator: random.Random, after_earlier: bool) -> tuple[Content, list[str]]:
        """What a killed run leaves, and the arguments that it had."""
        arguments = [*self.command.arguments, *(self.command.restart if after_earlier else [])]
        while True:
            shutil.rmtree(self.folder, ignore_errors=True)
            if after_earlier:
                shutil.copytree(self.folder.with_name("earlier"), self.folder)
            child, began = self.start(arguments)
            moment = began + generator.random() * self.seconds
            time.sleep(max(0.0, moment - time.monotonic()))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):  # else it had come to its end
                return results(self.folder), arguments

    def half(self, left: Content, after_earlier: bool) -> list[str]:
        """Names of what is no whole result of one run, this or the earlier one."""
        runs = [self.whole, *([self.earlier] if after_earlier else [])]
        odd = [name for name, own in left.items() if own not in [run.get(name) for run in runs]]
        last = self.command.last
        if last in left and not any(run.items() <= left.items() for run in runs):
            odd.append(f"{last}, without the files that belong to it")
        return odd


def kill_often(killing: Killing, kills: int, generator: random.Random) -> dict[str, int]:
    """The number of kills, of those that left a part of the results, and of what was wrong."""
    counts = {"kills": 0, "with a part of the results": 0, "half results": 0, "different": 0}
    for number in range(kills):
        after_earlier = number % 2 == 1
        left, arguments = killing.kill(generator, after_earlier)
        odd = killing.half(left, after_earlier)
        again = killing.run(arguments)
        counts["kills"] += 1
        counts["with a part of the results"] += left not in ({}, killing.earlier)
        counts["half results"] += bool(odd)
        names = again.keys() | killing.whole.keys()
        wrong = {name for name in names if again.get(name) != killing.whole.get(name)}
        if after_earlier:  # it had more files, which are its own
            wrong -= killing.earlier.keys() - killing.whole.keys()
        counts["different"] += bool(wrong)
        assert not odd and not wrong, (odd, wrong)
    return counts


@pytest.fixture
def killing(data_directory, trained, tmp_path, request) -> Killing:
    folder = tmp_path / "results"
    return Killing(commands(data_directory, trained, folder)[request.param], folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "killing", ["vt-prepare", "vt-score", "fairseq-generate", "vt-caption"], indirect=True
)
def test_killed_at_any_moment_no_result_is_half_and_the_same_command_ends_well(
    killing, campaign, record
):
    counts = kill_often(killing, KILLS if campaign else 4, random.Random(1))
    record(killing.command.name, counts)
    assert counts["kills"] >= 4
