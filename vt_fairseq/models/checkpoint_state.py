"""What a checkpoint of fairseq holds, read without running anything in it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.files import read_tensors


def optimizer_history(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of the optimizer that made it; empty before the first update."""
    history = (state.get("optimizer_history") or [{}])[-1]
    return history if history.get("optimizer_name") else {}


def read_checkpoint(path: Path, vocabulary: Tokenizer | None = None) -> dict[str, Any]:
    """A checkpoint of ``fairseq-train``: ``cfg``, ``model``, ``task_state``, and what else it has.

    Tensors stay on disk until they are used.

    Args:
        path: the file.
        vocabulary: of a checkpoint that holds none; where it holds one, both must be equal.

    Raises:
        UserError: it is no checkpoint of fairseq, is damaged, or has another vocabulary.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or not {"cfg", "model", "task_state"} <= state.keys():
        raise UserError(f"{path} is no checkpoint of fairseq: expected cfg, model and task_state")
    if vocabulary is not None:
        given = vocabulary_state(vocabulary)
        if given["vocabulary_sha256"] != state["task_state"]["vocabulary_sha256"]:
            raise UserError(f"{vocabulary.origin} is not the vocabulary of {path}")
        state["task_state"] |= given
    return state


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
