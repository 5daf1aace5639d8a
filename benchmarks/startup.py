"""How long until the first caption? Processor and wall seconds of whole processes, on the CPU.

    python benchmarks/startup.py CHECKPOINT VIDEO [ROUNDS]

CHECKPOINT is a tiny model's (the quickstart's, for instance). Each round starts one process of
each kind, one after the other; the least over the rounds is what the machine can do undisturbed,
and the load average says how undisturbed it was. Writes startup.json beside this file.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
QUIET = "from vt_fairseq.quiet_imports import quiet_imports\nwith quiet_imports(): import fairseq"
CAPTION = [sys.executable, "-m", "vt_fairseq.cli.caption"]


def commands(checkpoint: str, video: str) -> dict[str, list[str]]:
    """What is measured, by name."""
    return {
        "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        "python -c 'import fairseq'": [sys.executable, "-c", "import fairseq"],
        "... with quiet_imports()": [sys.executable, "-c", QUIET],
        "vt-caption --help": [*CAPTION, "--help"],
        "vt-caption VIDEO": [*CAPTION, video, "--path", checkpoint, "--device", "cpu"],
    }


def seconds(command: list[str]) -> tuple[float, float]:
    """(processor, wall) seconds of a command that succeeds, on one thread."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """Measure, print and write down."""
    checkpoint, video = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    measured: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, command in commands(checkpoint, video).items():
            measured.setdefault(name, []).append(seconds(command))
    least = {
        name: {"cpu": round(min(c for c, _ in runs), 2), "wall": round(min(w for _, w in runs), 2)}
        for name, runs in measured.items()
    }
    for name, found in least.items():
        print(f"{name:28} cpu {found['cpu']:5.2f} s  wall {found['wall']:5.2f} s")
    result = {
        "command": f"python benchmarks/startup.py CHECKPOINT VIDEO {rounds}",
        "seconds, least of the rounds": least,
        "load average over 5 minutes": round(os.getloadavg()[1], 1),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    (ROOT / "benchmarks" / "startup.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
