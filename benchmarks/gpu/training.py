"""Steps of fairseq's trainer with our task, split into their parts, and the memory they need.

    python benchmarks/gpu/training.py DATA [--cap GB] [--workers N] [fairseq-train's options]

Prints one JSON object. The batch is made up (8 clips of 32 x 112 x 112, 44 source and 24 target
tokens) and stays the same, except with ``--workers``, which reads DATA's clips through
the loader and tells how long the trainer waited for them. Waits for a line on stdin before it
touches the GPU when ``--wait`` is given, so that a caller can start it ahead of time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from fairseq import options, tasks, utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from vt_fairseq.training.process_groups import ignore_missing_tpu

ROOT = Path(__file__).resolve().parents[2]
WARM_UP, STEPS = 4, 8
SOURCE, TARGET = 44, 24  # tokens of the made-up batch
PARTS = ("video_network", "transformer", "optimizer")
PLUGIN = ["--user-dir", str(ROOT / "user_dir"), "--task", "video_translate"]
COMMON = [
    *["--criterion", "video_translate", "--actions", "caption", "--lr", "1e-4"],
    *["--optimizer", "deepspeed_adam", "--clip-norm", "1", "--disable-validation", "--no-save"],
]


class Marks:
    """Moments on the GPU's own clock, by name."""

    def __init__(self):
        self.found: dict[str, torch.cuda.Event] = {}

    def set(self, name: str) -> None:
        """Now, after all that has been launched."""
        self.found[name] = torch.cuda.Event(enable_timing=True)
        self.found[name].record()

    def milliseconds(self, first: str, last: str) -> float:
        """From one moment to another."""
        return self.found[first].elapsed_time(self.found[last])


def watch(trainer: Trainer, marks: Marks) -> None:
    """Mark where the video network begins and ends, forward and backward, and the optimizer."""
    video = trainer.get_model().encoder.video

    def after(module, inputs, output):
        marks.set("video ends")
        if output.requires_grad:
            output.register_hook(lambda grad: marks.set("gradient at video"))

    video.register_forward_pre_hook(lambda module, inputs: marks.set("video begins"))
    video.register_forward_hook(after)
    clip = trainer.clip_grad_norm

    def clip_grad_norm(norm):
        marks.set("backward ends")
        return clip(norm)

    trainer.clip_grad_norm = clip_grad_norm


def parts(marks: Marks) -> dict[str, float]:
    """Milliseconds of one update."""
    step = marks.milliseconds("step begins", "step ends")
    video = marks.milliseconds("video begins", "video ends")
    if "gradient at video" in marks.found:
        video += marks.milliseconds("gradient at video", "backward ends")
    optimizer = marks.milliseconds("backward ends", "step ends")
    return {
        "step": step,
        "video_network": video,
        "transformer": step - video - optimizer,
        "optimizer": optimizer,
    }


def made_up(trainer: Trainer, task, source: int, target: int) -> dict[str, Any]:
    """A batch like the dataset's, of fixed shapes and random content."""
    cfg, tokenizer = trainer.cfg, task.tokenizer
    rows, frames, size = cfg.dataset.batch_size, cfg.task.num_frames, cfg.task.frame_size
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 300, (rows, source), generator=random)
    tokens[:, 2 : 2 + trainer.get_model().encoder.video.num_tokens(frames)] = tokenizer.video
    targets = torch.randint(5, 300, (rows, target), generator=random)
    video = torch.randint(
        0, 256, (rows, frames, size, size, 3), generator=random, dtype=torch.uint8
    )
    return {
        "net_input": {
            "src_tokens": tokens,
            "src_lengths": torch.full((rows,), source),
            "prev_output_tokens": targets.roll(1, 1),
            "video": video,
        },
        "target": targets,
        "ntokens": targets.numel(),
        "nsentences": rows,
        "missing": torch.zeros(rows, dtype=torch.bool),
        "num_missing": 0,
        "num_cut": 0,
        "unreadable": [],
        "num_decoded": rows,
        "id": torch.arange(rows),
        "clip_ids": [str(i) for i in range(rows)],
        "references": [[] for _ in range(rows)],
    }


def build(data: str, given: list[str], folder: str) -> tuple[Trainer, Any]:
    """Trainer and task as fairseq-train makes them; weights are drawn on the GPU."""
    args = [data, *PLUGIN, *COMMON, "--save-dir", folder, *given]
    training = options.get_training_parser()
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(training, args))
    utils.import_user_module(cfg.common)
    ignore_missing_tpu(cfg)  # as fairseq-train's main does
    on_gpu = torch.device("cuda") if not cfg.common.cpu else nullcontext()
    task = tasks.setup_task(cfg.task)
    with on_gpu:
        model = task.build_model(cfg.model)
    task.load_dataset("train")
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion)), task


def read(trainer: Trainer, workers: int) -> Iterator[dict[str, Any]]:
    """Batches of the data directory, again from the start when they are over."""
    trainer.cfg.dataset.num_workers = workers
    epoch = 1
    while True:
        iterator = trainer.get_train_iterator(epoch)
        yield from iterator.next_epoch_itr(shuffle=True)
        epoch += 1


def measure(trainer: Trainer, batches: Iterator[dict[str, Any]], steps: int) -> dict[str, Any]:
    """Medians over updates; ``wait`` is the time on the clock until the next batch was there."""
    marks = Marks()
    found: list[dict[str, float]] = []
    with metrics.aggregate("train"):
        for update in range(WARM_UP + steps):
            if update == 1:
                watch(trainer, marks)  # the optimizer is there now
            began = time.perf_counter()
            batch = next(batches)
            wait = 1e3 * (time.perf_counter() - began)
            marks.found.clear()
            marks.set("step begins")
            trainer.train_step([batch])
            marks.set("step ends")
            torch.cuda.synchronize()
            if update >= WARM_UP:
                clock = 1e3 * (time.perf_counter() - began)
                found.append(parts(marks) | {"wait": wait, "clock": clock})
    return {key: round(statistics.median(f[key] for f in found), 2) for key in found[0]} | {
        "clock_min": round(min(f["clock"] for f in found), 2),
        "clock_max": round(max(f["clock"] for f in found), 2),
    }


def main() -> None:
    """Build, train some updates, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--cap", type=float, help="GB of GPU memory that the process may take")
    parser.add_argument("--workers", type=int, help="read clips through the loader")
    parser.add_argument("--wait", action="store_true", help="for a line on stdin")
    args, given = parser.parse_known_args()
    if "--zero-stage" in given and given[given.index("--zero-stage") + 1] != "0":
        import deepspeed  # noqa: F401  takes seconds, which are not the step's
    if args.wait:
        sys.stdin.readline()
    if args.cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(args.cap * 1e9 / total)
    # fairseq starts the count anew after each update; here the whole run's peak is wanted.
    torch.cuda.reset_peak_memory_stats = lambda *_: None
    with tempfile.TemporaryDirectory() as folder:
        trainer, task = build(args.data, given, folder)
        trainer.begin_epoch(1)
        batch = made_up(trainer, task, SOURCE, TARGET)
        batches = read(trainer, args.workers) if args.workers else iter(lambda: batch, None)
        result = measure(trainer, batches, 30 if args.workers else STEPS)
    result["peak_allocated_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    result["peak_reserved_gb"] = round(torch.cuda.memory_reserved() / 1e9, 2)
    result["clips_per_second"] = round(1e3 * trainer.cfg.dataset.batch_size / result["clock"], 1)
    result["loss_scale"] = getattr(getattr(trainer.optimizer, "scaler", None), "loss_scale", None)
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
