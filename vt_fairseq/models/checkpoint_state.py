"""What a checkpoint of fairseq holds, read without running anything in it."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError, naming
from vt_fairseq.models.architectures import naming_network, saved_config, transformer_dims
from vt_fairseq.models.checkpoint_config import (
    TASK_AND_MODEL,
    check_task_state,
    checked_config,
)
from vt_fairseq.models.pretrained.files import Tensors, only_tensors, read_tensors
from vt_fairseq.models.t5 import T5Dims
from vt_fairseq.models.video_backbones import network_on_meta, split_name


def check_state(
    state: Mapping[str, Any], path: Path, parts: Sequence[str] = TASK_AND_MODEL
) -> dict[str, dict[str, Any]]:
    """``parts`` of a checkpoint's ``cfg``, as ``checked_config`` makes them.

    Raises UserError for other options, another ``task_state`` than the task writes, or ``args``:
    the options of classic architectures, which fairseq would take in place of ``cfg``.
    """
    if state.get("args") is not None:
        raise UserError(f"{path} has options of a classic architecture (args), expected none")
    check_task_state(state.get("task_state") or {}, path)
    return checked_config(state.get("cfg"), path, parts)


def optimizer_history(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the optimizer that made it; empty before the first update."""
    history = (state.get("optimizer_history") or [{}])[-1]
    return history if history.get("optimizer_name") else {}


def read_checkpoint(
    path: Path, vocabulary: Tokenizer | None = None, parts: Sequence[str] = TASK_AND_MODEL
) -> dict[str, Any]:
    """A checkpoint of ``fairseq-train``: ``cfg``, ``model``, ``task_state``, and what else it has.

    Tensors stay on disk; the system forgets them as it likes after the look at their values.

    Args:
        path: the file.
        vocabulary: of a checkpoint that holds none; where it holds one, both must be equal.
        parts: of ``cfg`` that something is made of; the others are plain data.

    Raises:
        UserError: it is no checkpoint of fairseq, is damaged, has another vocabulary, has a weight
            that is not a finite number, or names what is not of this project.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or not {"cfg", "model", "task_state"} <= state.keys():
        raise UserError(f"{path} is no checkpoint of fairseq: expected cfg, model and task_state")
    checked = check_state(state, path, parts)
    state["cfg"] = {**state["cfg"], **checked}
    saved = state["task_state"] = state["task_state"] or {}
    if vocabulary is not None:
        given = vocabulary_state(vocabulary)
        if given["vocabulary_sha256"] != saved.get("vocabulary_sha256"):
            raise UserError(f"{vocabulary.origin} is not the vocabulary of {path}")
        saved |= given
    rows = saved_tokenizer(saved).table_size if saved.get("vocabulary") is not None else 1
    check_sizes(state["cfg"]["model"], only_tensors(state["model"], path), rows, path)
    return state


def check_sizes(
    options: Mapping[str, Any], tensors: Tensors, rows: int, origin: Path | str
) -> None:
    """Raise UserError where the options describe a larger model than a file holds.

    So that no options make a model that does not fit into memory: it is checked before one is made.

    Args:
        options: of the model.
        tensors: of the file.
        rows: of the embedding table.
        origin: the file, for messages.
    """
    with naming(f"{origin}: cfg.model"):
        dims = transformer_dims(saved_config(options), rows)
        stored = {t.untyped_storage().data_ptr(): t for t in tensors.values()}
        held = sum(t.untyped_storage().nbytes() // t.element_size() for t in stored.values())
        if dims.num_layers + dims.num_decoder_layers > len(tensors):
            raise UserError(f"more layers than the {len(tensors)} tensors of the file")
        needed = matrix_elements(dims)
        if needed > held:
            raise UserError(f"a transformer of {needed:,} numbers, the file has {held:,}")
        network = saved_config(options).video_network
        if split_name(network)[1]:  # without arguments its sizes are those of trusted code
            with naming_network():
                needed = sum(p.numel() for p in network_on_meta(network).parameters())
            if needed > held:
                raise UserError(f"{network} has {needed:,} numbers, the file {held:,}")


def matrix_elements(dims: T5Dims) -> int:
    """Elements of a transformer's matrices without the output table: nearly all there are.

    Arithmetic: making modules, on torch's meta device too, takes seconds.
    """
    attention = 4 * dims.d_model * dims.num_heads * dims.d_kv
    feed_forward = (3 if dims.gated_gelu else 2) * dims.d_model * dims.d_ff
    encoder = dims.num_layers * (attention + feed_forward)
    decoder = dims.num_decoder_layers * (2 * attention + feed_forward)
    biases = 2 * dims.num_buckets * dims.num_heads
    return dims.vocab_size * dims.d_model + encoder + decoder + biases


def vocabulary_state(tokenizer: Tokenizer) -> dict[str, Any]:
    """A part of ``task_state``: the sentencepiece model (uint8, one per byte) and its hash."""
    proto = tokenizer.model_proto
    return {
        "vocabulary_sha256": hashlib.sha256(proto).hexdigest(),
        "vocabulary": torch.frombuffer(bytearray(proto), dtype=torch.uint8),
    }


def saved_tokenizer(task_state: Mapping[str, Any]) -> Tokenizer:
    """The reverse of ``vocabulary_state``; raises UserError for a checkpoint without vocabulary."""
    vocabulary = task_state.get("vocabulary")
    if vocabulary is None:
        raise UserError(
            "the checkpoint holds no vocabulary: name its spiece.model as the vocabulary"
        )
    return Tokenizer(vocabulary.numpy().tobytes(), "the checkpoint's vocabulary")
