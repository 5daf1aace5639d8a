"""T5 as Hugging Face stores it: a folder with ``config.json`` and weights, or the weights alone.

Weights are ``model.safetensors``, ``pytorch_model.bin``, or either in parts that an ``.index.json``
lists.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.files import (
    Tensors,
    read_json,
    read_weights,
    weight_files,
    weights_in,
)
from vt_fairseq.models.t5 import T5Dims

CONFIG = "config.json"
# Our names to Hugging Face's, as (pattern, replacement), applied in this order.
_NAMES = (
    (r"^encoder\.transformer\.", r"encoder."),
    (r"^(?:encoder\.|decoder\.)?embed_tokens\.", r"shared."),
    (r"^decoder\.lm_head\.", r"lm_head."),
    (r"relative_bias\.", r"block.0.layer.0.SelfAttention.relative_attention_bias."),
    (r"final_norm\.", r"final_layer_norm."),
    (r"layers\.(\d+)\.self_attention\.", r"block.\1.layer.0.SelfAttention."),
    (r"layers\.(\d+)\.self_attention_norm\.", r"block.\1.layer.0.layer_norm."),
    (r"layers\.(\d+)\.cross_attention\.", r"block.\1.layer.1.EncDecAttention."),
    (r"layers\.(\d+)\.cross_attention_norm\.", r"block.\1.layer.1.layer_norm."),
    (r"^encoder\.layers\.(\d+)\.feed_forward\.", r"encoder.block.\1.layer.1.DenseReluDense."),
    (r"^encoder\.layers\.(\d+)\.feed_forward_norm\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^decoder\.layers\.(\d+)\.feed_forward\.", r"decoder.block.\1.layer.2.DenseReluDense."),
    (r"^decoder\.layers\.(\d+)\.feed_forward_norm\.", r"decoder.block.\1.layer.2.layer_norm."),
)
TABLE, OUTPUT = "shared.weight", "lm_head.weight"
# Other names of the embedding table in files, some of which hold it several times.
COPIES_OF_TABLE = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# The first checkpoints have a bias that T5 never uses and that transformers ignores.
UNUSED = re.compile(
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)
# T5Dims' names where config.json has others.
_CONFIG_NAMES = {
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "layer_norm_eps": "layer_norm_epsilon",
    "dropout": "dropout_rate",
}
# ``gated_gelu`` and ``silu_gate`` by what ``config.json`` calls them.
_ACTIVATIONS = {
    "relu": (False, False),
    "gated-gelu": (True, False),
    "gated-silu": (True, True),
}
KINDS = ("t5", "mt5")
"""``model_type`` of T5, T5 1.1, flan-t5 and UL2, and of mT5, which is a T5 1.1."""
# Relatives whose weights are none of ours, and why.
OTHER_KINDS = {
    "umt5": "each of its layers has relative positions of its own",
    "t5gemma": "its layers are Gemma's",
    "t5gemma2": "its layers are Gemma's",
    "longt5": "its encoder has local attention",
    "switch_transformers": "its feed-forward layers are mixtures of experts",
}


@dataclass(frozen=True)
class T5Weights:
    """A T5 that was read.

    Attributes:
        path: what the user named.
        files: those that the tensors come from.
        tensors: by Hugging Face's names; the embedding table only as ``shared.weight``.
        dims: sizes, from ``config.json`` where there is one and else from the tensors.
        has_config: whether ``dims`` has what tensors do not show, too.
        vocabulary: ``spiece.model`` beside the weights, or None.
    """

    path: Path
    files: tuple[Path, ...]
    tensors: Tensors
    dims: T5Dims
    has_config: bool
    vocabulary: Path | None


def in_transformer(name: str) -> bool:
    """Whether a tensor of our model belongs to the transformer, hence has one of T5's names."""
    return name.startswith(("encoder.", "decoder.")) and not name.startswith("encoder.video.")


def hf_key(name: str) -> str:
    """Hugging Face's name of a tensor of our transformer, encoder or decoder."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def read_t5(path: Path) -> T5Weights:
    """Read a folder or a file of weights; raises UserError if it is damaged or not a T5."""
    folder = path if path.is_dir() else path.parent
    weights = weights_in(path) if path.is_dir() else path
    files, tensors = weight_files(weights), read_weights(weights)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype.itemsize == 1:  # fp8 cannot be computed with
            tensors[name] = tensor.float()
    _merge_copies(tensors, weights)
    config, vocabulary = folder / CONFIG, folder / "spiece.model"
    if config.is_file():
        dims = dims_of_config(read_json(config), config)
        if not dims.tie_word_embeddings and TABLE in tensors:
            # transformers takes the embedding table then, too, but does not scale the output.
            tensors.setdefault(OUTPUT, tensors[TABLE])
        shown = _dims_of_tensors(tensors, weights)
        if differing := differences(shown, dims, but=ONLY_IN_CONFIG):
            raise UserError(f"{weights} has {differing}, which is what {config} says")
    elif path.is_dir():
        raise UserError(f"{path} has no {CONFIG}")
    else:
        dims = _dims_of_tensors(tensors, weights)
    return T5Weights(
        path=path,
        files=files,
        tensors=tensors,
        dims=dims,
        has_config=config.is_file(),
        vocabulary=vocabulary if vocabulary.is_file() else None,
    )


def _merge_copies(tensors: Tensors, origin: Path) -> None:
    """Keep the embedding table under one name; raise UserError for copies that differ."""
    for name in COPIES_OF_TABLE:
        if name not in tensors:
            continue
        copy = tensors.pop(name)
        if not torch.equal(tensors.setdefault(TABLE, copy), copy):
            raise UserError(f"{origin}: {name} differs from {TABLE}, which T5 shares with it")
    if OUTPUT in tensors and TABLE in tensors and torch.equal(tensors[OUTPUT], tensors[TABLE]):
        del tensors[OUTPUT]


def _dims_of_tensors(tensors: Tensors, origin: Path) -> T5Dims:
    attention = "encoder.block.0.layer.0.SelfAttention."
    dense = "encoder.block.0.layer.1.DenseReluDense."
    gated = f"{dense}wi_0.weight" in tensors
    try:
        vocab_size, d_model = tensors[TABLE].shape
        num_buckets, num_heads = tensors[f"{attention}relative_attention_bias.weight"].shape
        inner = tensors[f"{attention}q.weight"].shape[0]
        d_ff = tensors[f"{dense}wi_0.weight" if gated else f"{dense}wi.weight"].shape[0]
        d_kv = inner // num_heads
    except (KeyError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{origin} holds no T5: {' '.join(str(error).split())}") from error
    if not tensors[TABLE].is_floating_point():
        found = tensors[TABLE].dtype
        raise UserError(f"{origin}: {TABLE} is {found}, expected floating point numbers")
    return T5Dims(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_heads=num_heads,
        num_layers=_layers(tensors, "encoder"),
        num_decoder_layers=_layers(tensors, "decoder"),
        num_buckets=num_buckets,
        gated_gelu=gated,
        tie_word_embeddings=OUTPUT not in tensors,
    )


def _layers(names: Iterable[str], stack: str) -> int:
    numbers = (re.match(rf"{stack}\.block\.(\d+)\.", name) for name in names)
    return 1 + max((int(number[1]) for number in numbers if number), default=-1)


def dims_of_config(config: dict[str, Any], origin: Path) -> T5Dims:
    """Sizes as ``config.json`` has them; raises UserError where it is not T5's."""
    kind = config.get("model_type")
    if kind not in KINDS:
        why = f": {OTHER_KINDS[kind]}" if isinstance(kind, str) and kind in OTHER_KINDS else ""
        raise UserError(f"{origin}: expected model_type t5 or mt5, found {kind}{why}")
    if config.get("tokenizer_class") == "ByT5Tokenizer":
        raise UserError(f"{origin} is a ByT5, which reads bytes: expected a T5 with a spiece.model")
    activation = config.get("feed_forward_proj", "relu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise UserError(
            f"{origin}: feed_forward_proj {activation!r}, expected one of {list(_ACTIVATIONS)}"
        )
    # Newer versions of transformers always write true for the first; only the second says it.
    untied = False in (config.get("tie_word_embeddings"), config.get("scale_decoder_outputs"))
    untied = untied or kind == "mt5"  # whatever it says, its output is not scaled
    names = {field.name: _CONFIG_NAMES.get(field.name, field.name) for field in fields(T5Dims)}
    sizes = {ours: config[name] for ours, name in names.items() if config.get(name) is not None}
    if "num_layers" in sizes:
        sizes.setdefault("num_decoder_layers", sizes["num_layers"])
    gated, silu = _ACTIVATIONS[activation]
    sizes |= {"gated_gelu": gated, "silu_gate": silu, "tie_word_embeddings": not untied}
    for field in fields(T5Dims):
        if field.type is int and not isinstance(sizes.get(field.name, 1), int):
            raise UserError(f"{origin}: {field.name} is {sizes[field.name]!r}, no whole number")
        value = sizes.get(field.name, 0.5)
        if field.type is float and not (isinstance(value, int | float) and 0 <= value < 1):
            name = names[field.name]
            raise UserError(f"{origin}: {name} is {value!r}, expected a number from 0 to 1")
    try:
        return T5Dims(**sizes)
    except TypeError as error:
        raise UserError(f"{origin} lacks sizes: {error}") from error


def config_of_dims(dims: T5Dims) -> dict[str, Any]:
    """The ``config.json`` with which transformers' ``T5ForConditionalGeneration`` is this T5."""
    sizes = {_CONFIG_NAMES.get(name, name): value for name, value in asdict(dims).items()}
    activation = sizes.pop("gated_gelu"), sizes.pop("silu_gate")
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "feed_forward_proj": {flags: name for name, flags in _ACTIVATIONS.items()}[activation],
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        **sizes,
    }


# What a file of tensors does not show.
ONLY_IN_CONFIG = ("max_distance", "layer_norm_eps", "dropout", "silu_gate")


def differences(actual: T5Dims, expected: T5Dims, but: Iterable[str]) -> str:
    """One line of the sizes that differ, without those in ``but``; empty where there are none."""
    pairs = [(name, value, getattr(expected, name)) for name, value in asdict(actual).items()]
    return ", ".join(
        f"{name} {str(value).lower()} and not {str(other).lower()}"
        for name, value, other in pairs
        if name not in but and value != other
    )
