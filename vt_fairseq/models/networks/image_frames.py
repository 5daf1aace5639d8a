"""An image encoder of transformers that sees each frame by itself: CLIP's or DINOv2.

Shapes: B clips, F frames, T tokens in time, P patches, C width.
"""

from typing import Any, ClassVar

import torch
from torch.nn.functional import pad

from vt_fairseq.models.networks.transformers_base import TransformersNetwork


class ImageFrames(TransformersNetwork):
    """The frames' class tokens, or with ``patches=true`` their patches, averaged over time.

    Args:
        frames_per_token: frames in a row whose mean is a token, or P tokens of patches; of the last
            ones there may be fewer.
        options: those of ``TransformersNetwork``.
    """

    SIZES: ClassVar = {
        **dict.fromkeys(("image_size", "patch_size", "hidden_size"), int),
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), int),
        **{"hidden_act": str, "layer_norm_eps": float},
    }

    def __init__(self, frames_per_token: int = 8, patches: bool = False, **options: Any):
        self.frames_per_token, self.patches = frames_per_token, patches
        super().__init__(**options)
        self.frame_size = self.config.image_size

    def grid(self, frames: int) -> tuple[int, int]:
        """Steps in time, places of each."""
        patches = (self.config.image_size // self.config.patch_size) ** 2
        return -(-frames // self.frames_per_token), patches if self.patches else 1

    def tokens_of(self, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) -> (B, T, P, C)."""
        batch, frames = video.size(0), video.size(2)
        states = self.states_of(video.transpose(1, 2).flatten(0, 1))
        states = states[:, 1:] if self.patches else states[:, :1]
        states = states.unflatten(0, (batch, frames))
        group = self.frames_per_token
        weights = states.new_ones(frames)
        missing = -frames % group
        states = pad(states, (*(0, 0) * 2, 0, missing)).unflatten(1, (-1, group))
        counts = pad(weights, (0, missing)).unflatten(0, (-1, group)).sum(dim=1)
        return states.sum(dim=2) / counts[:, None, None]

    def states_of(self, images: torch.Tensor) -> torch.Tensor:
        """(B * F, 3, H, W) -> (B * F, 1 + P, C) after the last norm."""
        return self.model(images).last_hidden_state


class CLIPFrames(ImageFrames):
    """CLIP's image encoder (Radford et al. 2021, arXiv 2103.00020)."""

    KIND = ("clip_vision_model", "vision_config")
    CLASSES = ("CLIPVisionConfig", "CLIPVisionModel")
    SIZES: ClassVar = {**ImageFrames.SIZES, "intermediate_size": int}
    LEFT_OUT = r"text_model\..*|logit_scale|(text|visual)_projection\..*|.*position_ids"
    COLORS = (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    )

    def parts_of(self, model: Any) -> tuple[Any, Any]:
        """The model and its layers."""
        return model, model.encoder.layers

    def states_of(self, images: torch.Tensor) -> torch.Tensor:
        """CLIP puts the last norm on the class token alone; here all tokens have it."""
        model: Any = self.model
        return model.post_layernorm(super().states_of(images))


class DINOv2Frames(ImageFrames):
    """DINOv2's image encoder (Oquab et al. 2023, arXiv 2304.07193)."""

    KIND = ("dinov2", "")
    CLASSES = ("Dinov2Config", "Dinov2Model")
    SIZES: ClassVar = {
        **ImageFrames.SIZES,
        **{"mlp_ratio": int, "qkv_bias": bool, "layerscale_value": float, "use_swiglu_ffn": bool},
    }
    LEFT_OUT = r"(.*\.)?(classifier\..*|embeddings\.mask_token)"
    CONFIG_OPTIONS: ClassVar = {"use_mask_token": False}
