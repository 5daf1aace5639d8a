"""What fairseq's checkpoints of ``--fp16`` and ``--bf16`` leave out, so that a run goes on exactly.

They have the weights in 16 bits alone, while the optimizer updates its own in 32; and of the loss
scaler only the scale, not how far its window has come.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fairseq.optim import FP16Optimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

logger = logging.getLogger(__name__)

SCALER, WEIGHTS = "loss_scaler", "fp32_weights"
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

    Its fp32 weights are not taken where the model's 16-bit weights are not those, rounded.
    """
    scaler = getattr(optimizer, "scaler", None)  # there is none without fp16
    for name, value in state.get(SCALER, {}).items() if scaler is not None else ():
        setattr(scaler, name, value)
    if WEIGHTS not in state or not isinstance(optimizer, FP16Optimizer):
        return
    saved, weights = state[WEIGHTS], fp32_weights(optimizer)
    same_shapes = [w.shape for w in weights] == [s.shape for s in saved]
    if not same_shapes or not all(
        map(torch.equal, rounded(optimizer, saved), optimizer.fp16_params)
    ):
        logger.warning("the checkpoint's fp32 weights are not its model's: they start from those")
        return
    for weight, other in zip(weights, saved, strict=True):
        weight.copy_(other)


def fp32_weights(optimizer: Any) -> list[torch.Tensor]:
    """The weights that fairseq's ``FP16Optimizer`` updates: one flat tensor per device, or all."""
    weights = optimizer.fp32_params
    return [p.data for p in (weights.values() if isinstance(weights, dict) else weights)]


def rounded(optimizer: Any, saved: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """``saved`` as the 16-bit parameters of the model, one by one."""
    parts = iter(saved)
    flat, offset = torch.empty(0), 0
    for parameter in optimizer.fp16_params:
        if offset == flat.numel():
            flat, offset = next(parts).flatten(), 0
        part = flat[offset : offset + parameter.numel()]
        offset += parameter.numel()
        yield part.to(parameter.device, parameter.dtype).view_as(parameter)
