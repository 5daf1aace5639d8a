"""The video network on a GPU: what its layout, type, cuDNN's setting and filled mid planes bring.

    python benchmarks/gpu/video.py [--clips 8]

R(2+1)D-34 on clips of 32 x 112 x 112: forward and backward in training, and forward alone in
evaluation, with everything as fairseq-train has it, and without one thing at a time. Prints one
JSON object: milliseconds (median) and TFLOP/s of the network's own operations, beside what a large
matrix product and a copy reach.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from vt_fairseq.models import r2plus1d
from vt_fairseq.models.batch_norm import BatchNorm
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, Normalize, R2Plus1D

FRAMES, SIZE = 32, 112
FORWARD = 304.7e9  # operations of one clip (two per multiply-add), stem to features
TRAINING = 912.8e9
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def milliseconds(function: Callable[[], object], rounds: int = 5) -> float:
    """Median over calls, after two."""
    for _ in range(2):
        function()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """What the card does at its best: TFLOP/s by type, and TB/s of a copy, read and written."""
    found = {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(8192, 8192, device="cuda", dtype=dtype) for _ in range(2))
        taken = milliseconds(partial(torch.matmul, a, b))
        found[f"matmul_{name}_tflops"] = round(2 * 8192**3 / taken / 1e9, 1)
    source = torch.empty(2**31, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source))
    found["copy_tb_s"] = round(2 * source.nbytes / copy / 1e9, 2)
    return found


def network(dtype: torch.dtype) -> R2Plus1D:
    """R(2+1)D-34 with random weights."""
    with torch.device("cuda"):
        made = R2Plus1D(R2PLUS1D_DIMS["34"])
    return made.to(dtype)


@contextmanager
def without(what: str) -> Iterator[None]:
    """The code with one of its measures against slowness undone."""
    undone = {
        "filled mid planes": (r2plus1d, "on_tensor_cores", lambda x: False),
        "BatchNorm over images": (BatchNorm, "forward", BatchNorm._normalized),
    }
    if what not in undone:
        yield
        return
    owner, name, replacement = undone[what]
    kept = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def one(video: torch.Tensor, dtype: torch.dtype, lacks: str) -> dict[str, float]:
    """Milliseconds of training and of evaluation, without one of the measures."""
    torch.backends.cudnn.benchmark = lacks != "cudnn.benchmark"
    made, normalize = network(dtype), Normalize().to(video.device)

    def frames() -> torch.Tensor:
        x = normalize(video, dtype)
        return x.contiguous() if lacks == "channels last" else x

    def train() -> None:
        made.zero_grad(set_to_none=True)
        made(frames()).float().square().mean().backward()

    with without(lacks):
        made.train()
        trained = milliseconds(train)
        made.eval()
        with torch.inference_mode():
            evaluated = milliseconds(lambda: made(frames()))
    clips = len(video)
    return {
        "training_ms": round(trained, 1),
        "training_tflops": round(clips * TRAINING / trained / 1e9, 1),
        "evaluation_ms": round(evaluated, 1),
        "evaluation_tflops": round(clips * FORWARD / evaluated / 1e9, 1),
    }


def profile(video: torch.Tensor, dtype: torch.dtype) -> list[str]:
    """The kernels that a training pass spends its time in."""
    made, normalize = network(dtype).train(), Normalize().to(video.device)
    torch.backends.cudnn.benchmark = True
    for _ in range(2):
        made(normalize(video, dtype)).float().square().mean().backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        made(normalize(video, dtype)).float().square().mean().backward()
        torch.cuda.synchronize()
    events = sorted(recorded.key_averages(), key=lambda e: -e.self_device_time_total)
    return [
        f"{e.self_device_time_total / 1e3:8.2f} ms {e.count:5} x {e.key[:110]}" for e in events[:12]
    ]


MEASURES = ("channels last", "cudnn.benchmark", "filled mid planes", "BatchNorm over images")


def main() -> None:
    """Measure all variants."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--clips", type=int, default=8)
    arguments.add_argument("--wait", action="store_true", help="for a line on stdin")
    args = arguments.parse_args()
    if args.wait:
        sys.stdin.readline()
    result = {"ceilings": ceilings()}
    video = torch.randint(
        0, 256, (args.clips, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8, device="cuda"
    )
    for dtype in ("fp16", "bf16", "fp32"):
        for lacks in ("", *MEASURES) if dtype != "fp32" else ("",):
            name = f"{dtype} without {lacks}" if lacks else dtype
            result[name] = one(video, DTYPES[dtype], lacks)
            torch.cuda.empty_cache()
            print(name, result[name], file=sys.stderr, flush=True)
    for dtype in ("fp16", "bf16"):
        result[f"kernels, {dtype}"] = profile(video, DTYPES[dtype])
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
