"""A model as a folder that can be shared: ``model.safetensors``, ``config.json``, ``spiece.model``.

It holds what a checkpoint of fairseq holds, but for the optimizer, pickles, and paths of the
machine that it was made on.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.files.atomic_files import write_json
from vt_fairseq.models.checkpoint_config import (
    LOCAL_OPTIONS,
    TASK_AND_MODEL,
    check_task_state,
    checked_config,
    described,
)
from vt_fairseq.models.checkpoint_state import (
    check_sizes,
    read_checkpoint,
    saved_tokenizer,
    vocabulary_state,
)
from vt_fairseq.models.pretrained.files import (
    CHECKSUM,
    Tensors,
    only_tensors,
    read_json,
    read_tensors,
    write_tensors,
)
from vt_fairseq.version import __version__

FORMAT = 1
WEIGHTS, CONFIG, VOCABULARY = "model.safetensors", "config.json", "spiece.model"
# Encoder and decoder share one embedding table, which a file holds once.
SHARED = {"decoder.embed_tokens.weight": "encoder.embed_tokens.weight"}


def write_exported(state: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint's ``state`` (``cfg``, ``model``, ``task_state``) into ``folder``.

    Raises UserError where the checkpoint has no vocabulary.
    """
    tokenizer = saved_tokenizer(state["task_state"])
    cfg = {part: state["cfg"][part] for part in ("model", "task")}
    config = {
        "format": FORMAT,
        "vt_fairseq": __version__,
        "cfg": {**cfg, "task": {**cfg["task"], **LOCAL_OPTIONS}},
        "shared": {k: v for k, v in SHARED.items() if k in state["model"]},
        "vocabulary_sha256": state["task_state"]["vocabulary_sha256"],
        "classes": state["task_state"].get("classes", {}),
    }
    write_tensors(_without_copies(state["model"]), folder / WEIGHTS)
    (folder / VOCABULARY).write_bytes(tokenizer.model_proto)
    write_json(folder / CONFIG, {**config, CHECKSUM: config_checksum(config)})


def read_exported(folder: Path) -> dict[str, Any]:
    """What ``write_exported`` wrote, as in a checkpoint: ``cfg``, ``model``, ``task_state``.

    Raises UserError where something is missing or damaged, files do not belong together, or a
    weight is not a finite number.
    """
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT or "cfg" not in config:
        raise UserError(
            f"{folder / CONFIG} describes no exported model: expected format {FORMAT}, "
            f"found {described(config.get('format'))}"
        )
    written = config.pop(CHECKSUM, None)
    if written is not None and written != config_checksum(config):
        raise UserError(
            f"{folder / CONFIG} is damaged or was changed: it has not what was written; where the "
            f"change is meant, remove the line {CHECKSUM!r}"
        )
    cfg = checked_config(config["cfg"], folder / CONFIG)
    tokenizer = Tokenizer.from_file(folder / VOCABULARY)
    task_state = vocabulary_state(tokenizer)
    if task_state["vocabulary_sha256"] != config.get("vocabulary_sha256"):
        raise UserError(f"{folder / VOCABULARY} is not the vocabulary that the model came with")
    task_state["classes"] = config.get("classes", {})
    check_task_state(task_state, folder / CONFIG)
    tensors = only_tensors(read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    shared = config.get("shared")
    if not isinstance(shared, dict) or any(SHARED.get(k) != v for k, v in shared.items()):
        raise UserError(f"{folder / CONFIG}: shared: expected some of {SHARED}")
    for copy, original in shared.items():
        if original not in tensors:
            raise UserError(f"{folder / WEIGHTS} has no tensor {original}")
        tensors[copy] = tensors[original]
    check_sizes(cfg["model"], tensors, tokenizer.table_size, folder / CONFIG)
    return {"cfg": cfg, "model": tensors, "task_state": task_state}


def read_model(
    path: Path,
    vocabulary: str | os.PathLike[str] | None = None,
    parts: Sequence[str] = TASK_AND_MODEL,
) -> dict[str, Any]:
    """``cfg``, ``model`` and ``task_state`` of a checkpoint or an exported folder.

    Tensors stay on disk until they are used. Raises UserError where it is missing, damaged, none of
    this task, or would run code, and where the vocabulary is not the model's.

    Args:
        path: the file or the folder.
        vocabulary: the spiece.model of a checkpoint that holds none.
        parts: of ``cfg`` that something is made of; a folder has no criterion but our default.
    """
    if path.is_dir():
        state = read_exported(path)
        state["cfg"].setdefault("criterion", {"_name": "video_translate"})
        return state
    if path.is_file():
        return read_checkpoint(path, Tokenizer.from_file(vocabulary) if vocabulary else None, parts)
    raise UserError(f"no checkpoint at {path}")


def is_model(path: Path) -> bool:
    """Whether ``path`` is a checkpoint or an exported folder of a whole model."""
    if path.is_dir():
        return (path / CONFIG).is_file() and "vt_fairseq" in read_json(path / CONFIG)
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    try:
        content = read_tensors(path)
    except UserError:  # what else it is, the network that takes it knows, or says what is wrong
        return False
    return isinstance(content, dict) and {"cfg", "model", "task_state"} <= content.keys()


def config_checksum(config: dict[str, Any]) -> str:
    """SHA-256 of the entries of ``config.json``, in hexadecimal."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _without_copies(tensors: Tensors) -> Tensors:
    for copy, original in SHARED.items():
        if copy in tensors and not torch.equal(tensors[copy], tensors[original]):
            raise UserError(f"{copy} differs from {original}, expected a copy of it")
    return {name: tensor for name, tensor in tensors.items() if name not in SHARED}
