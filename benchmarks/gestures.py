"""The recipe for gestures, from one recording batch to the other, either way round, some seeds.

    python benchmarks/gestures.py [CLIPS] [--seeds 1,2,3] [--at-once 1] [--kept FOLDER]

``CLIPS`` is the folder of the clips, ``$VT_TEST_DATA/video/gestures`` when it is not given. With
``--kept``, another such folder, each seed also learns both batches and is measured on that. Drives
examples/gestures/train.sh; runs that have ended are not made again. Seconds are a run's own,
whatever else the machine does; CPU seconds are those of all its processes. The motions of
MiniWorld are taught once for all. Ends with exit code 1 where a seed misses what is wanted. Writes
results/gestures.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring

SCRIPT = measuring.ROOT / "examples" / "gestures" / "train.sh"
SPLITS = ("train", "valid")  # of the clips: one recording batch each
ACROSS, KEPT = 80.0, 95.0  # per cent that is wanted
# What is read: the folder of the results, and a key of its metrics.
READ = {
    "classes": ("classes", "accuracy"),
    "mean of the classes": ("classes", "mean_class_accuracy"),
    "whole captions": ("captions", "exact_match"),
    "captions, BLEU-4": ("captions", "bleu4"),
    "classes of the video network": ("video-network", "accuracy"),
}


@dataclass(frozen=True)
class Run:
    """A training and what it is measured on."""

    train: str
    test: str
    seed: int
    clips: Path
    folder: Path
    motions: Path

    @property
    def name(self) -> str:
        """What it learns and is measured on."""
        return f"{self.train} to {'kept' if os.sep in self.test else self.test}"

    @property
    def out(self) -> Path:
        """Where its results are."""
        return self.folder / f"{self.name.replace(' ', '-').replace(',', '+')}-{self.seed}"

    def go(self, threads: int) -> None:
        """Run the recipe, unless it has ended."""
        done = self.out / "spent.json"
        if done.exists():
            return
        spent = recipe(
            self.clips, [], self.out / "log.txt", threads, TRAIN=self.train, TEST=self.test,
            SEED=self.seed, OUT=self.out, MOTIONS=self.motions,
        )  # fmt: skip
        done.write_text(json.dumps(spent))

    def found(self) -> dict[str, float]:
        """Per cent of the run, with the video and blank, and what it took."""
        numbers = json.loads((self.out / "spent.json").read_text())
        for what, (name, key) in READ.items():
            for kind in ("", "--blank-video"):
                metrics = json.loads(
                    (self.out / f"results{kind}" / name / "metrics.json").read_text()
                )
                numbers[f"{what}{', blank' if kind else ''}"] = round(metrics[key], 1)
        return numbers


def recipe(
    clips: Path, stages: list[str], log: Path, threads: int, **variables: Any
) -> dict[str, float]:
    """Seconds and CPU seconds of a run of the script, which has to succeed."""
    given = {name: str(value) for name, value in variables.items()}
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(measuring.ROOT), "OMP_NUM_THREADS": str(threads)}
    began = time.monotonic()
    with open(log, "a", encoding="utf-8") as file:
        child = subprocess.Popen(
            ["bash", str(SCRIPT), str(clips), *stages],
            env={**environment, **given}, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the recipe failed; the end of {log}:\n{log.read_text()[-2000:]}")
    return {
        "seconds": round(time.monotonic() - began),
        "CPU seconds": round(usage.ru_utime + usage.ru_stime),
    }


def summary(runs: list[Run], wanted: float) -> dict[str, Any]:
    """Every number of every seed, and the mean and the least of the classes' accuracy."""
    found = [run.found() for run in runs]
    classes = [one["classes"] for one in found]
    return {
        "classes, mean": round(statistics.mean(classes), 1),
        "classes, least": min(classes),
        "wanted": wanted,
        "every seed has it": min(classes) >= wanted,
        "seeds": {str(run.seed): one for run, one in zip(runs, found, strict=True)},
    }


def main() -> int:
    """Teach motions, run, read, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", type=Path, nargs="?", help="folder of the clips")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--at-once", type=int, default=1, help="runs; 2: each on one core")
    parser.add_argument("--runs", type=Path, default=measuring.ROOT / "runs" / "gestures")
    parser.add_argument("--kept", type=Path, help="folder of clips of further batches")
    args = parser.parse_args()
    if args.clips is None and not os.environ.get("VT_TEST_DATA"):
        parser.error("VT_TEST_DATA is not set: name the folder of the clips")
    clips = args.clips or Path(os.environ["VT_TEST_DATA"]) / "video" / "gestures"
    motions = args.runs / "motions" / "checkpoint_last.pt"
    threads = max(1, 2 // args.at_once)
    measured: dict[str, dict] = {}
    if not (taught := args.runs / "motions.json").exists():
        log = args.runs / "motions.txt"
        taught.write_text(json.dumps(recipe(clips, ["motions"], log, threads, MOTIONS=motions)))
    measured["motions of MiniWorld"] = json.loads(taught.read_text())
    both = ",".join(SPLITS)
    pairs = [SPLITS, SPLITS[::-1], *([(both, str(args.kept))] if args.kept else [])]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    runs = [Run(*pair, seed, clips, args.runs, motions) for seed in seeds for pair in pairs]
    with ThreadPoolExecutor(args.at_once) as pool:
        list(pool.map(lambda run: run.go(threads), runs))
    for train, test in pairs:
        own = [run for run in runs if (run.train, run.test) == (train, test)]
        measured[own[0].name] = summary(own, KEPT if train == both else ACROSS)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    about = measuring.machine("numpy", "av") | {"threads of a run": threads}
    if peak:
        about["most MB of a process"] = round(peak / 1024)
    # The result names no path of this machine.
    sys.argv[1:] = ["--seeds", args.seeds, "--at-once", str(args.at_once)]
    sys.argv[1:] += ["--kept", "FOLDER"] if args.kept else []
    measuring.write_result("gestures", about, measured)
    return int(not all(found.get("every seed has it", True) for found in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
