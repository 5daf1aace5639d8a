"""A checkpoint to start training from: T5 and a video network, every tensor accounted for."""

from pathlib import Path
from typing import Any

import torch

from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import (
    VideoTranslateConfig,
    build_model,
    make_video_network,
    transformer_dims,
)
from vt_fairseq.models.checkpoint_state import vocabulary_state
from vt_fairseq.models.pretrained.files import Tensors, files_at, sha256
from vt_fairseq.models.pretrained.filling import NOTHING, Filled, fill
from vt_fairseq.models.pretrained.t5_weights import (
    ONLY_IN_CONFIG,
    OUTPUT,
    TABLE,
    UNUSED,
    T5Weights,
    differences,
    hf_key,
    in_transformer,
)
from vt_fairseq.models.pretrained.video_weights import OWN, VideoWeights, fill_video
from vt_fairseq.models.pretrained.vocabulary_rows import check_vocabulary, input_rows, output_rows
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS
from vt_fairseq.models.video_translate import VIDEO_TOKEN_SCALE, VideoTokens
from vt_fairseq.version import __version__

VIDEO, NETWORK = "encoder.video.", "encoder.video.network."
PROJECTION = f"{VIDEO}projection."


def size_differences(t5: T5Weights, config: VideoTranslateConfig) -> str:
    """One line of the sizes in which a T5 is not the architecture's; empty where there are none."""
    unknown = ("dropout",) if t5.has_config else ONLY_IN_CONFIG
    return differences(t5.dims, transformer_dims(config, t5.dims.vocab_size), but=unknown)


def initial_checkpoint(
    config: VideoTranslateConfig,
    t5: T5Weights,
    video: VideoWeights | Path | None,
    tokenizer: Tokenizer,
    seed: int,
    cfg: dict[str, Any],
) -> dict[str, Any]:
    """A checkpoint as ``fairseq-train`` writes it, before the first update.

    Its entry ``pretrained`` says where its tensors come from.

    Args:
        config: the architecture, without ``size_differences`` from the T5.
        t5: the transformer's weights.
        video: the video network's: those read of an R(2+1)D or of a model of this project, or the
            path for its ``load_pretrained``; None for one that starts from random weights.
        tokenizer: the vocabulary.
        seed: what random weights follow from.
        cfg: fairseq's whole configuration, in plain values; ``config`` is its part ``model``.

    Raises:
        UserError: tensors are not this architecture's, or not the vocabulary's.
    """
    check_vocabulary(t5.dims.vocab_size, tokenizer, t5.path)
    with torch.device("meta"):
        model = build_model(config, tokenizer.table_size, tokenizer.video)
    wanted = model.state_dict()
    transformer, dropped, rows = _fill_t5(wanted, t5, tokenizer)
    path = video if isinstance(video, Path) else None
    source = video.path if isinstance(video, VideoWeights) else path
    fresh, filled = _fresh_video(config, seed, path)
    if isinstance(video, VideoWeights):
        network, dropped_video = _fill_network(wanted, video, config)
    else:
        new = {NETWORK + name for name in filled.new}
        network = {
            n: t for n, t in fresh.items() if path and n.startswith(NETWORK) and n not in new
        }
        dropped_video = filled.dropped
    fresh = {n: t for n, t in fresh.items() if n not in network}
    fresh |= _projection_to_words(fresh[f"{PROJECTION}weight"], t5.tensors[TABLE].float())
    vocabulary = vocabulary_state(tokenizer)
    report = {
        "vt_fairseq": __version__,
        "sources": [
            *(_described("t5", file) for file in t5.files),
            *(_described("video", file) for file in ([] if source is None else files_at(source))),
            {
                "part": "vocabulary",
                "file": "spiece.model",
                "bytes": len(tokenizer.model_proto),
                "sha256": vocabulary["vocabulary_sha256"],
            },
        ],
        "used": {"t5": _sizes(transformer), "video": _sizes(network)},
        "dropped": dropped + dropped_video,
        "new": {name: tensor.numel() for name, tensor in fresh.items()},
        "new_rows": rows,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return {
        "args": None,
        "cfg": cfg,
        "model": {name: (transformer | network | fresh)[name] for name in wanted},
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": None,
                "optimizer_name": None,  # none yet; `optimizer_history` reads it
                "lr_scheduler_state": {},
                "num_updates": 0,
            }
        ],
        "task_state": vocabulary,
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": None,
        },
        "last_optimizer_state": None,
        "pretrained": report,
    }


def _fill_t5(
    wanted: Tensors, t5: T5Weights, tokenizer: Tokenizer
) -> tuple[Tensors, list[str], dict[str, str]]:
    wanted = {name: tensor for name, tensor in wanted.items() if in_transformer(name)}
    tensors = dict(t5.tensors)
    tensors[TABLE], rows = input_rows(tensors[TABLE], tokenizer)
    if OUTPUT in tensors:
        tensors[OUTPUT] = output_rows(tensors[OUTPUT], tokenizer)
    names = {name: hf_key(name) for name in wanted}
    filled, dropped = fill(wanted, tensors, names, UNUSED, t5.path)
    return filled, dropped, rows


def _fill_network(
    wanted: Tensors, video: VideoWeights, config: VideoTranslateConfig
) -> tuple[Tensors, list[str]]:
    own = {
        name.removeprefix(NETWORK): tensor
        for name, tensor in wanted.items()
        if name.startswith(NETWORK)
    }
    if video.layout == OWN:
        filled, dropped = fill(own, video.tensors, {n: n for n in own}, NOTHING, video.path)
    else:
        filled, dropped = fill_video(video, own, R2PLUS1D_DIMS[config.video_network])
    return {NETWORK + name: tensor for name, tensor in filled.items()}, dropped


def _fresh_video(
    config: VideoTranslateConfig, seed: int, path: Path | None
) -> tuple[Tensors, Filled]:
    """The video's part of the model: new, but for what its network reads at ``path``."""
    dims = transformer_dims(config, vocab_size=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        video = VideoTokens(make_video_network(config), dims.d_model, str(config.video_pooling))
    filled = None
    if path is not None:
        if not hasattr(video.network, "load_pretrained"):
            raise UserError(
                f"{path}: the video network {config.video_network} has no method "
                "load_pretrained(path): expected one, or random weights"
            )
        filled = video.network.load_pretrained(path)
        if not isinstance(filled, Filled | None):
            raise UserError(
                f"load_pretrained of the video network {config.video_network} returned a "
                f"{type(filled).__name__}: expected a Filled, or None"
            )
    filled = filled or Filled([], [])
    state = {VIDEO + name: tensor for name, tensor in video.state_dict().items()}
    if unknown := sorted(name for name in filled.new if NETWORK + name not in state):
        raise UserError(
            f"load_pretrained of the video network {config.video_network} says that {unknown[0]} "
            "is new: expected names of the network's own tensors"
        )
    return state, filled


def _projection_to_words(weight: torch.Tensor, table: torch.Tensor) -> Tensors:
    """The new projection, whose tokens get the mean and the spread of the words' embeddings.

    That is so, channel by channel, for features of size 1, which networks have about. A trained T5
    takes longer to notice tokens that are much smaller than its words; docs/finetuning.md has
    numbers.
    """
    size_of_words = table.std(dim=0, correction=0).unsqueeze(1)
    return {
        f"{PROJECTION}weight": weight / VIDEO_TOKEN_SCALE * size_of_words,
        f"{PROJECTION}bias": table.mean(dim=0),
    }


def _described(part: str, file: Path) -> dict[str, Any]:
    return {"part": part, "file": file.name, "bytes": file.stat().st_size, "sha256": sha256(file)}


def _sizes(tensors: Tensors) -> dict[str, int]:
    """How many tensors and numbers; the embedding table, which has two names, counts once."""
    once = {id(tensor): tensor for tensor in tensors.values()}
    return {"tensors": len(once), "numbers": sum(t.numel() for t in once.values())}
