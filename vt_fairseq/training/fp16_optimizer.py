"""fairseq's optimizer for ``--fp16`` and ``--bf16`` in operations over lists of tensors.

fairseq goes through the parameters one by one to zero, copy and measure their gradients, which on a
GPU takes longer than Adam itself, and it keeps fp32 gradients, 4 bytes per parameter. Here those
exist for a part of the parameters at a time. The weights are fairseq's to the bit.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from fairseq import optim
from torch import Tensor

from vt_fairseq.training.gradient_norm import AggregateNorm, clipping, on_host, total_norm
from vt_fairseq.training.parts import SHARES, in_parts

# Optimizers whose state is each parameter's own, so that some parameters can be stepped alone.
PARTIAL = {"Adam", "AdamW", "FusedAdam"}
# Of the 4 bytes of an fp32 gradient 2 are free for later parts once the 16-bit one has gone.
GROWTH = 1 / 2


class FP16Optimizer(optim.FP16Optimizer):
    """Steps fp32 copies of a model's 16-bit parameters, part by part.

    Checkpoints have this class's name, which is fairseq's, as all earlier ones have. Parameters are
    never merged into one, as fairseq does without ``--fp16-no-flatten-grads``; the state of merged
    ones is cut when it is loaded.

    Attributes:
        fp16_params: the model's trained parameters, in half precision.
        fp32_params: their copies, which have gradients while they are stepped only.
        keeps_overflowing: whether the copies get gradients that are not finite, too, for
            ``--debug-param-names`` to look at.
    """

    fp16_params: list[Tensor]
    fp32_params: list[Tensor]
    keeps_overflowing = False
    _multiply_factor: float | Tensor

    @classmethod
    def build_optimizer(cls, cfg: Any, params: list[Tensor], **kwargs: Any) -> "FP16Optimizer":
        """fairseq's, whether ``--fp16-no-flatten-grads`` is given or not."""
        copies = cls.build_fp32_params(cfg.optimizer, params, flatten=False)
        for copy in copies:
            copy.grad = None
        built = cls(cfg, params, optim.build_optimizer(cfg.optimizer, copies), copies, **kwargs)
        built.keeps_overflowing = cfg.optimization.debug_param_names
        return built

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: AggregateNorm = None) -> Tensor:
        """Norm of the unscaled gradients, on the host; the coming step clips them to ``max_norm``.

        Raises OverflowError, for which fairseq skips the update, where a gradient is not finite,
        and FloatingPointError where the loss scale cannot fall any more.
        """
        gradients = [half.grad for half in self._in_order if half.grad is not None]
        norm = total_norm(gradients, aggregate_norm_fn)
        if isinstance(self._multiply_factor, Tensor):
            self._multiply_factor = on_host(self._multiply_factor)
        norm = self._multiply_factor * norm
        if self.scaler is None:
            self._multiply_factor *= clipping(norm, max_norm) if max_norm > 0 else 1.0
            return norm
        if norm > max_norm > 0:
            self._multiply_factor *= max_norm / norm
        try:
            self.scaler.check_overflow(norm)
        except OverflowError:
            for half, copy in zip(self.fp16_params, self.fp32_params, strict=True):
                copy.grad = gradient(half).float() if self.keeps_overflowing else None
            raise
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, groups: Any = None) -> None:
        """One update. A part's 16-bit gradients go when their fp32 copies are there."""
        for halves, copies in self._parts:
            self._unscale(halves, copies)
            self.fp32_optimizer.step(closure, groups=groups)
            for copy in copies:
                copy.grad = None
        self._multiply_factor = 1.0
        if self.scaler is not None:
            self.scaler.update()
        torch._foreach_copy_(self.fp16_params, self.fp32_params)

    def zero_grad(self) -> None:
        """Forget all gradients; those to come are divided by the loss scale."""
        for copy in self.fp32_params:
            copy.grad = None
        super().zero_grad()

    def load_state_dict(
        self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None
    ) -> None:
        """Load what fairseq or this class saved."""
        super().load_state_dict(self._cut(state_dict), optimizer_overrides)
        for group in self.param_groups:
            # DeepSpeed's FusedAdam counts in the last parameter of a call alone, and the calls of
            # the run before may have had other parameters.
            states = [self.optimizer.state.get(p, {}) for p in group["params"]]
            counts = [s["step"] for s in states if isinstance(s.get("step"), int)]
            for state in states if counts else ():
                state["step"] = max(counts)

    def _halves_of(self, copies: Iterable[Tensor]) -> list[Tensor]:
        half_of = dict(zip(self.fp32_params, self.fp16_params, strict=True))
        return [half_of[copy] for copy in copies]

    @functools.cached_property
    def _in_order(self) -> list[Tensor]:
        """The model's parameters as fairseq measures them, which decides about the last bit."""
        return self._halves_of(self.params)

    @functools.cached_property
    def _parts(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """The model's parameters and copies; those whose gradients free little memory come first.

        Gradients of one product (``models.half_precision_linear.joined``) are of one memory, which
        is free once the last of them has gone.
        """
        if type(self.optimizer).__name__ not in PARTIAL:
            return [(self.fp16_params, self.fp32_params)]
        pairs = zip(self.fp16_params, self.fp32_params, strict=True)
        memory = {copy: memory_of(half) for half, copy in pairs}
        sizes: Counter[int] = Counter()
        for copy, where in memory.items():
            sizes[where] += copy.numel()
        groups = [
            sorted(group["params"], key=lambda copy: (sizes[memory[copy]], copy.numel()))
            for group in self.param_groups
        ]
        parts = in_parts(groups, SHARES[0], GROWTH)
        return [(self._halves_of(part), part) for _, part in parts]

    def _unscale(self, halves: list[Tensor], copies: list[Tensor]) -> None:
        """Turn 16-bit gradients into fp32 ones of the copies, without loss scale and clipped."""
        gradients = [torch.empty_like(copy) for copy in copies]
        torch._foreach_copy_(gradients, list(map(gradient, halves)))
        if (factor := float(self._multiply_factor)) != 1:
            torch._foreach_mul_(gradients, factor)
        for half, copy, unscaled in zip(halves, copies, gradients, strict=True):
            half.grad, copy.grad = None, unscaled

    def _cut(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The state of parameters that fairseq merged into one as that of each."""
        saved = [p for group in state_dict.get("param_groups", ()) for p in group["params"]]
        if len(saved) != 1 or len(self.fp32_params) == 1:
            return state_dict
        # None before the first update.
        merged: dict[str, Any] = next(iter(state_dict["state"].values()), {})
        sizes = [copy.numel() for copy in self.fp32_params]
        pieces: dict[Tensor, dict[str, Any]] = {copy: {} for copy in self.fp32_params}
        for key, value in merged.items():
            whole = isinstance(value, Tensor) and value.numel() == sum(sizes)
            values = value.split(sizes) if whole else [value] * len(sizes)
            for copy, piece in zip(self.fp32_params, values, strict=True):
                pieces[copy][key] = piece.view_as(copy) if whole else deepcopy(piece)
        state = {number: pieces[p] for number, p in enumerate(self.params)}
        groups = self.fp32_optimizer.state_dict()["param_groups"]
        return {**state_dict, "state": state, "param_groups": groups}


def memory_of(parameter: Tensor) -> int:
    """What the gradients that share a memory have in common; without one, the parameter's own."""
    held = parameter if parameter.grad is None else parameter.grad
    return held.untyped_storage().data_ptr()


def gradient(parameter: Tensor) -> Tensor:
    """Zeros where the loss does not depend on it, as fairseq has it in half precision."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
