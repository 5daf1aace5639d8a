"""Start-up and step time of DeepSpeed's engine against fairseq's own trainer, on CPU, in one run.

    python benchmarks/deepspeed_step.py DATA [ROUNDS]

DATA is a prepared data directory (the quickstart's, for instance). Each round trains the tiny model
for 40 updates by fairseq's trainer and by ZeRO 1, 2 and 3, one after the other, with the same Adam;
medians over rounds and updates go to results/deepspeed_step.json. What counts is the CPU time of
the training process (one thread; its reader of videos is another process), which is the same on a
machine whose cores others use as well.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring

UPDATES, WARM_UP = 40, 10
OPTIONS = [
    *["--user-dir", str(measuring.ROOT / "user_dir"), "--task", "video_translate", "--cpu"],
    *["--arch", "video_translate_tiny", "--criterion", "video_translate", "--actions", "caption"],
    *["--num-frames", "8", "--frame-size", "40", "--optimizer", "deepspeed_adam"],
    *["--adam-backend", "torch", "--lr", "1e-4", "--batch-size", "32", "--disable-validation"],
    *["--max-update", str(UPDATES), "--no-save", "--clip-norm", "1", "--num-workers", "1"],
]


def measure(data: str, stage: int) -> dict[str, float]:
    """CPU seconds until the end of the first update, and per update."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recorded"
        script = [sys.executable, __file__, "--record", str(file), data]
        subprocess.run(
            [*script, *OPTIONS, "--zero-stage", str(stage), "--save-dir", folder],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        )
        lines = [float(line) for line in file.read_text().splitlines()]
    pairs = zip(lines[WARM_UP:], lines[WARM_UP + 1 :], strict=False)
    return {"to_first_update": lines[0], "per_update": statistics.median(b - a for a, b in pairs)}


def record(path: str) -> None:
    """``fairseq-train`` that writes its CPU time after every update, in seconds."""
    from fairseq.trainer import Trainer
    from fairseq_cli.train import cli_main

    train_step = Trainer.train_step

    def recorded_step(self, *args, **kwargs):
        output = train_step(self, *args, **kwargs)
        with open(path, "a") as lines:
            print(time.process_time(), file=lines)
        return output

    Trainer.train_step = recorded_step
    cli_main()


def main() -> None:
    """Measure, print and write down."""
    if sys.argv[1] == "--record":
        path = sys.argv.pop(1) and sys.argv.pop(1)
        return record(path)
    data, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    runs: dict[int, list[dict[str, float]]] = {stage: [] for stage in range(4)}
    for _ in range(rounds):
        for stage in runs:
            runs[stage].append(measure(data, stage))
            print(stage, runs[stage][-1], file=sys.stderr, flush=True)
    measured = {}
    for stage, found in runs.items():
        row = {key: round(statistics.median(run[key] for run in found), 4) for key in found[0]}
        row["per_update_to_fairseqs"] = measuring.ratio(
            *([run["per_update"] for run in of] for of in (found, runs[0]))
        )["ratio"]
        measured["fairseq" if stage == 0 else f"zero_{stage}"] = row
    measuring.write_result("deepspeed_step", measuring.machine("deepspeed"), measured)


if __name__ == "__main__":
    main()
