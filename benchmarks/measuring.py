"""What the benchmarks share: turns, processes, ratios, bars, and the result file.

Two ways are compared in one process, in turn, by CPU time on one thread; a ratio is that of one
round, so that whatever else the machine does meets both. Set ``OMP_NUM_THREADS=1`` or import this
module before torch.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Clock = Callable[[], float]


def cpu_seconds(function: Callable[[], object], clock: Clock = time.process_time) -> float:
    """Seconds of one call: of this process's CPU time, or by another clock."""
    began = clock()
    function()
    return clock() - began


def process(*command: str | Path) -> dict[str, float]:
    """CPU seconds, seconds and the most MB of a process that has to succeed, on one thread."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{shlex.join(map(str, command))} failed")
    return {
        "peak_mb": round(usage.ru_maxrss / 1024),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "seconds": round(time.monotonic() - began, 2),
    }


def in_turn(
    ways: dict[str, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> dict[str, list[float]]:
    """Seconds of every way, once per round, after one round that is not counted."""
    for function in ways.values():
        function()
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        # The first of a round differs, so that none always runs on the caches of another.
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            spent[name].append(cpu_seconds(ways[name], clock))
    return spent


def percent_in(operations: Collection[str], function: Callable[[], object]) -> int:
    """Share of a call's time, by the clock, that torch's profiler finds in ``operations``."""
    import torch  # after OMP_NUM_THREADS is set

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        whole = cpu_seconds(function, time.perf_counter)
    spent = sum(e.self_cpu_time_total for e in recorded.key_averages() if e.key in operations)
    return round(100 * spent / 1e6 / whole)


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Median, least and most of the rounds' ratios."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }


def judged(found: dict[str, float], at_least: float | None = None, at_most: float | None = None):
    """``found`` (see ``ratio``) with its bar and whether the median reaches it."""
    low = at_least is None or found["ratio"] >= at_least
    high = at_most is None or found["ratio"] <= at_most
    bar = f"at least {at_least}" if at_least is not None else f"at most {at_most}"
    return found | {"bar": bar, "reached": low and high}


def machine(*packages: str) -> dict[str, object]:
    """Date, processor, load and the versions of Python, torch and ``packages``."""
    versions = {}
    for name in ("torch", *packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load average over 1 minute": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_result(name: str, about: dict[str, object], measured: dict[str, dict]) -> int:
    """Write results/NAME.json: the command, the machine and every number; print the bars.

    Returns the script's exit code: 1 where a bar is not reached, else 0.
    """
    arguments = shlex.join(sys.argv[1:])
    result = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name} {arguments}".strip(),
        "machine": about,
        "measured": measured,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for what, found in measured.items():
        if "reached" in found:
            spread = f"{found['ratio']} ({found['least']}-{found['most']})"
            verdict = "reached" if found["reached"] else "NOT reached"
            print(f"{what:56} {spread:26} bar {found['bar']}: {verdict}")
        elif "bar" not in found:
            print(f"{what:56} {found}")
    return int(not all(found.get("reached", True) for found in measured.values()))
