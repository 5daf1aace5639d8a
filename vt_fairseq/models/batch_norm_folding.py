"""BatchNorm folded into the convolutions before it: the same function with fewer passes."""

import torch
from torch import nn

from vt_fairseq.models.batch_norm import BatchNorm


def fold_batch_norms(network: nn.Module) -> int:
    """Fold every BatchNorm that follows a convolution in an nn.Sequential; returns how many.

    In evaluation a BatchNorm multiplies each channel by one number and adds another, which the
    convolution's weight and bias can do. ``network`` is changed in place: it has fewer parameters
    then, can no longer be trained, and its weights are no longer those of a checkpoint. They are
    computed in fp64 and kept in their dtype. Raises ValueError for a network in training mode.
    """
    if network.training:
        raise ValueError("expected a network in evaluation mode to fold, found training mode")
    folded = 0
    for sequence in network.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for index in range(1, len(sequence)):
            convolution, norm = _last(sequence[index - 1]), sequence[index]
            if isinstance(convolution, nn.Conv3d) and isinstance(norm, BatchNorm):
                _fold(convolution, norm)
                sequence[index] = nn.Identity()
                folded += 1
    return folded


def _last(module: nn.Module) -> nn.Module:
    """What computes a module's output."""
    return _last(module[-1]) if isinstance(module, nn.Sequential) else module


@torch.no_grad()
def _fold(convolution: nn.Conv3d, norm: BatchNorm) -> None:
    weight = convolution.weight
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    mean = norm.running_mean.double()
    if convolution.bias is not None:
        mean = mean - convolution.bias.double()
    bias = norm.bias.double() - mean * factor
    scaled = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    convolution.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
