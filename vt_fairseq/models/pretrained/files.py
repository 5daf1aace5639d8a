"""Files of named tensors, told apart by their first bytes and read without running their code.

These are safetensors, torch's zip and legacy files, and pickles of numpy arrays (Caffe2). Every
failure is a UserError of one line that names the file.
"""

import hashlib
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray, numeric
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vt_fairseq.errors import UserError
from vt_fairseq.files import untrusted_files
from vt_fairseq.files.bounded_files import MAX_OBJECT, parse_json, read_file

Tensors = dict[str, torch.Tensor]

# The first bytes of a zip file; the pickled number of ten bytes in a file of torch before 1.6.
ZIP = b"PK\x03\x04"
TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
GIT_LFS = b"version https://git-lfs"
PICKLES = (b"\x80", b"(d", b"}")  # a dict in protocols 2 and newer, 0 and 1
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# In the metadata of a safetensors file.
CHECKSUM = "sha256"
FROM_BUFFER = numeric._frombuffer  # type: ignore[attr-defined]  # private, yet pickles name it
# All that a pickle of numpy arrays names, none of which does more than make arrays. The names of
# numpy 1 and 2 differ, and Python 2's strings arrive as text that is encoded again.
ARRAY_GLOBALS: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
for _core in ("numpy.core", "numpy._core"):
    ARRAY_GLOBALS[f"{_core}.multiarray", "_reconstruct"] = multiarray._reconstruct
    ARRAY_GLOBALS[f"{_core}.multiarray", "scalar"] = multiarray.scalar
    ARRAY_GLOBALS[f"{_core}.numeric", "_frombuffer"] = FROM_BUFFER


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers, text, numbers and numpy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Callable:
        """Called for everything that a pickle wants to import."""
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) not in ARRAY_GLOBALS:
            raise pickle.UnpicklingError(
                f"it wants to import {module}.{name}, and only numpy arrays are allowed"
            )
        return ARRAY_GLOBALS[module, name]


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes as {encoding}, expected latin1")
    return text.encode(encoding)


def read_tensors(path: Path) -> Any:
    """What the file holds: tensors by name, but of torch's files anything in plain types.

    Tensors of safetensors and torch's zip files stay on disk until they are used.
    Raises UserError for a file that is missing, truncated, of no known kind, or hostile.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected a file of weights")
    if not path.is_file():
        raise UserError(f"no file {path}")
    with open(path, "rb") as file:
        head = file.read(32)
    if head.startswith(GIT_LFS):
        raise UserError(f"{path} names a file that was not downloaded: git lfs pull fetches it")
    read = _reader(head)
    if read is None:
        raise UserError(
            f"{path} holds no tensors: expected a safetensors, torch or Caffe2 file, found one "
            f"that starts with {head[:8]!r}"
        )
    try:
        with torch.serialization.safe_globals(untrusted_files.checkpoint_types()):
            return read(path)
    except UserError:
        raise
    except Exception as error:
        # Damaged files fail in many ways: zip, pickle, struct, memory ...
        raise UserError(
            f"{path} is damaged or not what it seems: {untrusted_files.reason(path, error)}"
        ) from error


def weights_in(folder: Path) -> Path:
    """The file of weights, or the list of its parts, in a Hugging Face folder."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder} has no weights: expected one of {', '.join(WEIGHT_FILES)}")


def weight_files(weights: Path) -> tuple[Path, ...]:
    """The files that hold the tensors: ``weights``, or the parts that an ``.index.json`` lists."""
    if not weights.name.endswith(".index.json"):
        return (weights,)
    parts = tuple(weights.parent / name for name in sorted(set(_listed(weights).values())))
    for file in parts:
        if file.parent != weights.parent:
            raise UserError(f"{weights} lists {file.name}, which is not beside it")
    return parts


def files_at(path: Path) -> list[Path]:
    """The files of weights at ``path``: itself, those in a folder, or all of an unknown folder."""
    if path.is_file():
        return [path]
    known = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    return list(weight_files(known[0])) if known else sorted(filter(Path.is_file, path.iterdir()))


def read_weights(path: Path) -> Tensors:
    """The tensors of a file, of the parts that an ``.index.json`` lists, or of a folder of these.

    Raises UserError where files are missing, damaged, hostile or do not belong together.
    """
    weights = weights_in(path) if path.is_dir() else path
    if not weights.name.endswith(".index.json"):
        return only_tensors(read_tensors(weights), weights)
    listed = _listed(weights)
    tensors: Tensors = {}
    for file in weight_files(weights):
        here = {name for name, part in listed.items() if part == file.name}
        part = only_tensors(read_tensors(file), file)
        if part.keys() != here:
            raise UserError(
                f"{file} does not hold the tensors that {weights.name} says: "
                f"{len(here)} expected, {len(part)} found, {len(here & part.keys())} in both"
            )
        tensors |= part
    return tensors


def _listed(index: Path) -> dict[str, str]:
    """The parts of tensors by name."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
        raise UserError(f"{index} has no weight_map from tensors to files")
    return listed


def only_tensors(content: Any, path: Path) -> Tensors:
    """``content`` of a file; raises UserError where it is not plain, finite tensors alone."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected tensors by name, found {type(content).__name__}")
    for name, tensor in content.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
        if not (isinstance(name, str) and plain) or tensor.is_quantized:
            kind = type(tensor).__name__
            raise UserError(f"{path}: expected a plain tensor under {name!r:.80}, found {kind}")
    refuse_not_finite(content, path)
    return content


def refuse_not_finite(tensors: Tensors, path: Path | str) -> None:
    """Raise UserError where a tensor holds NaN or infinity: nothing that it computes has a meaning.

    Reads each tensor once.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise UserError(
                f"{path}: {name} has values that are not finite (NaN or infinity), so the model "
                "computes nothing; take a checkpoint from before that, or another file"
            )


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are numbers; without a copy, as ``isfinite`` would make one."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.dtype.itemsize == 1:  # fp8, which torch compares no values of
        tensor = tensor.float()
    return all(map(math.isfinite, (value.item() for value in tensor.aminmax())))


def _reader(head: bytes) -> Callable[[Path], Any] | None:
    if head.startswith(ZIP):
        return _read_zip
    if TORCH_LEGACY in head:
        return partial(untrusted_files.load_plain, mmap=False)
    # Behind the length of the header, which may begin like a pickle.
    if head[5:9] == b"\0\0\0{":
        return _read_safetensors
    if head.startswith(PICKLES):
        return _read_pickle
    return None


def _read_zip(path: Path) -> Any:
    if (reason := untrusted_files.damage(path)) is not None:
        raise UserError(f"{path} is damaged or not what it seems: {reason}")
    return untrusted_files.load_plain(path)


def _read_safetensors(path: Path) -> Tensors:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_OBJECT:
        raise UserError(f"{path} has a header of {length:,} bytes, at most {MAX_OBJECT:,} are read")
    tensors = load_file(path)
    with safe_open(path, "pt") as opened:
        written = (opened.metadata() or {}).get(CHECKSUM)
    if written is not None and written != checksum(tensors):
        raise UserError(f"{path} is damaged: its tensors are not those that were written")
    return tensors


def write_tensors(tensors: Tensors, path: Path) -> None:
    """A safetensors file that also Hugging Face's libraries read, with a checksum for ours."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt", CHECKSUM: checksum(tensors)})


def checksum(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of contiguous tensors, in hexadecimal."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _read_pickle(path: Path) -> Any:
    with open(path, "rb") as file:
        return ArrayUnpickler(file, encoding="latin1").load()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises UserError for a missing file or another content."""
    try:
        content = parse_json(read_file(path, MAX_OBJECT).decode())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
