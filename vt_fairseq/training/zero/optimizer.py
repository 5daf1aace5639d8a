"""What fairseq's trainer sees of a DeepSpeed engine: an optimizer like any other.

fairseq sums gradients over micro batches and processes, then divides by the sample size of the
whole update, clips, and steps. ZeRO divides by the loss scale when it unscales, so the division by
the sample size is given to it as part of the scale: sums, norm and clipping are fairseq's own for
any mix of sample sizes, without a pass over the gradients.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairseq.optim import FairseqOptimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from torch import Tensor, nn


class DeepSpeedOptimizer(FairseqOptimizer):
    """Facade over a ZeRO engine (stages 1 to 3) for fairseq's trainer.

    Args:
        cfg: the optimizer's configuration.
        engine: a ``DeepSpeedEngine`` with one micro batch per step and no clipping of its own.
        scaler: fairseq's loss scaler for fp16, else None.
        shards: writes and reads the sharded state (``state_dict`` says where it is).
    """

    def __init__(self, cfg, engine, scaler: DynamicLossScaler | None, shards):
        super().__init__(cfg)
        self.engine = engine
        self.scaler = scaler
        self.shards = shards
        self.micro_batches = 1
        self._backwards = 0
        self._factor = 1.0
        zero = self.engine.optimizer
        # The scale is set from outside for every step; `override_loss_scale` would log each.
        zero.custom_loss_scaler = True
        zero.external_loss_scale = 1.0
        offloaded = (
            zero.offload_optimizer if engine.zero_optimization_stage() == 3 else zero.cpu_offload
        )
        if not offloaded:
            # A gradient that is not finite shows in the norm, which ZeRO looks at next. Looking at
            # each of a thousand tensors before takes a GPU's launches longer than Adam does, and
            # stage 3's look at all of them at once takes a byte per parameter.
            zero.check_overflow = lambda partition_gradients=True: None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The Adam that works on this process's shard."""
        return self.engine.basic_optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """ZeRO's, with ``lr`` and ``lr_scale``."""
        return self.engine.optimizer.param_groups

    @property
    def params(self):
        """The model's trained parameters."""
        return (p for p in self.engine.module.parameters() if p.requires_grad)

    def begin_update(self, micro_batches: int) -> None:
        """Say how many backward passes make up the coming update."""
        self.micro_batches = micro_batches
        self._backwards = 0
        self._factor = 1.0

    def backward(self, loss: torch.Tensor) -> None:
        """Backward pass of one micro batch; the last one reduces over the processes."""
        self._backwards += 1
        self.engine.set_gradient_accumulation_boundary(self._backwards == self.micro_batches)
        self.engine.optimizer.external_loss_scale = self._loss_scale()
        self.engine.backward(loss, scale_wrt_gas=False)

    def all_reduce_grads(self, module: torch.nn.Module) -> None:
        """Nothing: the engine has reduced them."""

    def multiply_grads(self, c: float | torch.Tensor) -> None:
        """Scale the gradients of the coming step."""
        self._factor *= float(c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn=None) -> torch.Tensor:
        """Clip, and step as well: ZeRO does both at once. Returns the norm before clipping.

        Raises OverflowError (fairseq then skips the update) or FloatingPointError when a gradient
        is not finite.
        """
        zero = self.engine.optimizer
        zero.clip_grad = max_norm
        # A sample size of 0 leaves gradients of 0: any scale does.
        zero.external_loss_scale = self._loss_scale() / (self._factor or 1.0)
        self.engine.step()
        if zero.overflow:
            if self.scaler is not None:
                self.scaler.check_overflow(float("inf"))
            raise FloatingPointError("gradients are Nan/Inf")
        if self.scaler is not None:
            self.scaler.update()
        # On the host: fairseq looks at it several times, which a device would be waited for.
        return torch.tensor(float(self.engine.get_global_grad_norm()))

    def step(self, closure=None, scale: float = 1.0, groups=None) -> None:
        """Nothing: see ``clip_grad_norm``."""

    def zero_grad(self) -> None:
        """Forget gradients, also those of an update that was not finished."""
        self.engine.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Where the sharded state is and what it was made with; plain values."""
        state = dict(self.shards.saved)
        if self.scaler is not None:
            state["loss_scale"] = self.scaler.loss_scale
        return state

    def load_state_dict(
        self, state_dict: dict[str, Any], optimizer_overrides: dict | None = None
    ) -> None:
        """Load the shards that ``state_dict`` names."""
        settings = [
            {k: v for k, v in group.items() if k != "params"} for group in self.param_groups
        ]
        self.shards.load(self.engine, state_dict)
        # The command line's settings win over the saved ones.
        for group, values in zip(self.param_groups, settings, strict=True):
            group.update(values)
            group.update(optimizer_overrides or {})
        if self.scaler is not None and "loss_scale" in state_dict:
            self.scaler.loss_scale = state_dict["loss_scale"]

    def _loss_scale(self) -> float:
        return 1.0 if self.scaler is None else self.scaler.loss_scale


@torch.no_grad()
def begin_at(weights: Mapping[nn.Parameter, Tensor]) -> None:
    """Give an engine's fp32 weights of these parameters these whole values, on every process."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    for parameter, value in weights.items():
        if hasattr(parameter, "ds_id"):  # stage 3
            safe_set_local_fp32_param(parameter, own_part(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)


def own_part(parameter: Any, value: Tensor) -> Tensor:
    """(N,) of ``value`` what this process has at stage 3; zeros after its end.

    DeepSpeed's own function for whole values takes none that the processes do not divide evenly.
    """
    size = parameter.ds_tensor.ds_numel
    part = value.flatten()[size * dist.get_rank(parameter.ds_process_group) :][:size]
    return F.pad(part, (0, size - part.numel()))
