"""Collects what the finished steps printed and wrote into one small file."""

import functools
import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from parts import Measured
from plan import Plan
from steps import Runner, Step

KEPT = ("loss", "accuracy", "verb_accuracy", "noun_accuracy", "answer_accuracy", "ups", "gnorm")

Numbers = dict[str, dict[str, dict[str, float]]]


def training_curve(log: str) -> list[dict[str, float]]:
    """What each line of a training's log says of the last updates."""
    curve = []
    for line in log.splitlines():
        if "| train_inner |" in line:
            found = dict(re.findall(r"(\w+)=([\d.e+-]+)", line))
            point = {"updates": int(found["num_updates"])}
            curve.append(point | {key: float(found[key]) for key in KEPT if key in found})
    return curve


def metrics(folder: Path, labels: dict[str, str]) -> dict[str, float] | None:
    """A measurement's numbers; of descriptions also the share of right motions and objects."""
    file = folder / "metrics.json"
    if not file.exists():
        return None
    found = json.loads(file.read_text())
    numbers = {k: round(v, 3) for k, v in found.items() if isinstance(v, int | float)}
    if folder.name.endswith("-classify") and "accuracy" in numbers:
        numbers |= motion_and_object(folder / "predictions.jsonl", labels)
    return numbers


def motion_and_object(predictions: Path, labels: dict[str, str]) -> dict[str, float]:
    """Of "red square rising" the last word, and the words before it; per cent of the clips."""
    pairs = []
    for line in predictions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        pairs.append(((row["prediction"] or "").rsplit(" ", 1), labels[row["id"]].rsplit(" ", 1)))
    right = [sum(p[-1] == t[-1] for p, t in pairs), sum(p[0] == t[0] for p, t in pairs)]
    motion, thing = (round(100 * count / len(pairs), 3) for count in right)
    return {"motion": motion, "object": thing}


def numbers(plan: Plan, measured: Iterable[Measured], seeds: list[int]) -> Numbers:
    """Of each row, each key, each seed that is done."""
    rows = plan.out / "annotations.jsonl"
    labels = {}
    if rows.exists():
        read = map(json.loads, rows.read_text(encoding="utf-8").splitlines())
        labels = {row["id"]: row["label"] for row in read}
    found: Numbers = {}
    for seed in seeds:
        for one in measured:
            for key, value in (metrics(plan.scores(one, seed), labels) or {}).items():
                if key not in ("n", "missing"):
                    found.setdefault(one.row, {}).setdefault(key, {})[str(seed)] = value
    return found


def collect(
    plan: Plan, runner: Runner, steps: list[Step], measured: list[Measured], seeds: list[int]
) -> dict:
    """All that is known so far."""
    commands = {}
    for step in steps:
        record = runner.record(step)
        if record is None and step.name not in runner.failed:
            continue
        log = runner.log_path(step.name).read_text(encoding="utf-8", errors="replace")
        entry = record or {"failed": log.splitlines()[-20:]}
        commands[step.name] = entry | ({"curve": c} if (c := training_curve(log)) else {})
    return {
        "scale": plan.scale.name,
        "updates": plan.updates,
        "seeds": seeds,
        "machine": machine(),
        "done": f"{sum('seconds' in c for c in commands.values())} of {len(steps)} steps",
        "numbers": numbers(plan, measured, seeds),
        "steps": commands,
    }


@functools.cache
def machine() -> str:
    """Cores, GPU, versions."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores, {gpu}, {versions}"


def write(file: Path, result: dict) -> None:
    """Replace the file as a whole."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(file)
