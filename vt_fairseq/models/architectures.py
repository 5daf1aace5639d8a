"""What ``--arch`` may name: the options of the model, their defaults, and the model made of them.

But for `checkpoint_config`, which reads them in files, the other modules know sizes and values.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import MODEL_DATACLASS_REGISTRY, register_model
from torch import nn

from vt_fairseq.errors import UserError, naming
from vt_fairseq.models.heads import ClassHeads
from vt_fairseq.models.r2plus1d import VIDEO_STAGES
from vt_fairseq.models.t5 import T5_DIMS, T5_VARIANTS, T5Decoder, T5Dims, init_t5_parameters
from vt_fairseq.models.video_backbones import UnknownNetwork, make_network, split_name
from vt_fairseq.models.video_translate import MultimodalEncoder, VideoTokens, VideoTranslateModel

logger = logging.getLogger(__name__)

# The options that decide which tensors a model has.
ARCHITECTURE_OPTIONS = ("t5_size", "t5_variant", "t5_dims", "video_network")
HEADS = "heads."  # what the names of their parameters start with
MAX_DISTANCE = 100_000  # of relative positions; each has an entry in a table
# Sizes that --t5-dims may name. The vocabulary's comes from the tokenizer, and the dropout has an
# option of its own.
DIMS_IN_TEXT = [f.name for f in fields(T5Dims) if f.name not in ("vocab_size", "dropout")]

if TYPE_CHECKING:
    T5Size = str
    T5Variant = str
    VideoPooling = str
    FreezeVideo = str
    HeadsOn = str
else:  # fairseq reads the choices off the type
    T5Size = ChoiceEnum(tuple(T5_DIMS))
    T5Variant = ChoiceEnum(tuple(T5_VARIANTS))
    VideoPooling = ChoiceEnum(("none", "temporal"))
    FreezeVideo = ChoiceEnum(("all", "all-but-last", "none"))
    HeadsOn = ChoiceEnum(("cls", "video"))


@dataclass
class VideoTranslateConfig(FairseqDataclass):
    """Options of every ``video_translate_*`` architecture."""

    t5_size: T5Size = field(default="large", metadata={"help": "size of the T5 encoder-decoder"})
    t5_variant: T5Variant = field(
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
        metadata={
            "help": "R(2+1)D of depth 34 or 18, small ones (tiny, 34-quarter), a ready-made one "
            "or your own; NAME:argument=value,... for those that take arguments"
        },
    )
    dropout: float = field(
        default=0.1, metadata={"help": "T5's dropout, in all the places where T5 has it"}
    )
    video_pooling: VideoPooling = field(
        default="none",
        metadata={"help": "one video token per 8 frames, or their mean as one token (Table 7b)"},
    )
    freeze_video: FreezeVideo = field(
        default="none",
        metadata={"help": "stages of the video network that are not trained (Table 7e)"},
    )
    freeze_text: bool = field(
        default=False,
        metadata={"help": "train the video network, its projection and heads alone, not T5"},
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
    heads_on: HeadsOn = field(
        default="cls",
        metadata={
            "help": "what the heads see: the encoder's state at [CLS], or the mean of the video "
            "tokens alone, without the transformer (the R(2+1)D baseline of Table 1)"
        },
    )
    head_lr_scale: float = field(
        default=100.0,
        metadata={"help": "learning rate of the heads relative to --lr (paper: 1e-3 to 1e-5)"},
    )
    checkpoint_activations: bool = field(
        default=False,
        metadata={"help": "activation checkpointing of T5's layers: less memory, more time"},
    )
    checkpoint_video_stages: int = field(
        default=0,
        metadata={
            "help": "activation checkpointing of the video network's first N of 4 stages; the "
            "first two hold most of the memory"
        },
    )


@dataclass
class T5SmallConfig(VideoTranslateConfig):
    """t5-small and R(2+1)D-34 (the paper's Table 7 studies)."""

    t5_size: T5Size = "small"


@dataclass
class T5BaseConfig(VideoTranslateConfig):
    """t5-base and R(2+1)D-34."""

    t5_size: T5Size = "base"


@dataclass
class T5LargeConfig(VideoTranslateConfig):
    """t5-large and R(2+1)D-34 (the paper's main model)."""


@dataclass
class TinyConfig(VideoTranslateConfig):
    """Both networks tiny, for a laptop's CPU; trained from scratch, so with one learning rate."""

    t5_size: T5Size = "tiny"
    video_network: str = "tiny"
    dropout: float = 0.0
    video_lr_scale: float = 1.0


@register_model("video_translate", dataclass=VideoTranslateConfig)
class VideoTranslateArchitecture(VideoTranslateModel):
    """``VideoTranslateModel`` as fairseq builds and loads it.

    Attributes:
        heads_start_anew: whether weights that are loaded may have other heads (fine-tuning).
    """

    heads_start_anew = False

    @classmethod
    def build_model(cls, cfg: VideoTranslateConfig, task: Any) -> "VideoTranslateArchitecture":
        """Called by fairseq; sizes of vocabulary and heads are the task's."""
        sizes = task.heads.sizes() if task.heads is not None else {}
        return build_model(cfg, task.tokenizer.table_size, task.tokenizer.video, sizes)

    def upgrade_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Called by fairseq on weights before it loads them strictly; heads may start anew.

        Raises UserError for heads that the model does not have, and for missing ones, unless
        ``heads_start_anew``: then they are left out, and added.
        """
        super().upgrade_state_dict(state_dict)
        own = self.state_dict()
        saved, wanted = _head_names(state_dict), _head_names(own)
        extra = saved - wanted
        if extra and not self.heads_start_anew:
            raise UserError(
                f"the checkpoint has heads that the model does not have: {', '.join(sorted(extra))}"
                f"; expected --heads {','.join(sorted(saved))}"
            )
        for name in sorted(state_dict):
            if _head_names([name]) & extra:
                del state_dict[name]
                logger.info("%s of the checkpoint is left out: the model has no such head", name)
        new = wanted - saved
        if new and not self.heads_start_anew:
            raise UserError(
                f"the checkpoint has no heads {', '.join(sorted(new))}: to start them from its "
                "other weights, give it as --finetune-from-model, or add --reset-optimizer"
            )
        for name in sorted(own):
            if _head_names([name]) & new:
                state_dict[name] = own[name]
                logger.info("%s is new: the checkpoint does not have it", name)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, **options: Any
    ) -> Any:
        """fairseq's; raises UserError of one line for weights that are not this model's."""
        try:
            return super().load_state_dict(state_dict, strict=strict, **options)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"the weights are those of another model: {reason:.300}") from error


def _head_names(names: Iterable[str]) -> set[str]:
    return {n.removeprefix(HEADS).split(".")[0] for n in names if n.startswith(HEADS)}


for _name, _config in (
    ("video_translate_t5_small", T5SmallConfig),
    ("video_translate_t5_base", T5BaseConfig),
    ("video_translate_t5_large", T5LargeConfig),
    ("video_translate_tiny", TinyConfig),
):
    # fairseq keeps the options on the class, so each architecture needs one of its own.
    register_model(_name, dataclass=_config)(type(_name, (VideoTranslateArchitecture,), {}))


def architecture(name: str) -> VideoTranslateConfig:
    """Options of one architecture at their defaults; raises UserError for an unknown name."""
    known = {
        known: config
        for known, config in MODEL_DATACLASS_REGISTRY.items()
        if config is not None and issubclass(config, VideoTranslateConfig)
    }
    if name not in known:
        raise UserError(f"--arch {name}: expected one of {', '.join(sorted(known))}")
    return known[name]()


def saved_config(options: Mapping[str, Any]) -> VideoTranslateConfig:
    """Options of a checkpoint's model; those that the checkpoint lacks have their defaults."""
    names = {option.name for option in fields(VideoTranslateConfig)}
    return VideoTranslateConfig(**{n: value for n, value in options.items() if n in names})


def refuse_other_model(filename: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise UserError naming the options in which a checkpoint's model is not the command's."""
    differing = [
        f"--{name.replace('_', '-')} {saved[name]} (the command: {wanted[name] or 'none'})"
        for name in ARCHITECTURE_OPTIONS
        if saved.get(name) is not None and str(saved[name]) != str(wanted.get(name))
    ]
    if differing:
        raise UserError(f"{filename} holds a model of {', '.join(differing)}")


def transformer_dims(cfg: VideoTranslateConfig, vocab_size: int) -> T5Dims:
    """Sizes of the transformer; raises UserError where ``--t5-dims`` is not well formed.

    Also where ``--dropout`` is no probability.
    """
    if not 0 <= cfg.dropout <= 1:
        raise UserError(f"--dropout: expected a probability, found {cfg.dropout}")
    named = T5_VARIANTS[str(cfg.t5_variant)][str(cfg.t5_size)]
    with naming("--t5-dims"):
        dims = dims_from_text(named, cfg.t5_dims)
    return replace(dims, vocab_size=vocab_size, dropout=cfg.dropout)


def dims_from_text(dims: T5Dims, text: str) -> T5Dims:
    """``dims`` changed as a text such as ``d_model=64,gated_gelu=true`` says.

    Raises UserError for an unknown name, or a value that is not of the name's type or positive.
    """
    changes: dict[str, Any] = {}
    for item in filter(None, text.replace(" ", "").split(",")):
        name, _, value = item.partition("=")
        if name not in DIMS_IN_TEXT:
            raise UserError(f"unknown T5 size {item!r}: expected {', '.join(DIMS_IN_TEXT)}")
        kind = type(getattr(dims, name))
        expected = "true or false" if kind is bool else f"a positive {kind.__name__}"
        try:
            changes[name] = {"true": True, "false": False}[value] if kind is bool else kind(value)
            if kind is not bool and not changes[name] > 0:
                raise ValueError
        except (KeyError, ValueError):
            raise UserError(f"T5 size {item!r}: expected {name}= and {expected}") from None
    changed = replace(dims, **changes)
    if not 4 <= changed.num_buckets < 2 * changed.max_distance <= 2 * MAX_DISTANCE:
        raise UserError(
            "expected num_buckets of 4 or more and a max_distance of more than half of it and at "
            f"most {MAX_DISTANCE:,}, found {changed.num_buckets} and {changed.max_distance}"
        )
    return changed


def dims_as_text(dims: T5Dims) -> str:
    """All sizes that ``dims_from_text`` reads."""
    return ",".join(f"{name}={str(getattr(dims, name)).lower()}" for name in DIMS_IN_TEXT)


@contextmanager
def naming_network() -> Iterator[None]:
    """Put the option before what is wrong with the name of a video network."""
    try:
        yield
    except UnknownNetwork as error:
        raise UserError(
            f"--video-network {error}; those of your own are known where --user-dir names the "
            "folder that registers them"
        ) from error
    except UserError as error:
        raise UserError(f"--video-network {error}") from error


def make_video_network(cfg: VideoTranslateConfig) -> Any:
    """The ``VideoNetwork`` of the options; raises UserError for one that it does not support."""
    name, freeze, stages = cfg.video_network, str(cfg.freeze_video), cfg.checkpoint_video_stages
    if not 0 <= stages <= VIDEO_STAGES:
        raise UserError(
            f"--checkpoint-video-stages {stages}: expected a number of stages from 0 to "
            f"{VIDEO_STAGES}"
        )
    with naming_network():
        network = make_network(name)
    name, _ = split_name(name)
    for option, attribute in (
        (f"--freeze-video {freeze}" if freeze != "none" else "", "freeze"),
        (f"--checkpoint-video-stages {stages}" if stages else "", "checkpoint_video_stages"),
    ):
        if option and not hasattr(network, attribute):
            raise UserError(f"{option}: the video network {name} has no attribute {attribute}")
    if freeze != "none":
        network.freeze(freeze)
    network.checkpoint_video_stages = stages
    return network


def build_model(
    cfg: VideoTranslateConfig,
    vocab_size: int,
    video_id: int,
    head_sizes: Mapping[str, int] | None = None,
) -> VideoTranslateArchitecture:
    """The model, its weights drawn from torch's default generator.

    Args:
        cfg: the options.
        vocab_size: rows of the embedding table.
        video_id: id of [VIDEO].
        head_sizes: number of outputs of each head by its name.

    Raises:
        UserError: an option is out of its range.
    """
    t5 = transformer_dims(cfg, vocab_size)
    embed_tokens = nn.Embedding(t5.vocab_size, t5.d_model)
    network = make_video_network(cfg)
    video = VideoTokens(network, t5.d_model, str(cfg.video_pooling))
    encoder = MultimodalEncoder(embed_tokens, video, t5, video_id)
    decoder = T5Decoder(t5, embed_tokens)
    init_t5_parameters(embed_tokens, encoder.transformer, decoder, t5)
    encoder.transformer.checkpoint_activations = cfg.checkpoint_activations
    decoder.checkpoint_activations = cfg.checkpoint_activations
    scale_learning_rate(network, cfg.video_lr_scale)
    if str(cfg.heads_on) == "video" and (not head_sizes or "answer" in head_sizes):
        raise UserError("--heads-on video: expected --heads with some of verb,noun,label")
    if not head_sizes:
        if cfg.freeze_text:
            freeze_text(encoder, decoder)
        return VideoTranslateArchitecture(encoder, decoder)
    heads = ClassHeads(head_sizes, t5.d_model)
    scale_learning_rate(heads, cfg.head_lr_scale)
    decoder.requires_grad_(False)
    encoder.video_only = str(cfg.heads_on) == "video"
    if encoder.video_only:
        encoder.transformer.requires_grad_(False)
    else:
        encoder.embed_tokens.requires_grad_(True)  # the decoder's as well
    if cfg.freeze_text:
        freeze_text(encoder, decoder)
    return VideoTranslateArchitecture(encoder, decoder, heads)


def freeze_text(encoder: MultimodalEncoder, decoder: T5Decoder) -> None:
    """Leave all of T5 as it is; its table, which both have, too."""
    for module in (encoder.embed_tokens, encoder.transformer, decoder):
        module.requires_grad_(False)


def scale_learning_rate(module: nn.Module, scale: float) -> None:
    """Train ``module`` at ``scale`` times the learning rate."""
    for parameter in module.parameters():
        # The optimizer's groups follow it; fairseq copies this attribute to fp32 parameters.
        overrides = {"optimizer": {"lr_scale": scale}}
        parameter.optim_overrides = overrides  # type: ignore[attr-defined]  # fairseq's name
