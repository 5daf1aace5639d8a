"""Everything that is measured on one GPU: t5-large and R(2+1)D-34 at batch 8, as users run it.

    python benchmarks/gpu/run.py DATA [--video-root DIR] [--only NAME,NAME] [--limit SECONDS]

DATA: a data directory of real clips with T5's vocabulary, best made with ``vt-prepare --transcode``
(what is not about loading uses made-up batches). Each measurement is a process of its own, made
ready while the one before runs, so that the GPU waits for nobody. Results go to
benchmarks/results/gpu_CARD.json as they come; what does not start within the limit is left out and
said so.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import measuring  # noqa: E402

AHEAD = 1  # processes that import while another one measures, beside one that is about to
TRAIN = ["--arch", "video_translate_t5_large", "--batch-size", "8", "--adam-backend", "torch"]
FP16, BF16 = ["--fp16"], ["--bf16"]
FAIRSEQ = ["--zero-stage", "0"]
STAGE_4 = ["--checkpoint-video-stages", "4"]
# What a V100's process can allocate, in GB: all that nvidia-smi shows less 0.6 for the context.
CAP_16, CAP_32 = ["--cap", "16.3"], ["--cap", "33.4"]


def zero(stage: int) -> list[str]:
    """The engine's options."""
    return ["--zero-stage", str(stage)]


@dataclass(frozen=True)
class Measurement:
    """One process.

    Attributes:
        script: beside this file.
        options: behind DATA.
    """

    name: str
    script: str
    options: tuple[str, ...] = ()


def training(name: str, *parts: list[str]) -> Measurement:
    """Updates of fairseq's trainer."""
    return Measurement(name, "training.py", (*TRAIN, *[o for part in parts for o in part]))


RECOMPUTE_ALL = [*STAGE_4, "--checkpoint-activations"]
MEASUREMENTS = (
    Measurement("video network", "video.py"),
    training("bf16, ZeRO-1", BF16, zero(1)),
    training("bf16, fairseq's trainer", BF16, FAIRSEQ),
    training("fp16, fairseq's trainer", FP16, FAIRSEQ, ["--fp16-no-flatten-grads"]),
    training("fp16, ZeRO-2", FP16, zero(2)),
    training("fp16, ZeRO-2, under 32 GB", FP16, zero(2), CAP_32),
    training("bf16, clips read by 14 workers", BF16, zero(1), ["--workers", "14"]),
    training("fp16, ZeRO-1", FP16, zero(1)),
    training("fp16, ZeRO-3", FP16, zero(3)),
    training("fp16, ZeRO-2, stage 1 recomputed", FP16, zero(2), [STAGE_4[0], "1"]),
    training("fp16, ZeRO-2, stages 1-4 recomputed", FP16, zero(2), STAGE_4),
    training("fp16, ZeRO-2, all recomputed", FP16, zero(2), RECOMPUTE_ALL),
    Measurement("inference, bf16", "inference.py"),
    Measurement("inference, fp16", "inference.py", ("--dtype", "fp16")),
    training("bf16, ZeRO-1, t5-base", BF16, zero(1), ["--t5-size", "base"]),
    training("bf16, ZeRO-1, t5-small", BF16, zero(1), ["--t5-size", "small"]),
    training(
        "fp16, ZeRO-2, Adam on the CPU, stages 1-4 recomputed, under 16 GB",
        *[FP16, zero(2), STAGE_4, CAP_16],
        ["--adam-backend", "deepspeed", "--offload-optimizer", "cpu"],
    ),
    training("bf16, ZeRO-1, DeepSpeed's FusedAdam", BF16, zero(1), ["--adam-backend", "deepspeed"]),
)


class Process:
    """A measurement that has imported what it needs and waits for its turn."""

    def __init__(self, measurement: Measurement, data: str, video_root: str | None):
        command = [sys.executable, str(HERE / measurement.script)]
        if measurement.script != "video.py":
            command.append(data)
        command += [*measurement.options, "--wait"]
        if measurement.script == "training.py" and video_root:
            command += ["--video-root", video_root]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"},
        )

    def run(self, limit: float) -> dict:
        """Its result, or the end of what it said."""
        began = time.monotonic()
        try:
            output, _ = self.process.communicate("go\n", timeout=limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
            output += f"\nstopped after {limit:.0f} s"
        lines = output.splitlines()
        results = [line for line in lines if line.startswith("RESULT ")]
        taken = {"seconds": round(time.monotonic() - began, 1)}
        if not results:
            return {"failed": lines[-12:]} | taken
        return json.loads(results[-1].removeprefix("RESULT ")) | taken


def ready(
    measurements: list[Measurement], data: str, video_root: str | None
) -> "queue.Queue[tuple[Measurement, Process]]":
    """Processes in the order of the list, a few ahead of the one that is taken."""
    made: queue.Queue = queue.Queue(AHEAD)

    def fill() -> None:
        for measurement in measurements:
            made.put((measurement, Process(measurement, data, video_root)))

    threading.Thread(target=fill, daemon=True).start()
    return made


def machine() -> dict[str, object]:
    """What the numbers hold for."""
    card = torch.cuda.get_device_properties(0)
    memory, cudnn = f"{card.total_memory / 2**30:.1f} GiB", torch.backends.cudnn.version()
    return {"card": card.name, "memory": memory, "cudnn": cudnn, **measuring.machine()}


def main() -> None:
    """Measure one after the other."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data")
    arguments.add_argument("--video-root")
    arguments.add_argument("--only", default="", help="names, separated by ;")
    arguments.add_argument("--limit", type=float, default=900.0, help="seconds in all")
    arguments.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_CARD.json")
    args = arguments.parse_args()
    began = time.monotonic()
    wanted = [name.strip() for name in args.only.split(";") if name.strip()]
    chosen = [m for m in MEASUREMENTS if not wanted or m.name in wanted]
    here = machine()
    out = args.out or measuring.RESULTS / f"gpu_{str(here['card']).replace(' ', '_').lower()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    only = f' --only "{args.only}"' if args.only else ""
    command = f"python benchmarks/gpu/run.py DATA{only} --limit {args.limit:g}"
    result = {"command": command, "machine": here, "measured": {}}
    processes = ready(chosen, args.data, args.video_root)
    for _ in chosen:
        measurement, process = processes.get()
        left = args.limit - (time.monotonic() - began)
        if left < 10:
            process.process.kill()
            found = {"failed": ["no time was left"], "seconds": 0}
        else:
            found = process.run(min(left, 90.0))
        result["measured"][measurement.name] = found
        print(measurement.name, found, flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{time.monotonic() - began:.0f} s; {out}")


if __name__ == "__main__":
    main()
