"""Files of weights in the layouts in which T5 and R(2+1)D are published, with random contents."""

import io
import os
import pickle
import struct
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from vt_fairseq.data.tokenizer import train_vocabulary
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D

SMALL_T5 = {
    "vocab_size": 192,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "dropout_rate": 0.0,
}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SENTENCES = ["a red circle grows.", "the blue square slides to the left", "what falls? a ring"]


def vocabulary(pieces: int = 60, texts: list[str] = SENTENCES) -> bytes:
    """A sentencepiece model with T5's ids, whose table has 192 rows as SMALL_T5's has."""
    return train_vocabulary(texts * 5, pieces)


def hf_t5(**changes) -> T5ForConditionalGeneration:
    """A T5 of transformers in which every part matters (its own initialization is nearly inert)."""
    torch.manual_seed(7)
    hf = T5ForConditionalGeneration(T5Config(**{**SMALL_T5, **changes})).eval()
    if not hf.config.scale_decoder_outputs:
        hf.lm_head.weight = nn.Parameter(torch.randn_like(hf.shared.weight) * 0.1)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if "relative_attention_bias" in name:
                parameter.normal_()
            elif "layer_norm" in name:
                parameter.normal_(1.0, 0.2)
    return hf


def write_t5(folder: Path, spiece: bytes | None = None, **changes) -> T5ForConditionalGeneration:
    """A Hugging Face folder; returns what is in it."""
    hf = hf_t5(**changes)
    hf.save_pretrained(folder)
    if spiece:
        (folder / "spiece.model").write_bytes(spiece)
    return hf


def network(size: str, num_classes: int = 5) -> R2Plus1D:
    """An R(2+1)D whose every tensor, BatchNorm's statistics included, has values of its own."""
    torch.manual_seed(8)
    made = R2Plus1D(R2PLUS1D_DIMS[size], num_classes).eval()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(3)
            elif tensor.dim() == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return made


def caffe2_blobs(net: R2Plus1D) -> dict:
    """The network's tensors as numpy arrays under Caffe2's names, module by module."""
    blobs = {}

    def conv(module: nn.Conv3d, prefix: str) -> None:
        blobs[f"{prefix}_w"] = module.weight.detach().numpy()

    def norm(module: nn.BatchNorm3d, prefix: str) -> None:
        blobs[f"{prefix}_s"] = module.weight.detach().numpy()
        blobs[f"{prefix}_b"] = module.bias.detach().numpy()
        blobs[f"{prefix}_rm"] = module.running_mean.numpy()
        blobs[f"{prefix}_riv"] = module.running_var.numpy()

    conv(net.stem[0], "conv1_middle")
    norm(net.stem[1], "conv1_middle_spatbn_relu")
    conv(net.stem[3], "conv1")
    norm(net.stem[4], "conv1_spatbn_relu")
    blocks = [
        block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage
    ]
    for i, block in enumerate(blocks):
        for j, half in ((1, block.conv1), (2, block.conv2)):
            conv(half[0][0], f"comp_{i}_conv_{j}_middle")
            norm(half[0][1], f"comp_{i}_spatbn_{j}_middle")
            conv(half[0][3], f"comp_{i}_conv_{j}")
            norm(half[1], f"comp_{i}_spatbn_{j}")
        if block.downsample is not None:
            conv(block.downsample[0], f"shortcut_projection_{i}")
            norm(block.downsample[1], f"shortcut_projection_{i}_spatbn")
    classes = net.fc.out_features
    blobs[f"last_out_L{classes}_w"] = net.fc.weight.detach().numpy()
    blobs[f"last_out_L{classes}_b"] = net.fc.bias.detach().numpy()
    return blobs


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2's one kind of string, and numpy's names of those days."""

    dispatch: ClassVar[dict] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[str] = save_string
    dispatch[bytes] = save_string


def python2_pickle(content) -> bytes:
    """``content`` as Python 2 and numpy 1 pickled it (protocol 2)."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


class Hostile:
    """Unpickling it makes the file ``marker``."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)
