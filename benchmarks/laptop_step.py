"""An update of the quickstart's model on a CPU: what each way of computing it takes.

    python benchmarks/laptop_step.py [--rounds 9] [--without compiled]

Ways: fp32 on all cores as training does it by default, on one thread, with another layout of the
frames in memory, in bf16, and compiled (``--compile blocks``, which takes minutes before the first
update). They train on one batch in memory, in blocks that take turns in one process; time is that
of the clock, so the cores have to be idle. Prints what each takes against the default; writes
results/laptop_step.json, also whether the processor has instructions for bf16.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from fairseq.logging import metrics
    from gpu.training import build, made_up
    from narrow_model import of_few_tokens, write_data

OPTIONS = [
    *["--arch", "video_translate_tiny", "--batch-size", "32", "--num-frames", "8"],
    *["--frame-size", "32", "--cpu", "--adam-backend", "torch", "--zero-stage", "0"],
]
WAYS = {
    "the default": [],
    "one thread": [],
    "frames contiguous": [],
    "bf16": ["--bf16"],
    "compiled": ["--compile", "blocks"],
}
UPDATES = 5  # of a block
SOURCE, TARGET = 32, 16  # tokens
BF16 = {"avx512_bf16", "amx_bf16"}


def updates(name: str, folder: str) -> Callable[[], None]:
    """A block of updates in one of the ways."""
    torch.manual_seed(1)
    trainer, task = build(f"{folder}/data", [*OPTIONS, *WAYS[name]], folder)
    trainer.begin_epoch(1)
    batch = of_few_tokens(made_up(trainer, task, SOURCE, TARGET), task.tokenizer.video)
    if name == "frames contiguous":
        trainer.get_model().encoder.video.normalize.register_forward_hook(
            lambda module, inputs, output: output.contiguous()
        )
    threads = 1 if name == "one thread" else os.cpu_count() or 1

    def block() -> None:
        torch.set_num_threads(threads)
        with metrics.aggregate("train"):
            for _ in range(UPDATES):
                trainer.train_step([batch])

    return block


def flags() -> set[str]:
    """The processor's, where the system tells."""
    path = Path("/proc/cpuinfo")
    words = path.read_text(encoding="utf-8").split() if path.exists() else []
    return set(words)


def main() -> int:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without", choices=WAYS, action="append", default=[])
    args = parser.parse_args()
    names = [name for name in WAYS if name not in args.without]
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder)
        ways = {name: updates(name, folder) for name in names}
        spent = measuring.in_turn(ways, args.rounds, clock=time.perf_counter)
    found: dict[str, dict[str, Any]] = {
        f"{name} against the default": measuring.ratio(spent[name], spent["the default"])
        for name in names[1:]
    }
    fastest = min(spent["the default"]) / UPDATES
    found["the default"] = {"ms of an update, the fastest": round(1e3 * fastest)}
    found["instructions for bf16"] = {"found": sorted(flags() & BF16)}
    return measuring.write_result("laptop_step", measuring.machine("ve-fairseq"), found)


if __name__ == "__main__":
    sys.exit(main())
