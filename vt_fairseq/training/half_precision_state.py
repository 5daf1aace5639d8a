"""What fairseq's checkpoints of ``--fp16`` and ``--bf16`` leave out: a run would not go on exactly.

They have the weights in 16 bits alone, while the optimizer updates its own in 32; and of the loss
scaler only the scale, not how far its window has come.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fairseq.optim import fp16_optimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler

logger = logging.getLogger(__name__)

SCALER, WEIGHTS = "loss_scaler", "fp32_weights"
COUNTERS = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")


def scaler_state(scaler: DynamicLossScaler | None) -> dict[str, Any]:
    """What an optimizer's state says of its scaler beside ``loss_scale``; nothing without one."""
    return {} if scaler is None else {SCALER: {name: getattr(scaler, name) for name in COUNTERS}}


def restore_scaler(scaler: DynamicLossScaler | None, state: Mapping[str, Any]) -> None:
    """Give the scaler the counters of an optimizer's state, where there are any."""
    if scaler is not None:
        for name, value in (state.get(SCALER) or {}).items():
            setattr(scaler, name, value)


def fp32_weights(optimizer) -> list[torch.Tensor]:
    """The weights that fairseq's ``FP16Optimizer`` updates; flat ones are one a device."""
    found = optimizer.fp32_params
    return [p.data for p in (found.values() if isinstance(found, dict) else found)]


def restore_weights(optimizer, saved: list[torch.Tensor]) -> None:
    """Take the saved fp32 weights, unless the model's 16-bit weights are not those, rounded."""
    weights = fp32_weights(optimizer)
    fits = [w.shape for w in weights] == [s.shape for s in saved]
    if not fits or not all(map(torch.equal, rounded(optimizer, saved), optimizer.fp16_params)):
        logger.warning("the checkpoint's fp32 weights are not its model's: they start from those")
        return
    for weight, other in zip(weights, saved, strict=True):
        weight.copy_(other)


def rounded(optimizer, saved: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    """``saved`` as the 16-bit parameters of the model, one by one."""
    parts = iter(saved)
    flat, place = torch.empty(0), 0
    for parameter in optimizer.fp16_params:
        if place == flat.numel():
            flat, place = next(parts).flatten(), 0
        part = flat[place : place + parameter.numel()]
        place += parameter.numel()
        yield part.to(parameter.device, parameter.dtype).view_as(parameter)


def install() -> None:
    """Let fairseq's optimizers save and restore it all; calling it again changes nothing."""
    mixins = (fp16_optimizer._FP16OptimizerMixin, fp16_optimizer._MemoryEfficientFP16OptimizerMixin)
    for mixin in mixins:
        if mixin.state_dict.__module__ != __name__:
            _extend(mixin)


def _extend(mixin: type) -> None:
    save, load = mixin.state_dict, mixin.load_state_dict
    has_fp32_weights = mixin is fp16_optimizer._FP16OptimizerMixin

    def state_dict(self) -> dict[str, Any]:
        weights = {WEIGHTS: fp32_weights(self)} if has_fp32_weights else {}
        return {**save(self), **scaler_state(self.scaler), **weights}

    def load_state_dict(self, state, optimizer_overrides=None) -> None:
        load(self, state, optimizer_overrides)
        restore_scaler(self.scaler, state)
        if has_fp32_weights and WEIGHTS in state:
            restore_weights(self, state[WEIGHTS])

    mixin.state_dict, mixin.load_state_dict = state_dict, load_state_dict
