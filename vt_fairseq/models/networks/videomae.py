"""VideoMAE (Tong et al. 2022, arXiv 2203.12602) of transformers."""

from typing import ClassVar

import torch

from vt_fairseq.models.networks.transformers_base import TransformersNetwork


class VideoMAE(TransformersNetwork):
    """Tokens of tubes of two frames; see ``TransformersNetwork`` for the arguments."""

    KIND = ("videomae", "")
    CLASSES = ("VideoMAEConfig", "VideoMAEModel")
    SIZES: ClassVar = {
        **dict.fromkeys(("image_size", "patch_size", "num_frames", "tubelet_size"), int),
        **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), int),
        **{"intermediate_size": int, "hidden_act": str, "layer_norm_eps": float},
        **{"qkv_bias": bool, "qv_bias": bool, "use_mean_pooling": bool},
    }
    LEFT_OUT = (
        r"(.*\.)?(decoder|encoder_to_decoder|mask_token|fc_norm|classifier|position_embed.*)\b.*"
    )

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
        side = self.config.image_size // self.config.patch_size
        return frames // self.config.tubelet_size, side**2

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C)."""
        states = self.model(video.transpose(1, 2)).last_hidden_state
        return states.unflatten(1, self.grid(video.size(2)))
