"""BatchNorm folded into the convolutions before it: the same function with fewer passes."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd


def fold_batch_norms(network: nn.Module) -> int:
    """Fold every BatchNorm that follows a convolution in an nn.Sequential; returns how many.

    In evaluation a BatchNorm is a factor and a summand a channel, which the convolution's weight
    and a bias can hold. ``network`` is changed: it has fewer parameters then, can no longer be
    trained, and its weights are no longer those of a checkpoint. Computed in fp64, kept in the
    dtype of the weight. Raises ValueError for a network in training mode.
    """
    if network.training:
        raise ValueError("expected a network in evaluation mode to fold, found training mode")
    folded = 0
    for sequence in network.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        for index in range(1, len(sequence)):
            convolution, norm = _last(sequence[index - 1]), sequence[index]
            if isinstance(convolution, _ConvNd) and isinstance(norm, _BatchNorm):
                _fold(convolution, norm)
                sequence[index] = nn.Identity()
                folded += 1
    return folded


def _last(module: nn.Module) -> nn.Module:
    """What computes a module's output."""
    return _last(module[-1]) if isinstance(module, nn.Sequential) else module


@torch.no_grad()
def _fold(convolution: _ConvNd, norm: _BatchNorm) -> None:
    weight = convolution.weight
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    mean = norm.running_mean.double()
    if convolution.bias is not None:
        mean = mean - convolution.bias.double()
    bias = norm.bias.double() - mean * factor
    scaled = weight.double() * factor.view(-1, *[1] * (weight.dim() - 1))
    convolution.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(weight.dtype), requires_grad=False)
