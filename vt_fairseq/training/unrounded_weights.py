"""Where the fp32 weights of ``--fp16`` and ``--bf16`` begin: at what the 16-bit ones were before.

fairseq rounds the model to 16 bits, loads into it, and makes the optimizer's fp32 weights of what
has become of it. A weight that starts at a 16-bit number shows none of its updates until they add
up to half a step, in bf16 2 to 4 thousandths of it; of weights that start anywhere in between, as
many are rounded to the next number as the updates are worth.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from fairseq.optim import FP16Optimizer
from torch import Tensor, nn

from vt_fairseq.training.half_precision_state import HALVES, WEIGHTS, is_rounded

logger = logging.getLogger(__name__)


def keeps_fp32_weights(cfg: Any) -> bool:
    """Whether an optimizer has weights in fp32 beside the model's in half precision."""
    common = cfg.common
    frugal = common.memory_efficient_fp16 or common.memory_efficient_bf16
    return (common.fp16 or common.bf16) and not frugal


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Of trained parameters, the values by name, which stay when the model is cast to 16 bits."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def saved_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights by name, where it has them those in fp32 that were trained.

    The latter have no names: they stand in the order of the model's, some of which were not
    trained, and those are they, rounded (and made fp32 by fairseq, which saves nothing else).
    """
    weights = dict(state["model"])
    trained = iter((state.get("last_optimizer_state") or {}).get(WEIGHTS, ()))
    following = next(trained, None)
    for name, weight in weights.items():
        if following is None:
            break
        if following.shape == weight.shape and any(
            torch.equal(following.to(dtype).to(weight.dtype), weight) for dtype in HALVES
        ):
            weights[name] = following
            following = next(trained, None)
    return weights


def unrounded(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
    """Of ``weights`` those that became the model's trained parameters when they were rounded.

    Others, as of a network that saves its weights in another way than it has them, are warned of.
    So are those that were rounded before: the fp32 weights of a ZeRO run in 16 bits lie in its
    shards alone, and exported folders have none.
    """
    found: dict[nn.Parameter, Tensor] = {}
    others = []
    for name, parameter in model.named_parameters() if weights else ():
        if parameter.requires_grad:
            if name in weights and is_rounded(weights[name], parameter.detach()):
                found[parameter] = weights[name]
                if not holds_16_bits(weights[name]):
                    continue
            others.append(name)
    if others:
        logger.warning(
            "%d parameters start from weights that were rounded to 16 bits: %s",
            *(len(others), ", ".join(others[:3]) + (" ..." if len(others) > 3 else "")),
        )
    return found


def holds_16_bits(weight: Tensor) -> bool:
    """Whether 16 bits lose nothing of a matrix; other parameters may begin at round numbers."""
    varies = weight.dim() > 1 and bool(weight.ne(weight.flatten()[0]).any())
    return varies and any(torch.equal(weight.to(by).to(weight.dtype), weight) for by in HALVES)


@torch.no_grad()
def begin_at(optimizer: Any, weights: Mapping[nn.Parameter, Tensor]) -> None:
    """Give a fairseq optimizer's fp32 weights these values; nothing where it has none."""
    if not isinstance(optimizer, FP16Optimizer):
        return
    for half, copy in zip(optimizer.fp16_params, optimizer.fp32_params, strict=True):
        if half in weights:
            copy.copy_(weights[half])
