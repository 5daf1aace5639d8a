"""What DeepSpeed's engine costs against fairseq's own trainer, on a CPU, in one run.

    python benchmarks/deepspeed_step.py [--rounds 4]

Each round trains the quickstart's model for 60 updates by fairseq's trainer with its Adam, which is
what ``ENGINE=fairseq bash examples/quickstart.sh`` does, and by ZeRO 1, 2 and 3 with torch's fused
Adam, one after the other. What counts is the CPU time of the training process (one thread; its
reader of videos is another process), which is the same on a machine whose cores others use as well;
a ratio is that of one round. Bars: the quickstart's engine (ZeRO 1) and ZeRO 2 cost at most 10 %.
Medians over rounds and updates go to results/deepspeed_step.json.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring

UPDATES, WARM_UP = 60, 10
AT_MOST = 1.1
OPTIONS = [
    *["--user-dir", str(measuring.ROOT / "user_dir"), "--task", "video_translate", "--cpu"],
    *["--arch", "video_translate_tiny", "--criterion", "video_translate", "--actions", "caption"],
    *["--num-frames", "8", "--frame-size", "40", "--lr", "1e-4", "--batch-size", "32"],
    *["--max-update", str(UPDATES), "--no-save", "--clip-norm", "1", "--num-workers", "1"],
    *["--disable-validation"],
]
ENGINE = ["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--zero-stage"]
WAYS = {"fairseq": ["--optimizer", "adam"]} | {f"zero_{s}": [*ENGINE, str(s)] for s in (1, 2, 3)}
BARS = {"zero_1": AT_MOST, "zero_2": AT_MOST}


def measure(data: Path, options: list[str]) -> dict[str, float]:
    """CPU seconds until the end of the first update, and per update."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recorded"
        subprocess.run(
            [
                *[sys.executable, __file__, "--record", file, data],
                *[*OPTIONS, *options, "--save-dir", folder],
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
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


def main() -> int:
    """Measure, print and write down; 1 where a bar is not reached."""
    if sys.argv[1:2] == ["--record"]:
        path = sys.argv.pop(1) and sys.argv.pop(1)
        record(path)
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare = [sys.executable, "-m", "vt_fairseq.cli.prepare", "miniworld", "--out", data]
        measuring.process(*prepare, "--train-vocabulary", "300")
        for number in range(rounds):
            names = list(WAYS)  # the first of a round differs
            for name in names[number % len(names) :] + names[: number % len(names)]:
                runs[name].append(measure(data, WAYS[name]))
                print(name, runs[name][-1], file=sys.stderr, flush=True)
    measured = {}
    for name, found in runs.items():
        row = {key: round(statistics.median(run[key] for run in found), 4) for key in found[0]}
        if name != "fairseq":
            both = ([run["per_update"] for run in of] for of in (found, runs["fairseq"]))
            row |= measuring.ratio(*both)
        measured[name] = measuring.judged(row, at_most=BARS[name]) if name in BARS else row
    return measuring.write_result("deepspeed_step", measuring.machine("deepspeed"), measured)


if __name__ == "__main__":
    sys.exit(main())
