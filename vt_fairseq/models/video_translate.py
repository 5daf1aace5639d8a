"""The multimodal encoder-decoder (paper, section 3.1 and figure 1) as fairseq models.

Shapes: B rows, V <= B rows with video, F frames, T video tokens, S source, L target, C width.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import (
    MODEL_DATACLASS_REGISTRY,
    FairseqEncoder,
    FairseqEncoderDecoderModel,
    register_model,
)
from torch import nn

from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.errors import UserError
from vt_fairseq.models.heads import PREFIX, ClassHeads, add_new_heads
from vt_fairseq.models.r2plus1d import VIDEO_STAGES, normalize
from vt_fairseq.models.t5 import (
    T5_DIMS,
    T5_VARIANTS,
    T5Decoder,
    T5Dims,
    T5Encoder,
    dims_from_text,
    init_t5_parameters,
)
from vt_fairseq.models.video_backbones import MakeNetwork, check_options, video_network

logger = logging.getLogger(__name__)

# New video tokens are several times as large as new word embeddings, as T5's pretrained embeddings
# are, too: the video counts from the first update on.
VIDEO_TOKEN_SCALE = 4.0


class VideoTokens(nn.Module):
    """Frames to T tokens of the transformer's width: network, spatial mean, linear (section 3.1).

    Args:
        network: frames to features, see ``register_video_network``.
        width: C.
        pooling: "none", or "temporal" for one token a clip (Table 7b).
        freeze: "all", "all-but-last" or "none" (Table 7e).
    """

    def __init__(self, network: nn.Module, width: int, pooling: str, freeze: str):
        super().__init__()
        self.network = network
        if freeze != "none":
            network.freeze(freeze)
        self.projection = nn.Linear(network.width, width)
        nn.init.normal_(self.projection.weight, std=VIDEO_TOKEN_SCALE * network.width**-0.5)
        nn.init.zeros_(self.projection.bias)
        self.pooling = pooling

    def num_tokens(self, frames: int) -> int:
        """T for a clip of ``frames`` frames."""
        return 1 if self.pooling == "temporal" else self.network.num_tokens(frames)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """(V, F, H, W, 3) uint8 -> (V, T, C)."""
        features = self.network(normalize(video, self.projection.weight.dtype))
        promised = (len(video), self.network.num_tokens(video.size(1)), self.network.width)
        if features.shape != promised:
            raise ValueError(
                f"the video network gave features of shape {tuple(features.shape)}, expected "
                f"{promised}: clips, num_tokens({video.size(1)}), width"
            )
        if self.pooling == "temporal":
            features = features.mean(dim=1, keepdim=True)
        return self.projection(features)


class MultimodalEncoder(FairseqEncoder):
    """One T5 encoder over ``[CLS] prompt video text [SEP] context``.

    Args:
        embed_tokens: the embedding table that encoder and decoder share.
        video: frames to tokens, or None for a model that reads text only.
        t5: sizes of the transformer.
        video_id: id of [VIDEO], whose places in the source the video tokens take.
    """

    def __init__(
        self, embed_tokens: nn.Embedding, video: VideoTokens | None, t5: T5Dims, video_id: int
    ):
        super().__init__(None)
        self.embed_tokens = embed_tokens
        self.video = video
        self.transformer = T5Encoder(t5)
        self.video_id = video_id

    def forward(
        self,
        src_tokens: torch.Tensor,
        src_lengths: torch.Tensor | None = None,
        video: torch.Tensor | None = None,
        clip_of_row: torch.Tensor | None = None,
        video_tokens: torch.Tensor | None = None,
    ) -> dict[str, list[torch.Tensor]]:
        """(B, S) ids and (V, F, H, W, 3) uint8 -> fairseq's encoder output.

        ``encoder_out`` [(S, B, C)], ``encoder_padding_mask`` [(B, S) bool, True at padding].
        The r-th row that has [VIDEO] tokens takes the r-th clip, or clip ``clip_of_row[r]`` where
        rows share clips. Rows without them, and batches without ``video``, are text only.
        ``video_tokens`` (V, T, C) stands for ``video`` where the video network has run before.
        ``src_lengths`` is there because fairseq passes it.
        """
        states = self.embed_tokens(src_tokens)
        if video is not None:
            video_tokens = self.video(video)
        if video_tokens is not None:
            places = src_tokens.eq(self.video_id).unsqueeze(-1)
            if clip_of_row is not None:
                video_tokens = video_tokens.index_select(0, clip_of_row)
            states = states.masked_scatter(places, video_tokens.to(states.dtype))
        padding = src_tokens.eq(PAD)
        states = self.transformer(states, padding)
        return {
            "encoder_out": [states.transpose(0, 1)],
            "encoder_padding_mask": [padding],
            "encoder_embedding": [],
            "encoder_states": [],
            "src_tokens": [],
            "src_lengths": [],
        }

    def reorder_encoder_out(
        self, encoder_out: dict[str, list[torch.Tensor]], new_order: torch.Tensor
    ) -> dict[str, list[torch.Tensor]]:
        """Rows in ``new_order`` (which may repeat or leave out rows)."""
        return {
            **encoder_out,
            "encoder_out": [x.index_select(1, new_order) for x in encoder_out["encoder_out"]],
            "encoder_padding_mask": [
                x.index_select(0, new_order) for x in encoder_out["encoder_padding_mask"]
            ],
        }

    def max_positions(self) -> int:
        """T5's positions are relative; the task limits the source."""
        return int(1e6)


@dataclass
class VideoTranslateConfig(FairseqDataclass):
    """Options of every ``video_translate_*`` architecture."""

    t5_size: ChoiceEnum(tuple(T5_DIMS)) = field(
        default="large", metadata={"help": "size of the T5 encoder-decoder"}
    )
    t5_variant: ChoiceEnum(tuple(T5_VARIANTS)) = field(
        default="v1_0",
        metadata={"help": "T5 1.0, or 1.1 and flan-t5 (gated gelu, an output table of its own)"},
    )
    t5_dims: str = field(
        default="",
        metadata={
            "help": "sizes other than those of --t5-size, such as d_model=64,num_heads=2; "
            "vt-init --arch from-t5 prints them for any T5"
        },
    )
    video_network: str = field(
        default="34",
        metadata={"help": "R(2+1)D of depth 34 or 18, small ones (tiny, 34-quarter), or your own"},
    )
    dropout: float = field(
        default=0.1, metadata={"help": "T5's dropout, in all the places where T5 has it"}
    )
    video_pooling: ChoiceEnum(("none", "temporal")) = field(
        default="none",
        metadata={"help": "one video token per 8 frames, or their mean as one token (Table 7b)"},
    )
    freeze_video: ChoiceEnum(("all", "all-but-last", "none")) = field(
        default="none",
        metadata={"help": "stages of the video network that are not trained (Table 7e)"},
    )
    video_lr_scale: float = field(
        default=0.1,
        metadata={
            "help": "learning rate of the video network relative to --lr (paper: 1e-4 to 1e-3)"
        },
    )
    heads: str = field(
        default="",
        metadata={
            "help": "linear layers on the encoder's state at [CLS] to train instead of the "
            "decoder, which is frozen then: some of verb,noun,label, or answer"
        },
    )
    head_lr_scale: float = field(
        default=100.0,
        metadata={"help": "learning rate of the heads relative to --lr (paper: 1e-3 to 1e-5)"},
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "save memory: compute T5's layers again in the backward pass"},
    )
    checkpoint_video_stages: int = field(
        default=0,
        metadata={
            "help": "save memory: compute the residual blocks of the video network's first N of 4 "
            "stages again in the backward pass; the first two hold most of it"
        },
    )


@register_model("video_translate", dataclass=VideoTranslateConfig)
class VideoTranslateModel(FairseqEncoderDecoderModel):
    """f(action, video, noisy text) -> text, or classes where it has heads.

    ``build_model`` reads the configuration.

    Attributes:
        heads: the linear layers of ``--heads``, or None.
        heads_start_anew: whether weights that are loaded may lack heads (fine-tuning).
    """

    def __init__(
        self, encoder: MultimodalEncoder, decoder: T5Decoder, heads: ClassHeads | None = None
    ):
        super().__init__(encoder, decoder)
        self.heads = heads
        self.heads_start_anew = False

    @classmethod
    def build_model(cls, cfg: VideoTranslateConfig, task) -> "VideoTranslateModel":
        """Build from fairseq's configuration; sizes of vocabulary and heads are the task's."""
        sizes = task.heads.sizes() if task.heads is not None else {}
        return cls.from_config(cfg, task.tokenizer.table_size, task.tokenizer.video, sizes)

    @classmethod
    def from_config(
        cls,
        cfg: VideoTranslateConfig,
        vocab_size: int,
        video_id: int,
        head_sizes: Mapping[str, int] | None = None,
    ) -> "VideoTranslateModel":
        """Build with ``vocab_size`` rows in the embedding table and [VIDEO] at ``video_id``.

        ``head_sizes``: outputs of each head by its name. Raises UserError for an option out of its
        range.
        """
        if not 0 <= cfg.checkpoint_video_stages <= VIDEO_STAGES:
            raise UserError(
                f"--checkpoint-video-stages {cfg.checkpoint_video_stages}: expected a number of "
                f"stages from 0 to {VIDEO_STAGES}"
            )
        t5 = transformer_dims(cfg, vocab_size)
        encoder, decoder = build_networks(
            t5,
            partial(_checked_network, cfg),
            video_id,
            str(cfg.video_pooling),
            str(cfg.freeze_video),
        )
        encoder.transformer.checkpoint_activations = cfg.checkpoint_activations
        decoder.checkpoint_activations = cfg.checkpoint_activations
        encoder.video.network.checkpoint_video_stages = cfg.checkpoint_video_stages
        scale_learning_rate(encoder.video.network, cfg.video_lr_scale)
        if not head_sizes:
            return cls(encoder, decoder)
        heads = ClassHeads(head_sizes, t5.d_model)
        scale_learning_rate(heads, cfg.head_lr_scale)
        decoder.requires_grad_(False)
        encoder.embed_tokens.requires_grad_(True)  # the decoder's as well
        return cls(encoder, decoder, heads)

    def forward(
        self,
        src_tokens: torch.Tensor,
        prev_output_tokens: torch.Tensor | None = None,
        src_lengths: torch.Tensor | None = None,
        video: torch.Tensor | None = None,
        clip_of_row: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict] | dict[str, torch.Tensor]:
        """Logits (B, L, vocabulary) under teacher forcing; see the encoder for the inputs.

        Without ``prev_output_tokens`` the heads' logits instead; see ``class_logits``.
        """
        encoder_out = self.encoder(
            src_tokens, src_lengths=src_lengths, video=video, clip_of_row=clip_of_row
        )
        if prev_output_tokens is None:
            return self.class_logits(encoder_out)
        return self.decoder(prev_output_tokens, encoder_out=encoder_out)

    def class_logits(self, encoder_out: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The encoder's output for B rows -> logits (B, classes) fp32 of each head.

        ``answer`` has (B, 1): the score of each row's question with its one candidate.
        """
        return self.heads(encoder_out["encoder_out"][0][0])

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Called by fairseq-generate on a model that will not be trained any more."""
        super().prepare_for_inference_(cfg)
        self.fold()

    def fold(self) -> None:
        """Let the video network fold its BatchNorms; for a model in evaluation mode for good."""
        video = self.encoder.video
        if video is not None and hasattr(video.network, "fold"):
            video.network.fold()

    def upgrade_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Called by fairseq on weights before it loads them strictly; see ``add_new_heads``."""
        super().upgrade_state_dict(state_dict)
        own = {k: v for k, v in self.state_dict().items() if k.startswith(PREFIX)}
        for name in add_new_heads(state_dict, own, self.heads_start_anew):
            logger.info("%s is new: the checkpoint does not have it", name)


def scale_learning_rate(module: nn.Module, scale: float) -> None:
    """Train ``module`` at ``scale`` times ``--lr``."""
    for parameter in module.parameters():
        # Read by `fairseq_patches.py`; fairseq carries this attribute over to fp32 copies.
        parameter.optim_overrides = {"optimizer": {"lr_scale": scale}}


def architectures() -> dict[str, type[VideoTranslateConfig]]:
    """What ``--arch`` may name, and the options that each has as its defaults."""
    return {
        name: config
        for name, config in MODEL_DATACLASS_REGISTRY.items()
        if config is not None and issubclass(config, VideoTranslateConfig)
    }


def architecture(name: str) -> VideoTranslateConfig:
    """Options of one architecture; raises UserError for one that there is none of."""
    known = architectures()
    if name not in known:
        raise UserError(f"--arch {name}: expected one of {', '.join(sorted(known))}")
    return known[name]()


def saved_config(options: Mapping[str, Any]) -> VideoTranslateConfig:
    """Options of a checkpoint's model; those that are newer than it are as they were then."""
    names = {option.name for option in fields(VideoTranslateConfig)}
    return VideoTranslateConfig(**{n: value for n, value in options.items() if n in names})


def transformer_dims(cfg: VideoTranslateConfig, vocab_size: int) -> T5Dims:
    """Sizes of the transformer; raises UserError where ``--t5-dims`` is not well formed."""
    named = T5_VARIANTS[str(cfg.t5_variant)][str(cfg.t5_size)]
    dims = dims_from_text(named, cfg.t5_dims)
    return replace(dims, vocab_size=vocab_size, dropout=cfg.dropout)


def _checked_network(cfg: VideoTranslateConfig) -> nn.Module:
    network = video_network(cfg.video_network)()
    freeze = str(cfg.freeze_video)
    check_options(network, cfg.video_network, freeze, cfg.checkpoint_video_stages)
    return network


def build_networks(
    t5: T5Dims, make_network: MakeNetwork, video_id: int, pooling: str, freeze: str
) -> tuple[MultimodalEncoder, T5Decoder]:
    """Encoder and decoder around one embedding table, with T5's initialization."""
    embed_tokens = nn.Embedding(t5.vocab_size, t5.d_model)
    video = VideoTokens(make_network(), t5.d_model, pooling, freeze)
    encoder = MultimodalEncoder(embed_tokens, video, t5, video_id)
    decoder = T5Decoder(t5, embed_tokens)
    init_t5_parameters(embed_tokens, encoder.transformer, decoder, t5)
    return encoder, decoder


@dataclass
class T5SmallConfig(VideoTranslateConfig):
    """t5-small and R(2+1)D-34 (the paper's Table 7 studies)."""

    t5_size: ChoiceEnum(tuple(T5_DIMS)) = "small"


@dataclass
class T5BaseConfig(VideoTranslateConfig):
    """t5-base and R(2+1)D-34."""

    t5_size: ChoiceEnum(tuple(T5_DIMS)) = "base"


@dataclass
class T5LargeConfig(VideoTranslateConfig):
    """t5-large and R(2+1)D-34 (the paper's main model)."""


@dataclass
class TinyConfig(VideoTranslateConfig):
    """Both networks tiny, for a laptop's CPU; trained from scratch, so with one learning rate."""

    t5_size: ChoiceEnum(tuple(T5_DIMS)) = "tiny"
    video_network: str = "tiny"
    dropout: float = 0.0
    video_lr_scale: float = 1.0


@register_model("video_translate_t5_small", dataclass=T5SmallConfig)
class VideoTranslateT5Small(VideoTranslateModel):
    """t5-small and R(2+1)D-34."""


@register_model("video_translate_t5_base", dataclass=T5BaseConfig)
class VideoTranslateT5Base(VideoTranslateModel):
    """t5-base and R(2+1)D-34."""


@register_model("video_translate_t5_large", dataclass=T5LargeConfig)
class VideoTranslateT5Large(VideoTranslateModel):
    """t5-large and R(2+1)D-34."""


@register_model("video_translate_tiny", dataclass=TinyConfig)
class VideoTranslateTiny(VideoTranslateModel):
    """Both networks tiny."""
