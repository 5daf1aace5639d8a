"""Checkpoints of others never run; a refused one says why, and how whoever trusts it converts it.

A ``.pt`` file is a pickle, which can call anything that Python can. So it is read with
``weights_only=True`` always, and ``vt-init --trust-checkpoint`` is the only way round.
"""

import argparse
import importlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vt_fairseq.errors import UserError

logger = logging.getLogger(__name__)

# Older releases run code from hostile checkpoints even with weights_only=True
# (CVE-2025-32434, CVE-2026-24747).
MINIMUM_TORCH = (2, 10)
LONGEST_REASON = 400  # letters of a library's error
FORCED = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
# dtypes of the numbers that fairseq's meters and iterators keep.
NUMPY_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool")
PLAIN = (torch.Tensor, np.ndarray, np.generic, str, bytes, bool, int, float, type(None))


def checkpoint_types() -> list[Any]:
    """What ``torch.load(weights_only=True)`` must allow for fairseq's checkpoints; none runs code.

    These are ``argparse.Namespace`` (options of classic architectures) and numpy arrays and
    scalars (meters). Raises ImportError for torch before 2.10, which cannot be trusted with this.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < MINIMUM_TORCH:
        raise ImportError(
            f"vt_fairseq needs torch >= {'.'.join(map(str, MINIMUM_TORCH))} to load checkpoints "
            f"safely, found {torch.__version__}: pip install -U torch"
        )
    multiarray: Any = importlib.import_module("numpy._core.multiarray")  # without type hints
    return [
        argparse.Namespace,
        np.dtype,
        np.ndarray,
        multiarray._reconstruct,
        multiarray.scalar,
        # The names under which numpy 1 wrote them.
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        (multiarray.scalar, "numpy.core.multiarray.scalar"),
        *(type(np.dtype(name)) for name in NUMPY_DTYPES),
    ]


def refuse_forced_unpickling() -> None:
    """Raise UserError where the environment makes ``torch.load`` run code.

    It does so where no ``weights_only`` is given, as in fairseq and in DeepSpeed.
    """
    if os.environ.get(FORCED, "0").lower() not in ("", "0", "false", "n", "no"):
        raise UserError(
            f"the environment variable {FORCED} is set, by which checkpoints run code: unset it; "
            "vt-init --trust-checkpoint is the way for one whose maker you trust"
        )


def refuse_compressed(path: Path | str) -> None:
    """Raise RuntimeError for a zip file that would be larger in memory than it is on disk.

    torch compresses nothing, but reads what others have compressed: 1 MB can become 1 GB.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            if part.compress_type != zipfile.ZIP_STORED or part.file_size > part.compress_size:
                raise RuntimeError(f"its part {part.filename} is compressed, expected plain ones")


def load_plain(path: Path | str, mmap: bool = True) -> Any:
    """What a file of torch holds, read without running anything in it.

    Raises UserError where the environment would have it run, else what ``torch.load`` raises, and
    RuntimeError for a compressed file.
    """
    refuse_forced_unpickling()
    refuse_compressed(path)
    return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)


def damage(path: Path) -> str | None:
    """What is wrong with a file of torch, by the checksums in it; None if nothing is.

    It reads all of it. Files of torch before 1.6 and pickles have no checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception:  # damaged directories fail in many ways: zlib, struct, NotImplementedError
        return "it is cut off, damaged or no file of torch"
    return None if damaged is None else f"its part {damaged} is damaged"


def reason(path: Path | str, error: Exception) -> str:
    """Why a file of torch cannot be read, in one line; for one that would run code, the way out."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    named = re.search(r"GLOBAL ([\w.]*\w)", str(error))
    if named is None or not isinstance(error, pickle.UnpicklingError):
        line = next((line.strip() for line in lines if "Unsupported" in line), lines[0])
        return f"{line:.{LONGEST_REASON}}"  # libraries quote whatever the file has
    return (
        f"it would run {named[1]:.{LONGEST_REASON}}, so it is refused; the only way round, for a "
        f"file whose maker you trust, is vt-init --from-checkpoint {path} --trust-checkpoint "
        "--out SAFE.pt, which runs it once and writes a safe copy"
    )


def read_trusted(path: Path) -> Any:
    """What a torch file holds, in plain types; RUNS whatever code is in it.

    What has no plain form (functions, objects) is None instead, which is logged.
    Raises UserError for a file that is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    logger.warning("%s is trusted: whatever code is in it runs now", path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle that runs code fails in any way
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return plain(content, "")


def plain(value: Any, location: str) -> Any:
    """``value`` in types that ``weights_only=True`` reads, or None; ``location`` is for the log."""
    if isinstance(value, torch.nn.Parameter):
        return value.data
    if isinstance(value, Enum):  # before str, which some of them are, too
        return plain(value.value, location)
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, argparse.Namespace):
        return argparse.Namespace(**plain(vars(value), location))
    if isinstance(value, Mapping):
        return {plain(k, location): plain(v, f"{location}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(v, f"{location}[{i}]") for i, v in enumerate(value)]
    logger.warning("left out: %s, a %s", location or "everything", type(value).__qualname__)
    return None
