"""The transformer of a model as a Hugging Face T5 folder, which transformers loads as it is."""

from pathlib import Path
from typing import Any

from vt_fairseq.data.tokenizer import NUM_SENTINELS, SPECIAL_TOKENS
from vt_fairseq.files.atomic_files import write_json
from vt_fairseq.models.architectures import saved_config, transformer_dims
from vt_fairseq.models.checkpoint_state import saved_tokenizer
from vt_fairseq.models.pretrained.exported import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    write_tensors,
)
from vt_fairseq.models.pretrained.t5_weights import config_of_dims, hf_key, in_transformer


def write_t5(state: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint's transformer as a new ``folder``, with its tokenizer.

    The embedding table keeps the rows of our own tokens. For text alone it gives the model's
    logits; it has no video network.
    """
    tokenizer = saved_tokenizer(state["task_state"])
    tensors = {hf_key(n): t for n, t in state["model"].items() if in_transformer(n)}
    dims = transformer_dims(saved_config(state["cfg"]["model"]), len(tensors["shared.weight"]))
    max_length = int(state["cfg"]["task"]["max_source_tokens"])
    folder.mkdir()
    write_tensors(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, config_of_dims(dims))
    write_json(folder / "tokenizer_config.json", tokenizer_config(max_length))
    (folder / VOCABULARY).write_bytes(tokenizer.model_proto)


def tokenizer_config(max_length: int) -> dict[str, Any]:
    """``tokenizer_config.json`` for a ``spiece.model``: our tokens follow T5's sentinels."""
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(NUM_SENTINELS))]
    return {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": NUM_SENTINELS,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": [*sentinels, *SPECIAL_TOKENS],
        "model_max_length": max_length,
    }
