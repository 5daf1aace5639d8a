"""The few places where fairseq itself has to behave otherwise, each with its reason.

Importing this module (the plugin does) makes them so in this process. Nothing in fairseq's files
changes.
"""

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from fairseq import optim
from fairseq.file_io import PathManager
from fairseq.optim.fairseq_optimizer import FairseqOptimizer
from fairseq.trainer import Trainer

# Older releases run code from hostile checkpoints even with weights_only=True
# (CVE-2025-32434, CVE-2026-24747).
MINIMUM_TORCH = (2, 10)
# dtypes of the numbers that fairseq's meters and iterators keep.
NUMPY_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool")


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


def atomic_copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """Copy to a temporary name, fsync, rename: a killed run leaves the old file or the new one.

    fairseq copies the newest checkpoint over ``checkpoint_last.pt`` in place, so that a kill
    during the copy leaves a broken file where the restart looks first.
    """
    if os.path.exists(dst_path) and not overwrite:
        return False
    temporary = Path(f"{dst_path}.tmp")
    with open(src_path, "rb") as source, open(temporary, "wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())
    os.replace(temporary, dst_path)
    return True


def split_by_lr_scale(optimizer: FairseqOptimizer) -> FairseqOptimizer:
    """Give parameters with an ``lr_scale`` a parameter group of their own.

    The scale stands in the parameter's ``optim_overrides``, which fairseq also copies to the
    fp32 master parameters of ``--fp16 --fp16-no-flatten-grads``.
    """
    groups = []
    for group in optimizer.optimizer.param_groups:
        by_scale: dict[float, list] = {}
        for parameter in group["params"]:
            overrides = getattr(parameter, "optim_overrides", {})
            scale = overrides.get("optimizer", {}).get("lr_scale", 1.0)
            by_scale.setdefault(scale, []).append(parameter)
        for scale in sorted(by_scale, reverse=True):
            groups.append({**group, "params": by_scale[scale], "lr_scale": scale})
    optimizer.optimizer.param_groups[:] = groups
    return optimizer


def set_scaled_lr(self: FairseqOptimizer, lr: float) -> None:
    """``FairseqOptimizer.set_lr`` that honours ``lr_scale``: every lr scheduler goes through it."""
    for group in self.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def get_unscaled_lr(self: FairseqOptimizer) -> float:
    """The scheduler's learning rate, without the first group's scale."""
    group = self.param_groups[0]
    return group["lr"] / group.get("lr_scale", 1.0)


def install() -> None:
    """Put all of it in place; calling it again does nothing."""
    if getattr(Trainer, "_vt_fairseq_installed", False):
        return
    Trainer._vt_fairseq_installed = True
    allow_checkpoint_types()
    PathManager.copy = staticmethod(atomic_copy)
    FairseqOptimizer.set_lr = set_scaled_lr
    FairseqOptimizer.get_lr = get_unscaled_lr

    build_optimizer = optim.build_optimizer

    def build_scaled_optimizer(cfg, params, *args, **kwargs):
        return split_by_lr_scale(build_optimizer(cfg, params, *args, **kwargs))

    optim.build_optimizer = build_scaled_optimizer

    load_checkpoint = Trainer.load_checkpoint

    def load_checkpoint_on_all_ranks(self, *args, **kwargs):
        # Otherwise rank 0 sends the others a pickle that weights_only=True rightly refuses.
        self.cfg.checkpoint.load_checkpoint_on_all_dp_ranks = True
        return load_checkpoint(self, *args, **kwargs)

    Trainer.load_checkpoint = load_checkpoint_on_all_ranks
