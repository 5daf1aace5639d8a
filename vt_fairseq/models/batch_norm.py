"""BatchNorm for weights and activations in half precision."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.models.activation_checkpointing import is_second_pass


class BatchNorm(nn.BatchNorm3d):
    """nn.BatchNorm3d (and 1d, 2d) that is sound in half precision and under checkpointing.

    Running statistics stay fp32 when the model is cast to half precision: a step of ``momentum``
    times a small difference would be rounded away there, and variances underflow. Inputs stay in
    half precision; only weight and bias (two numbers a channel) are cast for the computation,
    which PyTorch's kernels carry out in fp32, so no fp32 copy of an activation is kept for the
    backward pass. The statistics move once per update, not again in a
    checkpoint's second pass. In fp32 it computes what nn.BatchNorm3d does.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, ...) -> the same shape and dtype.

        Channels beyond ``num_features``, which ``Conv3d`` fills in, are zeros and stay zeros.
        """
        channels_last = x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)
        if x.is_cuda and channels_last and not self.training:
            # PyTorch's kernels for channels in the last place know images only; without copies
            # F frames of H x W are one of F * H x W. In training the ReLU behind it, which works
            # in place, would make copies of such a view.
            return self._normalized(x.flatten(2, 3)).unflatten(2, x.shape[2:4])
        return self._normalized(x)

    def _normalized(self, x: torch.Tensor) -> torch.Tensor:
        filled = x.size(1) - self.num_features
        mean, variance = self.running_mean, self.running_var
        if filled and mean is not None:
            mean, variance = F.pad(mean, (0, filled)), F.pad(variance, (0, filled))
        moved = self.training and not is_second_pass()
        if moved:
            self.num_batches_tracked.add_(1)
        elif self.training:
            mean = variance = None  # in training they are only written to
        weight = self.weight.to(self.running_mean.dtype)
        bias = self.bias.to(self.running_mean.dtype)
        if filled:
            weight, bias = F.pad(weight, (0, filled)), F.pad(bias, (0, filled))
        normalized = F.batch_norm(
            *(x, mean, variance, weight, bias),
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
        )
        if filled and moved:
            self.running_mean.copy_(mean[:-filled])
            self.running_var.copy_(variance[:-filled])
        return normalized

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        """What ``to``, ``half``, ``cuda`` ... call: statistics follow in everything but half."""
        before = {name: getattr(self, name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)
        for name, statistic in before.items():
            cast = getattr(self, name)
            if cast.dtype in (torch.float16, torch.bfloat16):
                # Taken from before the cast, which has already rounded.
                setattr(self, name, statistic.to(cast.device, torch.float32))
        return self
