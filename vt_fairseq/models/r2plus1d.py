"""R(2+1)D video networks (Tran et al. 2018, arXiv 1711.11248).

Parameters have the names of torchvision and of the IG65M weights
(github.com/moabitcoin/ig65m-pytorch), so that their files load as they are.

Shapes: B clips, F frames, T video tokens, H and W pixels, C width.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.models.activation_checkpointing import checkpointed
from vt_fairseq.models.batch_norm import BatchNorm
from vt_fairseq.models.batch_norm_folding import fold_batch_norms

# Mean and standard deviation of red, green and blue in [0, 1], as IG65M and torchvision have them.
MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)

SPATIAL_STRIDES = (1, 2, 2, 2)  # of layer1 ... layer4; the stem halves height and width before
VIDEO_STAGES = len(SPATIAL_STRIDES)
TENSOR_CORE = 8  # tensor cores multiply blocks of so many channels in half precision


@dataclass(frozen=True)
class R2Plus1DDims:
    """Sizes of one R(2+1)D; tuples have one item for each of layer1 ... layer4.

    Attributes:
        blocks: residual blocks.
        per_conv_midplanes: whether the channels between a spatial and its temporal convolution
            follow from that pair's own inputs (Caffe2, IG65M) or from the block's (torchvision).
            These differ in the second pair of a layer's first block.
        bn_eps: Caffe2's (1e-3) or PyTorch's (1e-5).
        widths: output channels.
        stem_width: channels between the stem's two convolutions.
        temporal_strides: their product is the number of frames a video token stands for.
        bn_momentum: share of the new batch in the running statistics (PyTorch's convention).
        normalize_features: BatchNorm on the pooled features. At first, features of all clips are
            nearly alike; trained from scratch, the transformer learns sooner when their
            differences have unit variance.
    """

    blocks: tuple[int, int, int, int]
    per_conv_midplanes: bool
    bn_eps: float
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 45
    temporal_strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    bn_momentum: float = 0.1
    normalize_features: bool = False


R2PLUS1D_DIMS = MappingProxyType(
    {
        "tiny": R2Plus1DDims(
            blocks=(1, 1, 1, 1),
            per_conv_midplanes=True,
            bn_eps=1e-5,
            widths=(8, 24, 48, 64),
            stem_width=8,
            temporal_strides=(1, 2, 1, 1),
            normalize_features=True,
        ),
        "18": R2Plus1DDims(blocks=(2, 2, 2, 2), per_conv_midplanes=False, bn_eps=1e-5),
        "34": R2Plus1DDims(blocks=(3, 4, 6, 3), per_conv_midplanes=True, bn_eps=1e-3),
        # 34's depth, to be trained from scratch in minutes.
        "34-quarter": R2Plus1DDims(
            blocks=(3, 4, 6, 3),
            per_conv_midplanes=True,
            bn_eps=1e-5,
            widths=(16, 32, 64, 128),
            stem_width=12,
            temporal_strides=(1, 2, 2, 1),
            normalize_features=True,
        ),
    }
)


class Stride(NamedTuple):
    """Step of a convolution in time, and in height and width."""

    time: int
    space: int


def midplanes(inputs: int, outputs: int) -> int:
    """Channels between a pair that give it the parameters of a 3x3x3 convolution (section 3.5)."""
    return (inputs * outputs * 3 * 3 * 3) // (inputs * 3 * 3 + outputs * 3)


class Conv3d(nn.Conv3d):
    """nn.Conv3d without a bias; channels are padded with zeros where that is faster.

    Tensor cores multiply blocks of 8 channels, and few of the paper's mid planes (45, 230, 460,
    921) are multiples of 8. With ``fill`` the output on tensor cores gets zeros as its last
    channels, up to such a multiple; a padded input is taken as it is. Weights keep their shapes.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: tuple[int, int, int] = (1, 1, 1),
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: tuple[int, int, int] = (0, 0, 0),
        fill: bool = False,
    ):
        super().__init__(inputs, outputs, kernel_size, stride, padding, bias=False)
        self.fill = fill

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, F, H, W) -> (B, outputs, ...)."""
        filled = x.size(1) - self.in_channels
        more_inputs = filled if 0 < filled < TENSOR_CORE else 0
        more_outputs = -self.out_channels % TENSOR_CORE if self.fill and on_tensor_cores(x) else 0
        weight, bias = self.weight, self.bias  # it has a bias once a BatchNorm is folded in
        if more_inputs or more_outputs:
            weight = F.pad(weight, (*(0, 0) * 3, 0, more_inputs, 0, more_outputs))
            bias = None if bias is None else F.pad(bias, (0, more_outputs))
        return F.conv3d(x, weight, bias, self.stride, self.padding)


def on_tensor_cores(x: torch.Tensor) -> bool:
    """Whether a GPU's tensor cores multiply this."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)


class Conv2Plus1D(nn.Sequential):
    """A spatial 1x3x3 and a temporal 3x1x1 convolution with BatchNorm and relu between them."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: Stride, dims: R2Plus1DDims):
        super().__init__(
            Conv3d(
                inputs, middle, (1, 3, 3), (1, stride.space, stride.space), (0, 1, 1), fill=True
            ),
            batch_norm(middle, dims),
            nn.ReLU(inplace=True),
            Conv3d(middle, outputs, (3, 1, 1), (stride.time, 1, 1), (1, 0, 0)),
        )


class BasicBlock(nn.Module):
    """Two factorized convolutions around a shortcut, projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: Stride, dims: R2Plus1DDims):
        super().__init__()
        first = midplanes(inputs, outputs)
        second = midplanes(outputs, outputs) if dims.per_conv_midplanes else first
        self.conv1 = nn.Sequential(
            Conv2Plus1D(inputs, first, outputs, stride, dims),
            batch_norm(outputs, dims),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            Conv2Plus1D(outputs, second, outputs, Stride(1, 1), dims), batch_norm(outputs, dims)
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if inputs != outputs or stride != (1, 1):
            self.downsample = nn.Sequential(
                Conv3d(inputs, outputs, stride=(stride.time, stride.space, stride.space)),
                batch_norm(outputs, dims),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, F, H, W) -> (B, outputs, F / time, H / space, W / space), rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class R2Plus1D(nn.Module):
    """The network up to its features; it also has a classifier when ``num_classes`` is given.

    ``width``: channels of the features, C below. ``checkpoint_video_stages`` (0 ... 4, set from
    outside): the backward pass computes the residual blocks of that many stages, from layer1 on,
    again, one at a time. The early stages hold most of the memory.

    With the same seed it draws torchvision's weights: modules are made and then initialized in the
    same order.
    """

    def __init__(self, dims: R2Plus1DDims, num_classes: int | None = None):
        super().__init__()
        self.stem = nn.Sequential(
            Conv3d(3, dims.stem_width, (1, 7, 7), (1, 2, 2), (0, 3, 3), fill=True),
            batch_norm(dims.stem_width, dims),
            nn.ReLU(inplace=True),
            Conv3d(dims.stem_width, dims.widths[0], (3, 1, 1), padding=(1, 0, 0)),
            batch_norm(dims.widths[0], dims),
            nn.ReLU(inplace=True),
        )
        strides = [Stride(*s) for s in zip(dims.temporal_strides, SPATIAL_STRIDES, strict=True)]
        inputs = (dims.widths[0], *dims.widths[:-1])
        layers = [
            nn.Sequential(
                BasicBlock(inputs[i], width, strides[i], dims),
                *(BasicBlock(width, width, Stride(1, 1), dims) for _ in range(dims.blocks[i] - 1)),
            )
            for i, width in enumerate(dims.widths)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.feature_norm = (
            batch_norm(dims.widths[-1], dims) if dims.normalize_features else nn.Identity()
        )
        self.fc = nn.Linear(dims.widths[-1], num_classes) if num_classes else nn.Identity()
        self.width = dims.widths[-1]
        self.temporal_strides = dims.temporal_strides
        self.checkpoint_video_stages = 0
        self._frozen: tuple[nn.Module, ...] = ()
        self._init_parameters()

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) from ``Normalize`` -> features (B, T, C), averaged over space only."""
        x = self.stem(video)
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            for block in stage:
                x = checkpointed(block, x) if number <= self.checkpoint_video_stages else block(x)
        return self.feature_norm(x.mean(dim=(3, 4))).transpose(1, 2)

    def classify(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> logits (B, num_classes), where the network has a classifier."""
        return self.fc(self(video).mean(dim=1))

    def num_tokens(self, frames: int) -> int:
        """T of a clip of ``frames`` frames: frames / 8, rounded up, for the standard networks."""
        for stride in self.temporal_strides:
            frames = -(-frames // stride)
        return frames

    def freeze(self, mode: str) -> None:
        """Freeze "all" stages, "all-but-last" (layer4) or "none" (Table 7e).

        A frozen stage gets no gradient and stays in evaluation mode when the network is put in
        training mode, so its BatchNorm's statistics do not move. Raises KeyError for another mode.
        """
        early = (self.stem, self.layer1, self.layer2, self.layer3)
        stages = (*early, self.layer4, self.feature_norm)
        self._frozen = {"all": stages, "all-but-last": early, "none": ()}[mode]
        for stage in stages:
            stage.requires_grad_(stage not in self._frozen)
        self.train(self.training)

    def fold(self) -> None:
        """Fold BatchNorm into the convolutions, for inference only; see ``fold_batch_norms``."""
        fold_batch_norms(self)

    def train(self, mode: bool = True) -> "R2Plus1D":
        """Set the mode of the stages that are not frozen."""
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self

    def _init_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)


def batch_norm(channels: int, dims: R2Plus1DDims) -> BatchNorm:
    """BatchNorm with the network's constants."""
    return BatchNorm(channels, eps=dims.bn_eps, momentum=dims.bn_momentum)


class Normalize(nn.Module):
    """Colors from 0 ... 255 to mean 0 and deviation 1, in fp32 whatever the model's dtype.

    Args:
        mean, std: of red, green and blue in [0, 1].
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD):
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            # The bits of fp32 numbers as integers, which casts of the model leave alone.
            bits = (torch.tensor(values) * 255).view(torch.int32)
            self.register_buffer(name, bits, persistent=False)

    def forward(self, frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """RGB frames (B, F, H, W, 3) uint8 -> (B, 3, F, H, W) ``dtype``.

        The result lies in memory as channels_last_3d, which convolutions keep and are faster on.
        """
        mean, std = self.mean.view(torch.float32), self.std.view(torch.float32)
        return ((frames - mean) / std).to(dtype).permute(0, 4, 1, 2, 3)
