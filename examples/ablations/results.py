"""Collects what the finished steps printed and wrote into one small file."""

import functools
import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from parts import Measured
from plan import Plan
from steps import Runner, Step

FAILED_LINES = 20  # of the log of a step that failed
CURVES = ("loss", "accuracy", "verb_accuracy", "noun_accuracy", "answer_accuracy", "ups")

Numbers = dict[str, dict[str, dict[str, float]]]


def training_curves(log: str) -> dict[str, list[float]]:
    """What a training's log says of its course; ``updates`` is the axis of the others."""
    curves: dict[str, list[float]] = {}
    for line in log.splitlines():
        if "| train_inner |" in line:
            found = dict(re.findall(r"(\w+)=([\d.e+-]+)", line))
            curves.setdefault("updates", []).append(int(found["num_updates"]))
            for key in CURVES:
                if key in found:
                    curves.setdefault(key, []).append(float(found[key]))
    return curves


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
    """All that is known so far; of the steps, those of the first seed and those that failed."""
    others = tuple(f"seed{seed}/" for seed in seeds[1:])
    known = {}
    for step in steps:
        path = runner.log_path(step.name)
        failed = step.name in runner.failed
        if not path.exists() or (step.name.startswith(others) and not failed):
            continue
        log = path.read_text(encoding="utf-8", errors="replace")
        record = {"failed": log.splitlines()[-FAILED_LINES:]} if failed else runner.record(step)
        known[step.name] = (record or {}) | training_curves(log)
    done = sum(runner.record(step) is not None for step in steps)
    return {
        "scale": plan.scale.name,
        "updates": plan.updates,
        "seeds": seeds,
        "machine": machine(),
        "done": f"{done} of {len(steps)} steps",
        "numbers": numbers(plan, measured, seeds),
        "steps": known,
    }


def trainings(result: dict) -> str:
    """How far each training of the first seed came, how fast, from which loss to which."""
    lines = []
    for name, step in result["steps"].items():
        if "updates" in step:
            first, last = step["loss"][0], step["loss"][-1]
            lines.append(
                f"{name:34} {step['updates'][-1]:6} updates, "
                f"{median(step['ups']):6.2f} per second, loss {first:.2f} to {last:.2f}"
            )
    return "\n".join(lines)


@functools.cache
def machine() -> str:
    """Cores, GPU, versions."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{os.cpu_count()} CPU cores, {gpu}, {versions}"


def write(file: Path, result: dict) -> None:
    """Replace the file as a whole; one line per row and per step."""
    lines = []
    for key, value in result.items():
        text = json.dumps(value)
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            text = f"{{\n{inner}\n }}"
        lines.append(f" {json.dumps(key)}: {text}")
    part = file.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    part.replace(file)
