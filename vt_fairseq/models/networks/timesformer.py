"""TimeSformer (Bertasius et al. 2021, arXiv 2102.05095) of transformers."""

from typing import ClassVar

import torch

from vt_fairseq.models.networks.transformers_base import TransformersNetwork


class TimeSformer(TransformersNetwork):
    """Tokens of single frames' patches; see ``TransformersNetwork`` for the arguments."""

    KIND = ("timesformer", "")
    CLASSES = ("TimesformerConfig", "TimesformerModel")
    SIZES: ClassVar = {
        **dict.fromkeys(("image_size", "patch_size", "num_frames"), int),
        **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), int),
        **{"intermediate_size": int, "hidden_act": str, "layer_norm_eps": float},
        **{"qkv_bias": bool, "attention_type": str},
    }
    LEFT_OUT = r"(.*\.)?classifier\..*"
    COLORS = ((0.45,) * 3, (0.225,) * 3)

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.config.num_frames

    @property
    def frame_size(self) -> int:
        """Pixels of a frame's side."""
        return self.config.image_size

    def grid(self, frames: int) -> tuple[int, int]:
        """Steps in time, places of each; attention in space alone leaves one step."""
        side = self.config.image_size // self.config.patch_size
        return (1 if self.config.attention_type == "space_only" else frames), side**2

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C); in its states the places come first."""
        states = self.model(video.transpose(1, 2)).last_hidden_state[:, 1:]
        steps, places = self.grid(video.size(2))
        return states.unflatten(1, (places, steps)).transpose(1, 2)
