"""The transformer of a model as a Hugging Face T5 folder, which transformers loads as it is."""

from pathlib import Path
from typing import Any

from vt_fairseq.models.pretrained.exported import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    new_folder,
    saved_tokenizer,
    write_json,
    write_tensors,
)
from vt_fairseq.models.pretrained.hf_tokenizer import tokenizer_config, tokenizer_json
from vt_fairseq.models.pretrained.t5_weights import config_of_dims, hf_key, in_transformer
from vt_fairseq.models.video_translate import saved_config, transformer_dims


def write_t5(state: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint's transformer as a new ``folder``, with its tokenizer.

    The embedding table keeps the rows of our own tokens. Text alone gives the model's logits; the
    video network has no place there. Raises UserError where ``folder`` exists and holds something.
    """
    tokenizer = saved_tokenizer(state["task_state"])
    tensors = {hf_key(n): t for n, t in state["model"].items() if in_transformer(n)}
    dims = transformer_dims(saved_config(state["cfg"]["model"]), len(tensors["shared.weight"]))
    max_length = int(state["cfg"]["task"]["max_source_tokens"])
    with new_folder(folder) as partial:
        write_tensors(tensors, partial / WEIGHTS)
        write_json(config_of_dims(dims), partial / CONFIG)
        write_json(tokenizer_json(tokenizer), partial / "tokenizer.json")
        write_json(tokenizer_config(tokenizer, max_length), partial / "tokenizer_config.json")
        (partial / VOCABULARY).write_bytes(tokenizer.model_proto)
