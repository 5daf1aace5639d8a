"""The few places where fairseq itself has to behave otherwise, each with its reason.

Importing this module (the plugin does) makes them so in this process. Nothing in fairseq's files
changes.
"""

import argparse
import atexit
import contextlib
import logging
import os
import queue
import time
import weakref
from pathlib import Path

import numpy as np
import torch
from fairseq import optim, trainer
from fairseq.data.iterators import BackgroundConsumer, BufferedIterator
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer
from fairseq.scoring.bleu import Scorer
from fairseq.tasks import TASK_REGISTRY
from fairseq.trainer import Trainer

from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import refuse_other_model
from vt_fairseq.models.checkpoint_state import optimizer_history, saved_state
from vt_fairseq.training.changed_options import warn_of_changes
from vt_fairseq.training.zero import moments
from vt_fairseq.training.zero.moments import NoMomentsError

logger = logging.getLogger(__name__)

# Older releases run code from hostile checkpoints even with weights_only=True
# (CVE-2025-32434, CVE-2026-24747).
MINIMUM_TORCH = (2, 10)
# dtypes of the numbers that fairseq's meters and iterators keep.
NUMPY_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool")
# What the reading thread gets to finish the batch that it is at when the process ends.
READER_EXIT_SECONDS = 10.0


def allow_checkpoint_types() -> None:
    """Let ``torch.load(weights_only=True)`` read fairseq's checkpoints, and nothing that runs code.

    Allowed are ``argparse.Namespace`` (options of classic architectures) and numpy arrays and
    scalars (meters). torch before 2.10 cannot be trusted with this, so it is refused.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MINIMUM_TORCH:
        raise ImportError(
            f"vt_fairseq needs torch >= {'.'.join(map(str, MINIMUM_TORCH))} to load checkpoints "
            f"safely, found {torch.__version__}: pip install -U torch"
        )
    multiarray = np._core.multiarray
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,
            np.dtype,
            np.ndarray,
            multiarray._reconstruct,
            multiarray.scalar,
            # The names under which numpy 1 wrote them.
            (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
            (multiarray.scalar, "numpy.core.multiarray.scalar"),
            *(type(np.dtype(name)) for name in NUMPY_DTYPES),
        ]
    )


def lr_scale(parameter: torch.nn.Parameter) -> float:
    """Learning rate of a parameter relative to ``--lr``."""
    return getattr(parameter, "optim_overrides", {}).get("optimizer", {}).get("lr_scale", 1.0)


def split_by_lr_scale(optimizer: FairseqOptimizer) -> FairseqOptimizer:
    """Give parameters with an ``lr_scale`` a parameter group of their own.

    The scale stands in the parameter's ``optim_overrides``, which fairseq also copies to the
    fp32 master parameters of ``--fp16 --fp16-no-flatten-grads``.
    """
    groups = []
    for group in optimizer.optimizer.param_groups:
        by_scale: dict[float, list] = {}
        for parameter in group["params"]:
            by_scale.setdefault(lr_scale(parameter), []).append(parameter)
        for scale in sorted(by_scale, reverse=True):
            groups.append({**group, "params": by_scale[scale], "lr_scale": scale})
            elements = sum(p.numel() for p in by_scale[scale])
            logger.info("%s parameters learn at %g times --lr", f"{elements:,}", scale)
    optimizer.optimizer.param_groups[:] = groups
    return optimizer


def set_scaled_lr(self: FairseqOptimizer, lr: float) -> None:
    """``FairseqOptimizer.set_lr`` that honors ``lr_scale``: every lr scheduler goes through it."""
    for group in self.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def get_unscaled_lr(self: FairseqOptimizer) -> float:
    """The scheduler's learning rate, without the first group's scale."""
    group = self.param_groups[0]
    return group["lr"] / group.get("lr_scale", 1.0)


def refuse_flat_parameters(cfg, parameters: list[torch.nn.Parameter]) -> None:
    """Raise UserError where fairseq's ``--fp16`` would lose the learning rates' scales."""
    others = sorted({lr_scale(parameter) for parameter in parameters} - {1.0})
    merged = not (cfg.common.fp16_no_flatten_grads or cfg.common.bf16)
    if merged and others:
        raise UserError(
            "--fp16 merges all parameters into one, which loses the learning rate of some, "
            f"{' and '.join(map(str, others))} times --lr: add --fp16-no-flatten-grads"
        )


def shared_parameters(module: torch.nn.Module, memo: dict | None = None, prefix: str = ""):
    """Paths of parameters that have several; fairseq's list has the biases that are None, too."""
    found = _catalog_shared_params(module, memo, prefix)
    if memo is not None:  # fairseq's function calls itself by its name, which is now ours
        return found
    return [p for p in found if trainer._get_module_by_path(module, p[0]) is not None]


def load_checkpoint(self: Trainer, filename: str, reset_optimizer: bool = False, *args, **kwargs):
    """``Trainer.load_checkpoint`` on all processes, from DeepSpeed's engine to fairseq and back.

    Raises UserError where the checkpoint is of another model or vocabulary than the command's.
    """
    # Otherwise rank 0 sends the others a pickle that weights_only=True rightly refuses.
    self.cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
    state = saved_state(filename) if os.path.isfile(filename) else {}
    if isinstance(self.task, TASK_REGISTRY["video_translate"]):
        self.task.load_state_dict(state.get("task_state") or {})
        self.get_model().heads_start_anew = reset_optimizer
        if state and not reset_optimizer:
            warn_of_changes(filename, state, self.cfg, self.task.state_dict())
    history = {} if reset_optimizer else optimizer_history(state)
    sharded = history.get("optimizer_name") == "DeepSpeedOptimizer"
    try:
        if not history or sharded == self.sharded:
            return _load_checkpoint(self, filename, reset_optimizer, *args, **kwargs)
        extra_state = _load_checkpoint(self, filename, True, *args, **kwargs)
    except Exception as error:
        if isinstance(error.__context__, UserError):  # the model's own reason
            raise error.__context__ from None
        if "ensure that the architectures match" in str(error):
            saved = (state.get("cfg") or {}).get("model") or {}
            refuse_other_model(filename, saved, self.cfg.model)
        raise
    self.lr_scheduler.load_state_dict(history["lr_scheduler_state"])
    self.set_num_updates(history["num_updates"])
    what = f"{filename} was saved {'with' if sharded else 'without'} DeepSpeed"
    try:
        optimizer_state = state.get("last_optimizer_state") or {}
        carry_moments(self, Path(filename).parent, optimizer_state)
        logger.info("%s: Adam's moments are converted", what)
    except NoMomentsError as reason:
        logger.warning(
            "%s: weights, update count and learning rate go on, Adam's moments start anew, as %s",
            *(what, reason),
        )
    return extra_state


def carry_moments(trainer: Trainer, folder: Path, state: dict) -> None:
    """Adam's moments and the loss scale between DeepSpeed's engine and fairseq's optimizer.

    Raises NoMomentsError, with nothing changed, where that cannot be done.
    """
    trained = [item for item in trainer.get_model().named_parameters() if item[1].requires_grad]
    trained.sort(key=lambda item: -lr_scale(item[1]))  # as ``split_by_lr_scale`` orders them
    # ZeRO-3's parameters are empty themselves.
    named = [(name, getattr(p, "ds_shape", p.shape)) for name, p in trained]
    if trainer.sharded:
        moments.to_engine(trainer.engine, moments.from_fairseq(state, named))
    elif "folder" in state:
        moments.to_fairseq(
            trainer.optimizer, named, moments.from_shards(folder / state["folder"], named)
        )
    else:
        raise NoMomentsError("the checkpoint was saved without the optimizer's state")
    scaler = getattr(trainer.optimizer, "scaler", None)
    if scaler is not None and "loss_scale" in state:
        scaler.loss_scale = state["loss_scale"]


def add_referenced(self: Scorer, reference: torch.Tensor, hypothesis: torch.Tensor) -> None:
    """``Scorer.add`` that leaves a row without references out; its C code crashes on one."""
    if reference.numel():
        _add(self, reference, hypothesis)


_readers: weakref.WeakSet[BackgroundConsumer] = weakref.WeakSet()


def create_consumer(self: BufferedIterator) -> None:
    """``BufferedIterator._create_consumer`` that remembers the thread for ``stop_readers``."""
    _create_consumer(self)
    _readers.add(self._consumer)


@atexit.register
def stop_readers() -> None:
    """End the threads that read batches ahead before the interpreter ends.

    One that is inside torch at that moment aborts the process ("terminate called without an
    active exception") and turns a run that succeeded into a failed one.
    """
    deadline = time.monotonic() + READER_EXIT_SECONDS
    for reader in list(_readers):
        reader._max_len = 0  # it ends after the batch that it is at
        while reader.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):  # it may wait for room
                reader._queue.get_nowait()
            reader.join(0.02)


_create_consumer = BufferedIterator._create_consumer
_add = Scorer.add
_catalog_shared_params = trainer._catalog_shared_params
_load_checkpoint = Trainer.load_checkpoint
_prepare_sample = Trainer._prepare_sample


def prepare_sample(self: Trainer, sample, is_dummy: bool = False):
    """``Trainer._prepare_sample``, also where the first sample after a restart fills up an epoch.

    fairseq then computes the first real sample again, without its gradient; here one is decoded.
    """
    if not sample and self._dummy_batch == "DUMMY":
        dataset, batches = self.epoch_iterator.dataset, self.epoch_iterator.frozen_batches
        found = dataset.collater([dataset[batches[0][0]]])
        self._dummy_batch = next(filter(None, found)) if isinstance(found, list) else found
    return _prepare_sample(self, sample, is_dummy)


def install() -> None:
    """Put all of it in place; calling it again does nothing."""
    if getattr(Trainer, "_vt_fairseq_installed", False):
        return
    Trainer._vt_fairseq_installed = True
    allow_checkpoint_types()
    BufferedIterator._create_consumer = create_consumer
    Scorer.add = add_referenced
    FairseqOptimizer.set_lr = set_scaled_lr
    FairseqOptimizer.get_lr = get_unscaled_lr
    Trainer.sharded = False  # DeepSpeedTrainer's is True
    Trainer.load_checkpoint = load_checkpoint
    Trainer._prepare_sample = prepare_sample
    trainer._catalog_shared_params = shared_parameters

    build_optimizer = optim.build_optimizer

    def build_scaled_optimizer(cfg, params, *args, **kwargs):
        return split_by_lr_scale(build_optimizer(cfg, params, *args, **kwargs))

    optim.build_optimizer = build_scaled_optimizer

    build_fp16_optimizer = FP16Optimizer.build_optimizer.__func__

    def build_checked_fp16_optimizer(cls, cfg, params, **kwargs):
        refuse_flat_parameters(cfg, params)
        return build_fp16_optimizer(cls, cfg, params, **kwargs)

    FP16Optimizer.build_optimizer = classmethod(build_checked_fp16_optimizer)
