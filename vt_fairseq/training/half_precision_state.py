"""What fairseq's checkpoints of ``--fp16`` and ``--bf16`` leave out, so that a run goes on exactly.

They have the weights in 16 bits alone, while the optimizer updates its own in 32; and of the loss
scaler only the scale, not how far its window has come.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from fairseq.optim import FP16Optimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

logger = logging.getLogger(__name__)

SCALER, WEIGHTS = "loss_scaler", "fp32_weights"
HALVES = (torch.bfloat16, torch.float16)
COUNTERS = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


def half_precision_state(optimizer: Any) -> dict[str, Any]:
    """What belongs into a checkpoint beside the state of a fairseq optimizer; nothing in fp32."""
    state: dict[str, Any] = {}
    scaler = getattr(optimizer, "scaler", None)
    if isinstance(scaler, DynamicLossScaler):
        state[SCALER] = {name: getattr(scaler, name) for name in COUNTERS}
    if isinstance(optimizer, FP16Optimizer):
        state[WEIGHTS] = fp32_weights(optimizer)
    return state


def restore_half_precision(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Take over what a checkpoint's optimizer state has of the above.

    Its fp32 weights are not taken where the model's 16-bit weights are not those, rounded once or,
    by a run in the other 16-bit type, twice.
    """
    scaler = getattr(optimizer, "scaler", None)  # there is none without fp16
    for name, value in state.get(SCALER, {}).items() if scaler is not None else ():
        setattr(scaler, name, value)
    if WEIGHTS not in state or not isinstance(optimizer, FP16Optimizer):
        return
    weights = fp32_weights(optimizer)
    saved = cut(state[WEIGHTS], weights)
    if [w.shape for w in weights] != [s.shape for s in saved] or not all(
        is_rounded(s, p) for s, p in zip(saved, optimizer.fp16_params, strict=True)
    ):
        logger.warning("the checkpoint's fp32 weights are not its model's: they start from those")
        return
    for weight, other in zip(weights, saved, strict=True):
        weight.copy_(other)


def is_rounded(weight: torch.Tensor, half: torch.Tensor) -> bool:
    """Whether ``half``, anywhere and of any type, is what becomes of ``weight`` there.

    At once, or by way of a checkpoint of the other 16-bit type, in which it was rounded before.
    """
    return weight.shape == half.shape and any(
        torch.equal(weight.to(half.device, by).to(half.dtype), half)
        for by in (weight.dtype, *HALVES)
    )


def fp32_weights(optimizer: FP16Optimizer) -> list[torch.Tensor]:
    """The weights that the optimizer updates."""
    return [p.data for p in optimizer.fp32_params]


def cut(saved: list[torch.Tensor], weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """``saved``, of which a single flat tensor, of a run that merged its parameters, is cut."""
    sizes = [w.numel() for w in weights]
    if len(saved) != 1 or saved[0].numel() != sum(sizes):
        return saved
    return [s.view_as(w) for s, w in zip(saved[0].split(sizes), weights, strict=True)]
