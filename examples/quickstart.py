"""Runs the whole of vt_fairseq on MiniWorld with the public commands and prints one table.

Called by quickstart.sh. As in the paper, the video network learns to classify first, and then the
whole model to write. Steps that are done are skipped, so an interrupted run goes on: training
resumes from its last checkpoint. The commands run as forks of this process, which imports what they
need once; they are written to the logs as one would type them.
"""

import importlib.metadata
import json
import logging
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import tqdm

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "quickstart"
DATA, LOGS = OUT / "data", OUT / "logs"
VIDEO_CHECKPOINT = OUT / "video-network" / "checkpoint_last.pt"
CHECKPOINT = OUT / "checkpoints" / "checkpoint_last.pt"
METRICS = OUT / "metrics.json"
EVALUATIONS_AT_ONCE = 2
LOG_FORMAT = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"  # fairseq's
FORK = multiprocessing.get_context("fork")

ENGINES = {
    "deepspeed": ["--optimizer", "deepspeed_adam", "--zero-stage", "1", "--adam-backend", "torch"],
    "fairseq": ["--optimizer", "adam"],
}
PLUGIN = ["--user-dir", str(ROOT / "user_dir"), "--task", "video_translate"]
TRAIN = [
    *["fairseq-train", str(DATA), *PLUGIN, "--arch", "video_translate_tiny", "--no-context"],
    *["--num-frames", "8", "--frame-size", "32", "--no-flip", "--crop-scales", "1,0.9"],
    *["--cache-clips", "0.5", "--num-workers", "0", "--seed", "1", "--cpu"],
    *["--adam-betas", "(0.9,0.98)", "--clip-norm", "1.0", "--lr-scheduler", "polynomial_decay"],
    *["--no-epoch-checkpoints", "--save-interval-updates", "200", "--keep-interval-updates", "1"],
    *["--log-format", "json", "--log-interval", "10", "--validate-interval", "1000"],
]
VIDEO_UPDATES, UPDATES = 800, 350
TRAIN_VIDEO = [
    *[*TRAIN, "--save-dir", str(VIDEO_CHECKPOINT.parent)],
    *[
        "--criterion",
        "video_translate_classification",
        "--heads",
        "verb,noun",
        "--heads-on",
        "video",
    ],
    *["--lr", "3e-3", "--head-lr-scale", "1", "--batch-size", "16", "--warmup-updates", "20"],
    *f"--total-num-update {VIDEO_UPDATES} --max-update {VIDEO_UPDATES}".split(),
]
TRAIN_ALL = [
    *[*TRAIN, "--save-dir", str(CHECKPOINT.parent)],
    *["--finetune-from-model", str(VIDEO_CHECKPOINT), "--criterion", "video_translate"],
    *["--actions", "caption,classify,answer", "--text-dropout", "0.8"],
    *["--lr", "2e-3", "--video-lr-scale", "0.3", "--batch-size", "32", "--warmup-updates", "60"],
    *f"--total-num-update {UPDATES} --max-update {UPDATES}".split(),
    # A caption of a clip that it does not learn from, after each tenth.
    *["--validate-interval-updates", str(UPDATES // 10), "--batch-size-valid", "1"],
    *["--max-valid-steps", "1", "--eval-bleu", "--eval-bleu-print-samples"],
]


@dataclass(frozen=True)
class Step:
    """A command that is done once ``done`` exists; its output goes to ``quickstart/logs``."""

    name: str
    command: list[str]
    done: Path

    @property
    def log(self) -> Path:
        return LOGS / f"{self.name.replace(' ', '-')}.log"

    def run(self) -> None:
        """In a fork: the console script of that name, as pip has installed it."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(shlex.join(self.command) + "\n")
            file.flush()
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if self.command[0].startswith("fairseq-"):  # fairseq itself does so when it is imported
            logging.basicConfig(format=LOG_FORMAT, level=logging.INFO, stream=sys.stdout)
        sys.argv = list(self.command)
        (script,) = importlib.metadata.entry_points(group="console_scripts", name=self.command[0])
        sys.exit(script.load()())


class Memory:
    """Highest memory of this process and all its children together, in GB, sampled."""

    def __init__(self) -> None:
        self.peak_gb = 0.0

    def sample(self) -> None:
        """Proportional set sizes (Linux): shared pages count once."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:  # the process has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
        total_kb, queue = 0, [os.getpid()]
        while queue:
            pid = queue.pop()
            queue += children.get(pid, [])
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total_kb += sum(int(x.split()[1]) for x in rollup.splitlines() if x.startswith("Pss:"))
        self.peak_gb = max(self.peak_gb, total_kb / 1e6)


memory = Memory()


class Progress:
    """A bar over the updates of a training, read off its log; a line after each tenth."""

    LOGGED = re.compile(r"\| train_inner \| (\{.*\})$")
    SHOWN = re.compile(r"\| vt_fairseq\.task \| (.*; expected .*)$")

    def __init__(self, step: Step, updates: int):
        self.log, self.updates, self.tenth = step.log, updates, 0
        self.offset = self.log.stat().st_size if self.log.exists() else 0
        self.bar = tqdm.tqdm(total=updates, desc=step.name, unit="update", disable=None)

    def read(self) -> None:
        """Show what the log has by now."""
        if not self.log.exists():
            return
        with open(self.log, encoding="utf-8", errors="replace") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition("\n")
        self.offset += len((whole + newline).encode())
        for line in whole.splitlines():
            if match := self.LOGGED.search(line):
                self._update({k: float(v) for k, v in json.loads(match[1]).items()})
            elif match := self.SHOWN.search(line):
                clip, _, texts = match[1].partition(": ")
                written, _, references = texts.rpartition("; expected ")
                self._say(f"    held-out {clip}: {written}   (right: {references})")

    def _update(self, logged: dict[str, float]) -> None:
        done = int(logged["num_updates"])
        right, what = logged.get("accuracy"), "tokens"
        if "action_accuracy" in logged:
            right, what = logged["action_accuracy"], "clips"
        said = f"loss {logged['loss']:.2f}, {right:.0f} % of the training {what} right"
        if not self.bar.n:
            self.bar.reset()  # the time that is left is not that of the imports
            self.bar.initial = done
        self.bar.set_postfix_str(said)
        self.bar.update(done - self.bar.n)
        if done * 10 // self.updates > self.tenth:
            self.tenth = done * 10 // self.updates
            self._say(f"  update {done} of {self.updates}: {said}")

    def _say(self, line: str) -> None:
        self.bar.write(line)
        sys.stdout.flush()


def run(step: Step, updates: int = 0) -> None:
    """Run one step, with a bar if it trains for so many updates."""
    if step.done.exists():
        print(f"{step.name}: done before", flush=True)
        return
    began = time.monotonic()
    progress = Progress(step, updates) if updates else None
    process = start(step)
    try:
        while process.is_alive():
            process.join(1.0)
            memory.sample()
            if progress:
                progress.read()
    except KeyboardInterrupt:  # a training that hears it, too, saves what it has
        process.join()
        raise
    if progress:
        progress.bar.close()
    check(step, process.exitcode)
    print(f"{step.name}: {time.monotonic() - began:.0f} s", flush=True)


def run_all(steps: Iterable[Step]) -> None:
    """Run steps, some at once."""
    waiting = deque(step for step in steps if not step.done.exists())
    total, ended = len(waiting), 0
    running: dict[Any, tuple[Step, Any]] = {}
    while waiting or running:
        while waiting and len(running) < EVALUATIONS_AT_ONCE:
            step = waiting.popleft()
            process = start(step)
            running[process.sentinel] = step, process
        for sentinel in connection.wait(list(running), timeout=1.0):
            step, process = running.pop(sentinel)
            process.join()
            check(step, process.exitcode)
            ended += 1
            print(f"{step.name}: done, {ended} of {total}", flush=True)
        memory.sample()


def start(step: Step) -> Any:
    """A step's process."""
    process = FORK.Process(target=step.run)
    process.start()
    return process


def check(step: Step, code: int | None) -> None:
    """End where a step has failed, with the end of its log."""
    if code != 0:
        tail = "\n".join(step.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise SystemExit(
            f"{step.name} failed with exit code {code}; the end of {step.log}:\n{tail}"
        )


def import_once() -> None:
    """What all commands need."""
    from vt_fairseq.quiet_imports import quiet_imports

    with quiet_imports():
        import vt_fairseq.plugin  # noqa: F401


@dataclass(frozen=True)
class Measured:
    """A row of the table, or half of it: what one evaluation gives.

    Attributes:
        key: in metrics.json.
        kind: of vt-score, or captions.
        split: of the data.
        metric: in the evaluation's own metrics.json.
        blank: whether the videos are gray.
    """

    key: str
    kind: str
    split: str
    metric: str
    blank: bool

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.split}{'-blank' if self.blank else ''}"

    @property
    def folder(self) -> Path:
        return OUT / self.name

    def predict(self) -> Step:
        """Generate captions, or rank candidates."""
        blank = ["--blank-video"] if self.blank else []
        common = ["--path", str(CHECKPOINT), "--batch-size", "32", "--cpu", *blank]
        if self.kind == "caption":
            command = ["fairseq-generate", str(DATA), *PLUGIN, "--gen-subset", self.split]
            command += ["--action", "caption", "--beam", "4", "--max-len-b", "24", "--results-path"]
            return Step(
                f"generate {self.name}",
                [*command, str(self.folder), *common],
                self.folder / "predictions.jsonl",
            )
        command = ["vt-score", self.kind, str(DATA), "--split", self.split, "--out"]
        return Step(
            f"score {self.name}",
            [*command, str(self.folder), *common],
            self.folder / "metrics.json",
        )

    def evaluate(self) -> Step:
        """Of captions; vt-score does it itself."""
        files = [f"--{kind}={self.folder}/{kind}.jsonl" for kind in ("predictions", "references")]
        out = self.folder / "metrics.json"
        command = ["vt-evaluate", "captions", *files, "--coco=off", f"--out={out}"]
        return Step(f"evaluate {self.name}", command, out)

    def value(self) -> float:
        """Per cent."""
        return json.loads((self.folder / "metrics.json").read_text())[self.metric]


ROWS = [
    ("captions, BLEU-4", "caption_bleu4", "caption", "test", "bleu4"),
    ("question answering, accuracy of 5", "vqa_accuracy", "vqa", "test", "accuracy"),
    ("text to video, R@1 of 120 clips", "retrieval_r1", "retrieval", "retrieval", "r1"),
    ("classification, accuracy of 144", "classify_accuracy", "classify", "test", "accuracy"),
    ("never seen together: captions, BLEU-4", "novel_caption_bleu4", "caption", "novel", "bleu4"),
    ("never seen together: question answering", "novel_vqa_accuracy", "vqa", "novel", "accuracy"),
    (
        "never seen together: classification",
        "novel_classify_accuracy",
        "classify",
        "novel",
        "accuracy",
    ),
]


def measure() -> dict[str, float]:
    """The numbers of the table: held-out videos, the same blanked, and unseen combinations."""
    print("measuring, each once with the videos and once with gray ones (blank):", flush=True)
    measured = [
        Measured(f"blank_{key}" if blank else key, kind, split, metric, blank)
        for blank in (False, True)
        for _, key, kind, split, metric in ROWS
    ]
    run_all(one.predict() for one in measured)
    run_all(one.evaluate() for one in measured if one.kind == "caption")
    return {one.key: one.value() for one in measured}


def table(metrics: dict[str, float]) -> str:
    """Text of the results, the same model with and without seeing the video."""
    lines = [f"{'held-out videos, per cent':42} {'video':>6} {'blank':>6}"]
    for name, key, *_ in ROWS:
        lines.append(f"{name:42} {metrics[key]:6.1f} {metrics[f'blank_{key}']:6.1f}")
    return "\n".join(lines)


def main() -> None:
    """Prepare, train, generate, score, report, print."""
    began = float(sys.argv[1])
    engine = os.environ.get("ENGINE") or "deepspeed"
    if engine not in ENGINES:
        raise SystemExit(f"error: ENGINE: expected {' or '.join(ENGINES)}, found {engine}")
    OUT.mkdir(exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # two are slower: the networks are small
    import_once()
    prepare = ["vt-prepare", "miniworld", "--out", str(DATA), "--train-vocabulary", "300"]
    run(Step("prepare MiniWorld", prepare, DATA / "data.json"))
    for name, command, updates in (
        ("train the video network", TRAIN_VIDEO, VIDEO_UPDATES),
        ("train all of it", TRAIN_ALL, UPDATES),
    ):
        step = Step(name, [*command, *ENGINES[engine]], OUT / name.replace(" ", "-"))
        run(step, updates)
        step.done.touch()
    metrics = measure()
    report = OUT / "report.html"
    run(Step("write the report", ["vt-report", str(OUT), "--out", str(report)], report))
    metrics |= {"seconds": round(time.time() - began), "peak_memory_gb": round(memory.peak_gb, 2)}
    if not METRICS.exists():  # a second run has not taken the time or the memory of the first
        METRICS.write_text(json.dumps(metrics, indent=1) + "\n")
    metrics = json.loads(METRICS.read_text())
    print(f"\n{table(metrics)}\n")
    print(f"{metrics['seconds']} s in all, at most {metrics['peak_memory_gb']} GB of memory")
    print(f"metrics:     {METRICS}\ncheckpoint:  {CHECKPOINT}\nlogs:        {LOGS}")
    print(f"captions:    {OUT / 'caption-test' / 'predictions.jsonl'}")
    print(f"report:      {report}   (open it in a browser)")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted: the same command goes on from here") from None
