"""V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985) of transformers: its encoder."""

from typing import Any, ClassVar

import torch
from torch import nn

from vt_fairseq.models.networks.transformers_base import TransformersNetwork


class VJEPA2(TransformersNetwork):
    """Tokens of tubes of two frames; see ``TransformersNetwork`` for the arguments.

    The predictor of the pretraining and the probes of classifiers are left out.
    """

    KIND = ("vjepa2", "")
    CLASSES = ("VJEPA2Config", "VJEPA2Model")
    SIZES: ClassVar = {
        **dict.fromkeys(("crop_size", "patch_size", "frames_per_clip", "tubelet_size"), int),
        **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), int),
        **{"mlp_ratio": float, "hidden_act": str, "layer_norm_eps": float, "qkv_bias": bool},
    }
    LEFT_OUT = r"(.*\.)?(predictor|pooler|classifier)\..*"

    def parts_of(self, model: Any) -> tuple[nn.Module, Any]:
        """The encoder and its layers."""
        return model.encoder, model.encoder.layer

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.config.frames_per_clip

    @property
    def frame_size(self) -> int:
        """Pixels of a frame's side."""
        return self.config.crop_size

    def grid(self, frames: int) -> tuple[int, int]:
        """Steps in time, places of each."""
        side = self.config.crop_size // self.config.patch_size
        return frames // self.config.tubelet_size, side**2

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C)."""
        states = self.model(video.transpose(1, 2)).last_hidden_state
        return states.unflatten(1, self.grid(video.size(2)))
