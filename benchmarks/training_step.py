"""The training step: fairseq's against a bare loop, the wait for data, and fused Adam.

    python benchmarks/training_step.py [--rounds 9]

``fairseq`` is its trainer with our task, criterion and ``deepspeed_adam`` (torch's fused AdamW,
gradients clipped); ``bare`` is a plain PyTorch loop with the same on a copy of the model. Both
train on one batch in memory, in blocks that alternate; that their first updates are equal is
checked before. The wait is the trainer's for clips that ``vt-prepare --transcode`` wrote, read by
one worker. CPU time, one thread; the wait by the clock. Writes results/training_step.json.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import measuring
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from fairseq.trainer import Trainer
    from gpu.training import ROOT, build, made_up, read
    from report import write_video

    from vt_fairseq.data.tokenizer import PAD
    from vt_fairseq.models.t5 import T5_DIMS, T5Decoder, T5Encoder

STEP, WAIT, FUSED = 1.05, 0.05, 5.0  # bars
LR, CLIP = 1e-4, 1.0  # as gpu/training.py has them
MODELS = {  # name: steps of a block, options
    "t5-small, R(2+1)D-34": (
        2,
        "--arch video_translate_t5_small --batch-size 1 --num-frames 8 --frame-size 56",
    ),
    "tiny (the quickstart's)": (
        5,
        "--arch video_translate_tiny --batch-size 32 --num-frames 8 --frame-size 40",
    ),
}
ALIKE = "--cpu --adam-backend torch --zero-stage 0 --dropout 0 --video-lr-scale 1"
CLIPS, UPDATES = 12, 5  # of the wait


def write_data(folder: Path) -> str:
    """A data directory of transcoded clips."""
    (folder / "videos").mkdir()
    rows, draw = [], random.Random(0)
    for number in range(2):
        write_video(folder / "videos" / f"{number}.mp4", np.random.default_rng(number))
    for number in range(CLIPS):
        part = {"start": 0.3 * number, "end": 0.3 * number + 6}
        words = ["".join(draw.choices(ascii_lowercase, k=6)) for _ in range(40)]
        row = {"id": f"c{number}", "video": f"{number % 2}.mp4", "caption": " ".join(words)}
        rows.append(row | part)
    annotations = folder / "clips.jsonl"
    annotations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "vt_fairseq.cli.prepare", "jsonl", "--transcode"]
    command += ["--annotations", str(annotations), "--videos", str(folder / "videos")]
    command += ["--train-vocabulary", "256", "--out", str(folder / "data")]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return str(folder / "data")


class Passes:
    """CPU seconds of each forward and backward, so that what is left of a step is known, too."""

    def __init__(self):
        self.seconds: list[float] = []

    def timed(self, function: Callable) -> Callable:
        """``function``, whose time counts."""

        def run(*args, **kwargs) -> Any:
            began = time.process_time()
            output = function(*args, **kwargs)
            self.seconds.append(time.process_time() - began)
            return output

        return run


def forward_and_backward(model: nn.Module, batch: dict[str, Any]) -> None:
    """The bare loop's."""
    logits, _ = model(**batch["net_input"])
    target = batch["target"].flatten()
    F.cross_entropy(logits.float().flatten(0, 1), target, ignore_index=PAD).backward()


def bare_loop(model: nn.Module, batch: dict[str, Any], passes: Passes) -> Callable[[], None]:
    """What anybody would write; returns a function that does one step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)
    run = passes.timed(forward_and_backward)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        run(model, batch)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()

    return step


def compare(trainer: Trainer, batch: dict[str, Any], steps: int, rounds: int) -> dict:
    """fairseq's trainer against the bare loop; ends the script where they do not do the same."""
    start = trainer.get_model().train()
    model = deepcopy(start)
    passes = {"fairseq": Passes(), "bare": Passes()}
    trainer.task.train_step = passes["fairseq"].timed(trainer.task.train_step)
    ways = {
        "fairseq": partial(trainer.train_step, [batch]),
        "bare": bare_loop(model, batch, passes["bare"]),
    }
    before = flat(start)
    for way in ways.values():
        way()
    theirs, bare = flat(start) - before, flat(model) - before
    error = ((theirs - bare).norm() / bare.norm()).item()
    if not error < 0.01:
        raise SystemExit(f"updates differ by {error:.1%} of their size, expected under 1 %")
    blocks = {name: partial(repeat, way, steps) for name, way in ways.items()}
    spent = measuring.in_turn(blocks, rounds)
    found = measuring.judged(measuring.ratio(spent["fairseq"], spent["bare"]), at_most=STEP)
    count = steps * rounds
    for name, seconds in spent.items():
        rest = sum(seconds) - sum(passes[name].seconds[-count:])
        found[f"{name}: CPU ms per step"] = round(1e3 * sum(seconds) / count, 1)
        found[f"{name}: of them outside forward and backward"] = round(1e3 * rest / count, 1)
    return found


def repeat(way: Callable[[], object], times: int) -> None:
    """A block."""
    for _ in range(times):
        way()


def flat(model: nn.Module) -> torch.Tensor:
    """A copy of all parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def wait(trainer: Trainer) -> dict:
    """The share of the clock that the trainer waits for its next batch, after the first one."""
    batches, shares = islice(read(trainer, workers=1), UPDATES + 1), []
    trainer.train_step([next(batches)])
    began, waited = time.perf_counter(), 0.0
    for _ in range(UPDATES):
        asked = time.perf_counter()
        batch = next(batches)
        shares.append(time.perf_counter() - asked)
        waited += shares[-1]
        trainer.train_step([batch])
    total = time.perf_counter() - began
    step = total / UPDATES
    found = {"ratio": waited / total, "least": min(shares) / step, "most": max(shares) / step}
    return measuring.judged({key: round(f, 4) for key, f in found.items()}, at_most=WAIT)


def adam(rounds: int) -> dict[str, dict]:
    """Updates of t5-small's parameters, and how near memory's speed the fused one is."""
    dims = T5_DIMS["small"]
    table = nn.Embedding(dims.vocab_size, dims.d_model)
    modules = nn.ModuleList([T5Encoder(dims), T5Decoder(dims, table)])

    def way(**kind: bool) -> Callable[[], None]:
        parameters = [nn.Parameter(p.detach().clone()) for p in modules.parameters()]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return torch.optim.AdamW(parameters, lr=LR, **kind).step

    count = sum(p.numel() for p in modules.parameters())
    # Adam reads weight, gradient and two moments, and writes all but the gradient: 28 bytes.
    as_many = torch.zeros(7 * count // 2)  # a product in place reads and writes 8
    spent = measuring.in_turn(
        {
            "loop": way(foreach=False, fused=False),
            "fused": way(fused=True),
            "product": lambda: as_many.mul_(1.5),
        },
        rounds,
    )
    fused = spent["fused"]
    name = "Adam of t5-small"
    return {
        f"{name}: for-loop against fused": measuring.judged(
            measuring.ratio(spent["loop"], fused), at_least=FUSED
        ),
        f"{name}: fused against a product of as many bytes": measuring.ratio(
            fused, spent["product"]
        )
        | {"CPU ms fused": round(1e3 * min(fused), 1)},
    }


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of hydra's and torch's next versions, about fairseq
    measured = adam(args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder))
        for name, (steps, options) in MODELS.items():
            trainer, task = build(data, [*options.split(), *ALIKE.split()], folder)
            trainer.begin_epoch(1)
            batch = made_up(trainer, task, source=28, target=20)
            measured[f"fairseq's step: {name}"] = compare(trainer, batch, steps, args.rounds)
            if "t5-small" in name:
                measured[f"wait for transcoded clips: {name}"] = wait(trainer)
    packages = ("ve-fairseq", "deepspeed", "av")
    return measuring.write_result("training_step", measuring.machine(*packages), measured)


if __name__ == "__main__":
    sys.exit(main())
