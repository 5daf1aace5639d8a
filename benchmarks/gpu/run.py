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
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import measuring  # noqa: E402

TRAIN = ["--arch", "video_translate_t5_large", "--batch-size", "8", "--adam-backend", "torch"]
FP16, BF16 = ["--fp16"], ["--bf16"]
FAIRSEQ = ["--zero-stage", "0"]
STAGE_4 = ["--checkpoint-video-stages", "4"]
# What a V100's process can allocate, in GB: all that nvidia-smi shows less 0.6 for the context.
CAP_16, CAP_32 = ["--cap", "16.3"], ["--cap", "33.4"]


def zero(stage: int) -> list[str]:
    """The engine's options."""
    return ["--zero-stage", str(stage)]


def training(*parts: list[str]) -> list[str]:
    """Updates of fairseq's trainer."""
    return ["training.py", *TRAIN, *chain(*parts)]


RECOMPUTE_ALL = [*STAGE_4, "--checkpoint-activations"]
# Each is a process: a script beside this file, and its options behind DATA.
MEASUREMENTS = {
    "video network": ["video.py"],
    "bf16, ZeRO-1": training(BF16, zero(1)),
    "bf16, fairseq's trainer": training(BF16, FAIRSEQ),
    "fp16, fairseq's trainer": training(FP16, FAIRSEQ, ["--fp16-no-flatten-grads"]),
    "fp16, ZeRO-2": training(FP16, zero(2)),
    "fp16, ZeRO-2, under 32 GB": training(FP16, zero(2), CAP_32),
    "bf16, clips read by 14 workers": training(BF16, zero(1), ["--workers", "14"]),
    "fp16, ZeRO-1": training(FP16, zero(1)),
    "fp16, ZeRO-3": training(FP16, zero(3)),
    "fp16, ZeRO-2, stage 1 recomputed": training(FP16, zero(2), [STAGE_4[0], "1"]),
    "fp16, ZeRO-2, stages 1-4 recomputed": training(FP16, zero(2), STAGE_4),
    "fp16, ZeRO-2, all recomputed": training(FP16, zero(2), RECOMPUTE_ALL),
    "inference, bf16": ["inference.py"],
    "inference, fp16": ["inference.py", "--dtype", "fp16"],
    "bf16, ZeRO-1, t5-base": training(BF16, zero(1), ["--t5-size", "base"]),
    "bf16, ZeRO-1, t5-small": training(BF16, zero(1), ["--t5-size", "small"]),
    "fp16, ZeRO-2, Adam on the CPU, stages 1-4 recomputed, under 16 GB": training(
        *[FP16, zero(2), STAGE_4, CAP_16],
        ["--adam-backend", "deepspeed", "--offload-optimizer", "cpu"],
    ),
    "bf16, ZeRO-1, DeepSpeed's FusedAdam": training(BF16, zero(1), ["--adam-backend", "deepspeed"]),
}


def start(name: str, data: str, video_root: str | None) -> subprocess.Popen:
    """A measurement that imports what it needs and then waits for a line on its stdin."""
    script, *options = MEASUREMENTS[name]
    command = [sys.executable, str(HERE / script)]
    command += [*([] if script == "video.py" else [data]), *options, "--wait"]
    if script == "training.py" and video_root:
        command += ["--video-root", video_root]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"},
    )


def result_of(process: subprocess.Popen, limit: float) -> dict:
    """Let it measure: its result, or the end of what it said."""
    began = time.monotonic()
    try:
        output, _ = process.communicate("go\n", timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        output += f"\nstopped after {limit:.0f} s"
    lines = output.splitlines()
    results = [line for line in lines if line.startswith("RESULT ")]
    taken = {"seconds": round(time.monotonic() - began, 1)}
    if not results:
        return {"failed": lines[-12:]} | taken
    return json.loads(results[-1].removeprefix("RESULT ")) | taken


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
    chosen = [name for name in MEASUREMENTS if not wanted or name in wanted]
    here = machine()
    out = args.out or measuring.RESULTS / f"gpu_{str(here['card']).replace(' ', '_').lower()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    only = f' --only "{args.only}"' if args.only else ""
    command = f"python benchmarks/gpu/run.py DATA{only} --limit {args.limit:g}"
    result = {"command": command, "machine": here, "measured": {}}
    started = (start(name, args.data, args.video_root) for name in chosen)
    process = next(started)
    for name in chosen:
        following = next(started, None)  # imports while this one measures
        left = args.limit - (time.monotonic() - began)
        if left < 10:
            process.kill()
            found = {"failed": ["no time was left"], "seconds": 0}
        else:
            found = result_of(process, min(left, 90.0))
        result["measured"][name] = found
        print(name, found, flush=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        process = following
    print(f"{time.monotonic() - began:.0f} s; {out}")


if __name__ == "__main__":
    main()
