"""From an experiment to the commands that carry it out."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import finetuning
import pretraining
from parts import Experiment, Measured, Model
from scales import Scale
from steps import ROOT, Step

PLUGIN = ("--user-dir", str(ROOT / "user_dir"), "--task", "video_translate")
FINETUNING_RATE = 0.5  # of the pretraining's
WARMUP = 20  # at most one in so many updates, and no more than MAX_WARMUP
MAX_WARMUP = 100
LOGGED = 12  # times per training
NEVER = "1000000"  # epochs


def experiment(scale: Scale) -> Experiment:
    """All parts."""
    models = pretraining.models(scale.sizes)
    return Experiment(
        models=(*models, *finetuning.models()),
        measured=(*pretraining.measured(models), *finetuning.measured()),
        parts=(*pretraining.parts(scale.sizes), *finetuning.parts()),
    )


@dataclass(frozen=True)
class Plan:
    """Writes the commands.

    Attributes:
        out: folder of everything.
        updates: of a training whose share is 1.
        extra: more options of every training.
    """

    out: Path
    scale: Scale
    updates: int
    extra: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.out / "data"

    def checkpoint(self, model: str, seed: int) -> Path:
        return self.out / f"seed{seed}" / model / "checkpoint_last.pt"

    def scores(self, measured: Measured, seed: int) -> Path:
        return self.out / f"seed{seed}" / "scores" / measured.name

    def steps(self, chosen: Iterable[Measured], models: Iterable[Model], seeds: list[int]):
        """Data first, then everything with the first seed, with the second, ...

        A training stands before what needs it; each measurement behind its model.
        """
        table = {model.name: model for model in models}
        steps = {step.name: step for step in self.prepare()}
        for seed in seeds:
            for one in chosen:
                for name in filter(None, (one.model, one.fuse)):
                    for model in reversed(list(self._ancestry(table, name))):
                        step = self.train(model, seed)
                        steps.setdefault(step.name, step)
                step = self.score(one, seed)
                steps.setdefault(step.name, step)
        return list(steps.values())

    @staticmethod
    def _ancestry(table: dict[str, Model], name: str) -> Iterable[Model]:
        while name:
            yield table[name]
            name = table[name].start

    def prepare(self) -> list[Step]:
        """MiniWorld, the rows of the experiment, its data directory."""
        world, rows = self.out / "world", self.out / "annotations.jsonl"
        source, workers = str(world / "world" / "annotations.jsonl"), str(os.cpu_count() or 1)
        make = ("vt-prepare", "miniworld", "--size", self.scale.world, "--out", str(world))
        prepare = ("vt-prepare", "jsonl", "--annotations", str(rows), "--out", str(self.data))
        prepare += ("--videos", str(world / "world" / "videos"))
        prepare += ("--vocabulary", str(world / "spiece.model"), "--num-workers", workers)
        return [
            Step("world", (*make, "--train-vocabulary", "300", "--num-workers", workers)),
            Step("rows", ("examples/ablations/world.py", source, str(rows)), ("world",)),
            Step("data", prepare, ("rows",)),
        ]

    def train(self, model: Model, seed: int) -> Step:
        """One training; it starts from scratch or from another one's weights."""
        updates = max(1, round(self.updates * model.share))
        warmup = str(min(MAX_WARMUP, updates // WARMUP))
        rate = float(self.scale.rate)
        needs, start = ["data"], ()
        if model.start:
            needs.append(f"seed{seed}/train-{model.start}")
            start = ("--finetune-from-model", str(self.checkpoint(model.start, seed)))
        falls = ("--lr-scheduler", "polynomial_decay", "--total-num-update", str(updates))
        if not model.falling:
            rate *= FINETUNING_RATE
            period = str(max(1, updates * 2 // 3))
            falls = ("--lr-scheduler", "step", "--lr-deacy-period", period, "--lr-decay", "0.1")
        folder = self.checkpoint(model.name, seed).parent
        lean = ("--no-save-optimizer-state", "--save-interval", NEVER)
        command = (
            *("fairseq-train", str(self.data), *PLUGIN, *self.scale.model, *self.scale.device),
            *("--no-flip", "--crop-scales", "1,0.9"),
            *("--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--zero-stage", "0"),
            *("--adam-betas", "(0.9,0.98)", "--clip-norm", "1.0"),
            *("--batch-size", str(self.scale.batch), "--num-workers", str(self.scale.workers)),
            *("--distributed-world-size", "1", "--disable-validation", "--no-epoch-checkpoints"),
            *("--log-format", "simple", "--log-interval", str(max(1, updates // LOGGED))),
            *(*model.options, *start, "--lr", f"{rate:g}", *falls, "--warmup-updates", warmup),
            *("--max-update", str(updates), "--seed", str(seed)),
            *("--save-dir", str(folder), *(() if self.scale.resumable else lean), *self.extra),
        )
        fresh = None if self.scale.resumable else folder
        return Step(f"seed{seed}/train-{model.name}", command, tuple(needs), fresh)

    def score(self, measured: Measured, seed: int) -> Step:
        """One measurement."""
        command = (
            *("vt-score", measured.kind, str(self.data), "--split", measured.split),
            *("--path", str(self.checkpoint(measured.model, seed)), *self.scale.device),
            *("--out", str(self.scores(measured, seed)), "--batch-size", "32", *measured.options),
        )
        needs = [f"seed{seed}/train-{measured.model}"]
        if measured.fuse:
            command += ("--fuse", str(self.checkpoint(measured.fuse, seed)))
            needs.append(f"seed{seed}/train-{measured.fuse}")
        return Step(f"seed{seed}/score-{measured.name}", command, tuple(needs))
