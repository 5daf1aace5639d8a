"""ViViT (Arnab et al. 2021, arXiv 2103.15691) of transformers."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.networks.transformers_base import CONFIG, TransformersNetwork
from vt_fairseq.models.pretrained.files import read_json
from vt_fairseq.models.video_backbones import Value


class ViViT(TransformersNetwork):
    """Tokens of tubes of two frames, 16 x 16 pixels; see ``TransformersNetwork``."""

    KIND = ("vivit", "")
    CLASSES = ("VivitConfig", "VivitModel")
    SIZES: ClassVar = {
        **dict.fromkeys(("image_size", "num_frames", "tube_frames", "tube_pixels"), int),
        **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), int),
        **{"intermediate_size": int, "hidden_act": str, "layer_norm_eps": float, "qkv_bias": bool},
    }
    LEFT_OUT = r"(.*\.)?(pooler|classifier)\..*"
    MODEL_OPTIONS: ClassVar = {"add_pooling_layer": False}
    COLORS = ((0.5,) * 3, (0.5,) * 3)

    def __init__(self, tube_frames: int = 2, tube_pixels: int = 16, **options: Any):
        tube = [tube_frames, tube_pixels, tube_pixels]
        self.tube = tube
        super().__init__(**options, tubelet_size=tube)

    @classmethod
    def arguments_of(cls, path: Path) -> dict[str, Value]:
        """Also of the tubes' sizes, which ``config.json`` has in a list."""
        sizes = super().arguments_of(path)
        match read_json(path / CONFIG).get("tubelet_size", [2, 16, 16]):
            case [int(frames), int(pixels), int(width)] if pixels == width:
                return sizes | {"tube_frames": frames, "tube_pixels": pixels}
            case other:
                raise UserError(f"{path / CONFIG}: tubelet_size is {other!r}, expected [2, 16, 16]")

    def parts_of(self, model: Any) -> tuple[nn.Module, Any]:
        """The model and its layers."""
        return model, model.layers

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.config.num_frames

    @property
    def frame_size(self) -> int:
        """Pixels of a frame's side."""
        return self.config.image_size

    def grid(self, frames: int) -> tuple[int, int]:
        """Steps in time, places of each."""
        return frames // self.tube[0], (self.frame_size // self.tube[1]) ** 2

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C), without the class token."""
        states = self.model(video.transpose(1, 2)).last_hidden_state[:, 1:]
        return states.unflatten(1, self.grid(video.size(2)))
