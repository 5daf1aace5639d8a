"""The video networks by name: R(2+1)D of several sizes, and the user's own.

Shapes: B clips, F frames, T video tokens, H and W pixels.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch

from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D


class VideoNetwork(Protocol):
    """What a video network, an nn.Module, has.

    It may also have ``freeze(mode)`` and ``checkpoint_video_stages``, as R2Plus1D has them, for
    the options of that name, and ``fold()``, which is called once before inference, in evaluation
    mode.

    Attributes:
        width: channels of the features.
    """

    width: int

    def __call__(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) from ``Normalize`` of ``r2plus1d`` -> features (B, T, ``width``)."""

    def num_tokens(self, frames: int) -> int:
        """T of a clip of ``frames`` frames."""


MakeNetwork = Callable[[], VideoNetwork]
VIDEO_NETWORKS: dict[str, MakeNetwork] = {
    name: partial(R2Plus1D, dims) for name, dims in R2PLUS1D_DIMS.items()
}


def register_video_network(name: str) -> Callable[[MakeNetwork], MakeNetwork]:
    """Give a ``VideoNetwork`` class (or function) of one's own a name that options can use.

    It is called without arguments. Raises ValueError for a name that is taken.
    """

    def register(make: MakeNetwork) -> MakeNetwork:
        if VIDEO_NETWORKS.setdefault(name, make) is not make:
            raise ValueError(f"there is a video network {name!r} already; take another name")
        return make

    return register
