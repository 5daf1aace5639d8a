"""R(2+1)D weights as they are published, under our names.

- torchvision's names, which are ours: the IG65M files of github.com/moabitcoin/ig65m-pytorch
  (R(2+1)D-34) and torchvision's ``r2plus1d_18``.
- Caffe2's: the files of github.com/facebookresearch/VMZ, a pickle whose ``blobs`` are numpy arrays
  of the same shapes, the running variance under ``_riv`` among them.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.files import Tensors, only_tensors, read_tensors
from vt_fairseq.models.pretrained.filling import fill
from vt_fairseq.models.r2plus1d import R2Plus1DDims

# The classifier of the pretraining task, in either layout.
CLASSIFIER = re.compile(r"fc\.(weight|bias)|last_out_L\d+_[wb]")
CAFFE2_EPS = 1e-3
OWN = "vt_fairseq"
# Our names of layers to Caffe2's: of the stem, and of the i-th block of all.
_CAFFE2_STEM = {
    "stem.0": "conv1_middle",
    "stem.1": "conv1_middle_spatbn_relu",
    "stem.3": "conv1",
    "stem.4": "conv1_spatbn_relu",
}
_CAFFE2_BLOCK = {
    **{
        ours: theirs
        for j in (1, 2)
        for ours, theirs in (
            (f"conv{j}.0.0", f"comp_{{i}}_conv_{j}_middle"),
            (f"conv{j}.0.1", f"comp_{{i}}_spatbn_{j}_middle"),
            (f"conv{j}.0.3", f"comp_{{i}}_conv_{j}"),
            (f"conv{j}.1", f"comp_{{i}}_spatbn_{j}"),
        )
    },
    "downsample.0": "shortcut_projection_{i}",
    "downsample.1": "shortcut_projection_{i}_spatbn",
}
_CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


@dataclass(frozen=True)
class VideoWeights:
    """An R(2+1)D that was read.

    Attributes:
        path: the file.
        layout: "torch" or "caffe2", or ``OWN``: a model of this project, whatever its network.
        tensors: by the names of that layout.
    """

    path: Path
    layout: str
    tensors: Tensors


def read_video(path: Path) -> VideoWeights:
    """Read a file of weights; raises UserError if it is damaged or not an R(2+1)D."""
    content = read_tensors(path)
    is_dict = isinstance(content, dict)
    if is_dict and isinstance(content.get("blobs"), dict):
        blobs = {name: _tensor(name, blob, path) for name, blob in content["blobs"].items()}
        return VideoWeights(path, "caffe2", only_tensors(blobs, path))
    if is_dict and "stem.0.weight" in content:
        return VideoWeights(path, "torch", only_tensors(content, path))
    keys = ", ".join(map(str, list(content)[:3])) if is_dict else type(content).__name__
    raise UserError(
        f"{path} holds no R(2+1)D: expected stem.0.weight and so on, or Caffe2's blobs, "
        f"found {keys or 'nothing'}"
    )


def _tensor(name: str, blob: Any, path: Path) -> torch.Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(blob))
    except TypeError as error:
        raise UserError(f"{path}: blob {name} is no array of numbers") from error


def fill_video(
    weights: VideoWeights, wanted: Tensors, dims: R2Plus1DDims
) -> tuple[Tensors, list[str]]:
    """The network's tensors by our names, and the names in the file that were left out.

    ``wanted`` are the network's own tensors, for their names and shapes. Counters of BatchNorm's
    batches, which nothing reads, may be missing in the file. Raises UserError where the file is
    another network's.
    """
    if weights.layout == "caffe2" and dims.bn_eps != CAFFE2_EPS:
        raise UserError(
            f"{weights.path} was trained with BatchNorm's epsilon {CAFFE2_EPS}, this network has "
            f"{dims.bn_eps}: of Caffe2's files only R(2+1)D-34 can be read"
        )
    to_theirs = _caffe2_name if weights.layout == "caffe2" else lambda name, blocks: name
    names = {name: to_theirs(name, dims.blocks) for name in wanted}
    optional = {n for n in wanted if n.endswith("num_batches_tracked")}
    wanted = {n: t for n, t in wanted.items() if n not in optional or names[n] in weights.tensors}
    if weights.layout == "torch":
        matches = (re.match(r"layer(\d)\.\d+\.", name) for name in weights.tensors)
        stages = Counter(stage for stage, _ in {(m[1], m[0]) for m in matches if m})
        blocks = tuple(stages[stage] for stage in sorted(stages))
        if blocks != dims.blocks:
            raise UserError(
                f"{weights.path} is an R(2+1)D of {blocks} blocks, expected {dims.blocks}"
            )
    return fill(wanted, weights.tensors, names, CLASSIFIER, weights.path)


def _caffe2_name(name: str, blocks: tuple[int, ...]) -> str:
    module, _, tensor = name.rpartition(".")
    if module in _CAFFE2_STEM:
        prefix, is_norm = _CAFFE2_STEM[module], module in ("stem.1", "stem.4")
    else:
        stage, block, rest = module.split(".", 2)
        i = sum(blocks[: int(stage.removeprefix("layer")) - 1]) + int(block)
        prefix = _CAFFE2_BLOCK[rest].format(i=i)
        is_norm = "spatbn" in prefix
    return f"{prefix}_{_CAFFE2_NORM.get(tensor, tensor) if is_norm else 'w'}"
