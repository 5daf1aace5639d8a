"""Learning rates relative to ``--lr``: some parameters learn slower or faster than the others.

The scale stands in a parameter's ``optim_overrides``, which fairseq also copies to the fp32 copies
of parameters in half precision.
"""

import logging
from collections.abc import Iterable
from typing import Any

import torch

from vt_fairseq.errors import UserError

logger = logging.getLogger(__name__)


def lr_scale(parameter: torch.nn.Parameter) -> float:
    """Learning rate of a parameter relative to ``--lr``."""
    return getattr(parameter, "optim_overrides", {}).get("optimizer", {}).get("lr_scale", 1.0)


def refuse_merged_parameters(cfg: Any, parameters: Iterable[torch.nn.Parameter]) -> None:
    """Raise UserError where fairseq's options would lose the scale of some parameters."""
    others = sorted({lr_scale(parameter) for parameter in parameters} - {1.0})
    reasons = {
        "--use-bmuf averages parameters in an order of its own": (
            cfg.optimization.use_bmuf,
            "leave it out",
        ),
        "--zero-sharding shards parameters without groups": (
            cfg.distributed_training.zero_sharding != "none",
            "use --optimizer deepspeed_adam --zero-stage 1",
        ),
    }
    for reason, (used, suggestion) in reasons.items():
        if others and used:
            raise UserError(
                f"{reason}, which loses the learning rate of some, "
                f"{' and '.join(map(str, others))} times --lr: {suggestion}"
            )


def scale_learning_rates(optimizer: Any) -> None:
    """Give each scale a parameter group of its own, whose learning rate follows at that scale.

    Args:
        optimizer: a fairseq optimizer, possibly in one of fairseq's wrappers for half precision.
    """
    learning_rate = optimizer.get_lr()
    if isinstance(learning_rate, dict):  # fairseq's composite: its parts have rates of their own
        return
    groups = []
    for group in optimizer.optimizer.param_groups:
        by_scale: dict[float, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            by_scale.setdefault(lr_scale(parameter), []).append(parameter)
        for scale in sorted(by_scale, reverse=True):
            groups.append({**group, "params": by_scale[scale], "lr_scale": scale})
            elements = sum(p.numel() for p in by_scale[scale])
            logger.info("%s parameters learn at %g times --lr", f"{elements:,}", scale)
    optimizer.optimizer.param_groups[:] = groups
    follow_scales(optimizer)
    optimizer.set_lr(learning_rate)


def follow_scales(optimizer: Any) -> None:
    """Let this optimizer's ``set_lr`` and ``get_lr`` mean ``--lr``; every lr scheduler uses them.

    A group without ``lr_scale`` has the scale 1.
    """

    def set_lr(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

    def get_lr() -> float:
        group = optimizer.param_groups[0]
        return group["lr"] / group.get("lr_scale", 1.0)

    optimizer.set_lr, optimizer.get_lr = set_lr, get_lr
