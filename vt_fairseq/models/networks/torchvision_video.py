"""The video models of torchvision, up to the features before their classifiers.

Shapes: B clips, F frames, T steps in time, P places of a step, C width.
"""

import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.networks.wrapping import IMAGENET_MEAN, IMAGENET_STD, WrappedNetwork, library
from vt_fairseq.models.pretrained.files import read_weights
from vt_fairseq.models.pretrained.filling import Filled, fill_module
from vt_fairseq.models.r2plus1d import MEAN, STD

CLASSIFIERS = ("fc", "head", "classifier")
LEFT_OUT = re.compile(rf"({'|'.join(CLASSIFIERS)})\..*")
# Width, frames per step, pixels per place, side of the frames and number of frames (0: any).
SHAPES = {
    **{
        "r3d_18": (512, 8, 16, 112, 0),
        "mc3_18": (512, 1, 16, 112, 0),
        "s3d": (1024, 8, 32, 224, 0),
    },
    **{"mvit_v1_b": (768, 2, 32, 224, 16), "mvit_v2_s": (768, 2, 32, 224, 16)},
    **{"swin3d_t": (768, 2, 32, 224, 0), "swin3d_s": (768, 2, 32, 224, 0)},
    **{"swin3d_b": (1024, 2, 32, 224, 0)},
}


class TorchvisionVideo(WrappedNetwork):
    """A model by its name there.

    Args:
        frame_size: pixels of the frames' sides, 0 for those that it was trained with.
        pooling, tokens: of ``TokenPooling``.
        frames_per_second: the rate of consecutive frames, 0 for frames spread over the clip.
    """

    name: ClassVar[str]

    def __init__(
        self,
        frame_size: int = 0,
        pooling: str = "spatial",
        tokens: int = 0,
        frames_per_second: float = 0.0,
    ):
        name, size = self.name, SHAPES[self.name][3]
        width, self.step, self.pixels, _, self.num_frames = SHAPES[name]
        model = getattr(library("torchvision").models.video, name)(weights=None)
        for classifier in CLASSIFIERS:
            if hasattr(model, classifier):
                setattr(model, classifier, nn.Identity())
        stages = (getattr(model, n, None) for n in ("blocks", "features"))
        layers = next((s for s in stages if s is not None), None) or (model.layer4,)
        super().__init__(model, layers, width, pooling, tokens)
        self.frame_size, self.frames_per_second = frame_size or size, frames_per_second
        swin = name.startswith("swin3d")
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if swin else (MEAN, STD)
        if name.startswith("mvit"):
            self.mean, self.std = (0.45,) * 3, (0.225,) * 3
        if self.frame_size % self.pixels or (self.num_frames and self.frame_size != size):
            raise UserError(f"{name}:frame_size={frame_size}: expected {size}")

    def grid(self, frames: int) -> tuple[int, int]:
        """Steps in time, places of each; raises UserError for frames that it does not divide."""
        if frames % self.step:
            raise UserError(f"{self.name} takes multiples of {self.step} frames, found {frames}")
        return frames // self.step, (self.frame_size // self.pixels) ** 2

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C)."""
        model: Any = self.model
        if hasattr(model, "layer4"):
            for layer in (model.stem, model.layer1, model.layer2, model.layer3, model.layer4):
                video = layer(video)
            return video.flatten(3).permute(0, 2, 3, 1)
        if hasattr(model, "patch_embed"):
            states = model.norm(model.features(model.pos_drop(model.patch_embed(video))))
            return states.flatten(2, 3)
        if not hasattr(model, "blocks"):
            return model.features(video).flatten(3).permute(0, 2, 3, 1)
        states = model.pos_encoding(model.conv_proj(video).flatten(2).transpose(1, 2))
        size = (model.pos_encoding.temporal_size, *model.pos_encoding.spatial_size)
        for block in model.blocks:
            states, size = block(states, size)
        return model.norm(states)[:, 1:].unflatten(1, (size[0], size[1] * size[2]))

    def load_pretrained(self, path: Path) -> Filled:
        """The weights of torchvision's ``.pth``; raises UserError where they do not fit."""
        dropped = fill_module(self.model, read_weights(path), LEFT_OUT, path)
        return Filled(dropped, [n for n in self.state_dict() if not n.startswith("model.")])


# Each name's own class, as the table of networks knows it.
globals().update({n: type(n, (TorchvisionVideo,), {"name": n}) for n in SHAPES})
