"""BatchNorm for weights and activations in half precision."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.models.activation_checkpointing import is_second_pass


class BatchNorm(nn.BatchNorm3d):
    """nn.BatchNorm3d (and 1d, 2d) that is exact in half precision and under checkpointing.

    Running statistics stay fp32 when the model is cast to half precision, where a step of
    ``momentum`` times a small difference would be rounded away and variances underflow. Inputs
    stay in half precision; only weight and bias (two numbers per channel) are cast for the
    computation. PyTorch's kernels compute in fp32, so no fp32 copy of an activation is kept for the
    backward pass. The statistics move once per update, not again in a
    checkpoint's second pass. In fp32 it computes what nn.BatchNorm3d does.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same shape and dtype.

        Channels beyond ``num_features``, with which ``Conv3d`` pads, are zeros and stay zeros.
        """
        channels_last = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
        if x.is_cuda and channels_last and not self.training:
            # PyTorch's channels-last kernels are for images only: F frames of H x W become one of
            # F * H x W without a copy. Not in training, where the ReLU that follows, which works in
            # place, would copy such a view.
            return self._normalized(x.flatten(2, 3)).unflatten(2, x.shape[2:4])
        return self._normalized(x)

    def _normalized(self, x: torch.Tensor) -> torch.Tensor:
        filled = x.size(1) - self.num_features
        mean, variance = self.running_mean, self.running_var
        weight, bias = self.weight.to(mean.dtype), self.bias.to(mean.dtype)
        if filled:
            mean, variance, weight, bias = (
                F.pad(tensor, (0, filled)) for tensor in (mean, variance, weight, bias)
            )
        updates = self.training and not is_second_pass()
        if updates:
            self.num_batches_tracked.add_(1)
        statistics = updates or not self.training  # in training they are only written to
        normalized = F.batch_norm(
            x,
            mean if statistics else None,
            variance if statistics else None,
            weight,
            bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        if filled and updates:
            self.running_mean.copy_(mean[:-filled])
            self.running_var.copy_(variance[:-filled])
        return normalized

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        """Called by ``to``, ``half`` and so on: statistics take part, but for casts to half."""
        before = {name: getattr(self, name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)
        for name, statistic in before.items():
            cast = getattr(self, name)
            if cast.dtype in (torch.float16, torch.bfloat16):
                # From before the cast, which rounded them.
                setattr(self, name, statistic.to(cast.device, torch.float32))
        return self
