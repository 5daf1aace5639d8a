"""Start-up and step time of DeepSpeed's engine against fairseq's own trainer, on CPU, in one run.

    python benchmarks/deepspeed_step.py DATA [ROUNDS]

DATA is a prepared data directory (the quickstart's, for instance). Each round trains the tiny model
for 40 updates by fairseq's trainer and by ZeRO 1, 2 and 3, one after the other, with the same Adam;
medians over rounds and updates go to deepspeed_step.json.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UPDATES, WARM_UP = 40, 10
OPTIONS = [
    *["--user-dir", str(ROOT / "user_dir"), "--task", "video_translate", "--cpu"],
    *["--arch", "video_translate_tiny", "--criterion", "video_translate", "--actions", "caption"],
    *["--num-frames", "8", "--frame-size", "40", "--optimizer", "deepspeed_adam"],
    *["--adam-backend", "torch", "--lr", "1e-4", "--batch-size", "32", "--disable-validation"],
    *["--max-update", str(UPDATES), "--no-save", "--clip-norm", "1", "--num-workers", "1"],
]


def measure(data: str, stage: int) -> tuple[float, float]:
    """Seconds from the start of the process to the end of the first update, and of an update."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recorded"
        script = [sys.executable, str(ROOT / "tests" / "recording.py"), str(file), data]
        began = time.time()
        subprocess.run(
            [*script, *OPTIONS, "--zero-stage", str(stage), "--save-dir", folder],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_WAIT_POLICY": "PASSIVE"},
        )
        times = [json.loads(line)["time"] for line in file.read_text().splitlines()]
    steps = [b - a for a, b in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)]
    return times[0] - began, statistics.median(steps)


def main() -> None:
    """Measure, print and write down."""
    data, rounds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[int, list[tuple[float, float]]] = {stage: [] for stage in range(4)}
    for _ in range(rounds):
        for stage in found:
            found[stage].append(measure(data, stage))
    medians = {s: tuple(statistics.median(v) for v in zip(*found[s], strict=True)) for s in found}
    result = {
        "command": "python benchmarks/deepspeed_step.py quickstart/data " + str(rounds),
        "machine": "2 CPU cores, no GPU, 1 process, fp32",
        "stages": {
            "fairseq" if stage == 0 else f"zero_{stage}": {
                "seconds_to_first_update": round(start, 2),
                "seconds_an_update": round(step, 4),
                "step_time_to_fairseqs": round(step / medians[0][1], 3),
            }
            for stage, (start, step) in medians.items()
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    (ROOT / "benchmarks" / "deepspeed_step.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
