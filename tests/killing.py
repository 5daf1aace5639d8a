"""Real trainings of a tiny model, as forks of this process, that are killed in their saves.

Every update ends with a save: of the update or the epoch, the last, every second time the best;
older ones are deleted. A file beside the directory says what a run did, line by line, so that one
that was killed can be compared with one that was not.
"""

import copy
import hashlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fairseq_cli.train
import torch._dynamo  # every optimizer imports it, which takes seconds
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.trainer import Trainer

import vt_fairseq.plugin  # noqa: F401
from tests import tracing
from tests.commands import PLUGIN, TINY, free_port
from tests.faults import forks
from vt_fairseq.models.video_backbones import register_video_network

PLAIN = ["--optimizer", "adam"]
DEEPSPEED = ["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--zero-stage", "2"]
OPTIONS = [
    *["--video-network", "one-layer", "--num-frames", "2", "--frame-size", "16"],
    *["--num-workers", "0", "--clip-norm", "1"],
    *["--save-interval-updates", "1", "--keep-interval-updates", "1", "--keep-last-epochs", "1"],
    *["--keep-best-checkpoints", "1", "--log-format", "none"],
]
# What is saved at these updates: nothing was there before; a better one; the end of an epoch.
PHASES = {"first": 1, "best": 2, "end of epoch": 3}
FINAL = 6
VERDICTS = ("whole", "unloadable", "lost work", "diverged")


@register_video_network("one-layer")
class OneLayer(torch.nn.Module):
    """A video network with few tensors, which are written and read hundreds of times."""

    width = 8

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv3d(3, self.width, (1, 8, 8), stride=(1, 4, 4))
        self.norm = torch.nn.BatchNorm3d(self.width)

    def num_tokens(self, frames: int) -> int:
        """One token per frame."""
        return frames

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) float -> (B, F, width)."""
        return self.norm(self.convolution(frames)).relu().mean(dim=(3, 4)).transpose(1, 2)


def configuration(data: Path, save_dir: Path, arguments: list[str], updates: int):
    """fairseq's, from the options of its command."""
    line = [str(data), *PLUGIN, *TINY, *OPTIONS, *arguments, "--save-dir", str(save_dir)]
    parser = options.get_training_parser()
    return convert_namespace_to_omegaconf(
        options.parse_args_and_arch(parser, [*line, "--max-update", str(updates)])
    )


def invented_loss(updates: int) -> float:
    """A validation loss that every second update improves."""
    return 1 / updates if updates % 2 == 0 else 2.0


def digest(trainer: Trainer) -> str:
    """Of the weights; equal to the last bit or not at all."""
    found = hashlib.sha256()
    for tensor in trainer.get_model().state_dict().values():
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def train(cfg, record: Path, around_save: Callable[[int, bool], None]) -> None:
    """``fairseq-train`` in this process, which writes to ``record`` what it did.

    Lines are JSON of ``what`` (loaded, trained, saving, saved), the update, the weights' digest,
    the loss scale and the clips. ``around_save`` is called with the update before (True) and after
    (False) each save.
    """
    load, step = checkpoint_utils.load_checkpoint, Trainer.train_step
    save = checkpoint_utils.save_checkpoint

    def write(what: str, trainer: Trainer, samples: list[dict] = []) -> None:  # noqa: B006
        line = {"what": what, "update": trainer.get_num_updates(), "weights": digest(trainer)}
        scaler = getattr(trainer.optimizer, "scaler", None)
        line["scale"] = None if scaler is None else scaler.loss_scale
        line["clips"] = [clip for sample in samples for clip in sample.get("clip_ids", [])]
        with open(record, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def loaded(cfg, trainer, **others):
        result = load(cfg, trainer, **others)
        write("loaded", trainer)
        return result

    def stepped(trainer, samples, *args, **others):
        result = step(trainer, samples, *args, **others)
        write("trained", trainer, samples)
        return result

    def saved(cfg, trainer, *args):
        write("saving", trainer)
        around_save(trainer.get_num_updates(), True)
        result = save(cfg, trainer, *args)
        around_save(trainer.get_num_updates(), False)
        write("saved", trainer)
        return result

    checkpoint_utils.load_checkpoint, checkpoint_utils.save_checkpoint = loaded, saved
    Trainer.train_step = stepped
    distributed_utils.call_main(cfg, fairseq_cli.train.main)


def invented_validation(cfg, trainer, *others) -> list[float]:
    """In the place of ``fairseq_cli.train.validate``."""
    return [invented_loss(trainer.get_num_updates())]


def start(
    cfg,
    record: Path,
    around_save: Callable[[int, bool], None] = lambda *_: None,
    change: Callable[[], None] = lambda: None,
) -> int:
    """The process id of a fork that trains; its output goes to ``record`` with ``.log``.

    ``change`` is called in it before.
    """

    def run() -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)
        fairseq_cli.train.validate = invented_validation
        change()
        train(cfg, record, around_save)

    return forks.start(run, record.with_suffix(".log"))


def train_with_two(
    cfg,
    folder: Path,
    around_save: Callable[[int, int, bool], None] = lambda *_: None,
    code: int = 0,
) -> None:
    """Two forks that train together and write to ``folder/0`` and ``folder/1``; wait for both.

    ``around_save`` is given the rank, too. Raises AssertionError when one ends otherwise.
    """
    folder.mkdir()
    port = str(free_port())

    def fork(rank: int) -> int:
        def join() -> None:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
            os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))

        def around(update: int, before: bool) -> None:
            around_save(rank, update, before)

        return start(cfg, folder / str(rank), around, join)

    for rank, child in enumerate([fork(0), fork(1)]):
        wait(child, folder / str(rank), code)


def finished_update(save_dir: Path) -> int:
    """The update of the newest checkpoint whose save came to its end, found out naively.

    That is ``checkpoint_last.pt``, the last name that a save gives; where it is not there or cut
    off, any that is whole; 0 without one.
    """
    last = save_dir / "checkpoint_last.pt"
    paths = [last] if zipfile.is_zipfile(last) else save_dir.glob("*.pt")
    states = [torch.load(path, weights_only=True) for path in paths if zipfile.is_zipfile(path)]
    return max((s["optimizer_history"][-1]["num_updates"] for s in states), default=0)


def names(save_dir: Path) -> set[str]:
    """What lies in a save directory, without DeepSpeed's folders."""
    return {path.name for path in save_dir.iterdir()}


def leftovers(save_dir: Path) -> list[str]:
    """Names of what killed saves began."""
    found = [*save_dir.glob("*.tmp"), *save_dir.glob("deepspeed/*.part")]
    return [str(path.relative_to(save_dir)) for path in found]


def copy_with_links(source: Path, target: Path) -> None:
    """A copy in which names that share a file share one again."""
    subprocess.run(["cp", "-a", source, target], check=True)


def content(folder: Path) -> str:
    """A digest of the names, the sizes and bytes of files, and which names share one."""
    found, files = hashlib.sha256(), {}
    for path in sorted(folder.rglob("*")):
        first = files.setdefault(path.stat().st_ino, path)
        found.update(f"{path.relative_to(folder)} {first.relative_to(folder)}\n".encode())
        if path.is_file() and first is path and path.name != ".lock":
            found.update(path.read_bytes())
    return found.hexdigest()


def lines(record: Path, what: str, field: str = "weights") -> dict[int, Any]:
    """``field`` after each update that was ``what``."""
    if not record.exists():
        return {}
    found = [json.loads(line) for line in record.read_text().splitlines()]
    return {line["update"]: line[field] for line in found if line["what"] == what}


def wait(child: int, record: Path, code: int = 0) -> None:
    """Until it ends; raises AssertionError with its output where that is not with ``code``."""
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == code, record.with_suffix(".log").read_text()[-3000:]


class Training:
    """A run that nothing happens to, whose directory before each save is kept.

    Args:
        data: a prepared data directory.
        folder: an empty one to work in.
        arguments: PLAIN or DEEPSPEED.
    """

    def __init__(self, data: Path, folder: Path, arguments: list[str]):
        if arguments is DEEPSPEED:
            import deepspeed  # noqa: F401  (once, for all forks)
        self.folder, self.save_dir, self.arguments = folder, folder / "save", arguments
        self.save_dir.mkdir(parents=True)
        self.cfg = configuration(data, self.save_dir, arguments, FINAL)
        record = folder / "whole"

        def keep(update: int, before: bool) -> None:
            if before:
                copy_with_links(self.save_dir, self.before(update))

        wait(start(self.cfg, record, keep), record)
        copy_with_links(self.save_dir, self.before(FINAL + 1))
        self.weights = lines(record, "trained") | lines(record, "loaded")

    def before(self, update: int) -> Path:
        """The save directory as it was before the save at ``update``."""
        return self.folder / f"before{update}"

    def log(self) -> str:
        """The end of what the last new start said."""
        return (self.folder / "resumed.log").read_text()[-2000:]

    def restore(self, update: int) -> None:
        """Make the save directory what it was before the save at ``update``."""
        shutil.rmtree(self.save_dir)
        copy_with_links(self.before(update), self.save_dir)

    def traced(self, update: int) -> int:
        """A fork that goes on from the save directory and is traced in its save at ``update``."""

        def traced(at: int, before: bool) -> None:
            if at == update:
                (tracing.begin if before else tracing.end)()

        return start(self.cfg, self.folder / "killed", traced)

    def kill(self, update: int, operation: int) -> list[str]:
        """Kill the save at ``update`` before its ``operation``-th change; what it had done."""
        self.restore(update)
        return tracing.kill_at(self.traced(update), operation)

    def verdicts(self, update: int) -> Iterator[tuple[str, bool, str]]:
        """(the change to come or "end", whether files differ from before, verdict) of each change.

        The save at ``update`` is stopped before each change that it makes, and what lies in the
        directory then, which is what a kill leaves, is copied. Equal directories are judged once.
        """
        shutil.rmtree(self.folder / "stopped", ignore_errors=True)
        (self.folder / "stopped").mkdir()
        self.restore(update)
        coming = []
        for name in itertools.chain(tracing.changes(self.traced(update)), ["end"]):
            coming.append(name)
            copy_with_links(self.save_dir, self.folder / "stopped" / str(len(coming)))
        judged: dict[str, str] = {}
        for number, name in enumerate(coming, 1):
            shutil.rmtree(self.save_dir)
            copy_with_links(self.folder / "stopped" / str(number), self.save_dir)
            files = content(self.save_dir)
            if new := files not in judged:
                judged[files] = self.verdict()
            yield name, new, judged[files]

    def kill_at_random(self, generator: random.Random) -> bool:
        """Kill it at a random moment between two saves' beginnings; whether it was in a save."""
        record = self.folder / "killed"
        reading, writing = os.pipe()

        def told(update: int, before: bool) -> None:
            if before:
                os.write(writing, b"s")

        while True:
            self.restore(generator.randint(1, FINAL - 3))
            record.unlink(missing_ok=True)
            child = start(self.cfg, record, told)
            os.read(reading, 1)
            began = time.monotonic()
            os.read(reading, 1)
            time.sleep(generator.random() * (time.monotonic() - began))
            os.kill(child, signal.SIGKILL)
            if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
                break
        os.close(reading)
        os.close(writing)
        return max(lines(record, "saving")) > max(lines(record, "saved"))

    def verdict(self) -> str:
        """What a new start makes of the directory: "whole", or what is wrong, in a word.

        unloadable: it ends with an error. lost work: it goes on from before the newest checkpoint
        whose save came to its end. diverged: its weights are not those of the run that nothing
        happened to, or after the next save it lacks one of its checkpoints.
        """
        finished = finished_update(self.save_dir)
        last = min(finished + 1, FINAL)
        record = self.folder / "resumed"
        record.unlink(missing_ok=True)
        _, status = os.waitpid(start(with_updates(self.cfg, last), record), 0)
        if status != 0:
            return "unloadable"
        [(update, weights)] = lines(record, "loaded").items()
        if update < finished:
            return "lost work"
        found = {update: weights} | lines(record, "trained")
        as_it_was = (
            sorted(found) == list(range(finished, last + 1))
            and found.items() <= self.weights.items()
            and names(self.save_dir) >= names(self.before(last + 1))
            and not leftovers(self.save_dir)
        )
        return "whole" if as_it_was else "diverged"


def with_updates(cfg, updates: int):
    """A copy of the configuration that ends there."""
    cfg = copy.deepcopy(cfg)
    cfg.optimization.max_update = updates
    return cfg
