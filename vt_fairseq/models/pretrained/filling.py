"""Filling a model from files, strictly in both directions."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.files import Tensors

SHOWN = 3  # names in an error line


def fill(
    wanted: Tensors,
    source: Tensors,
    names: Mapping[str, str],
    dropped: re.Pattern[str],
    origin: Path,
) -> tuple[Tensors, list[str]]:
    """Tensors of the model, fp32 where they are floating point, and the names that were dropped.

    Args:
        wanted: the model's tensors that the file has to fill, on any device, for their shapes.
        source: the file's tensors.
        names: for each of ``wanted`` its name in the file.
        dropped: names in the file that are left out on purpose.
        origin: the file, for messages.

    Raises:
        UserError: a tensor of either side has no counterpart or another shape, or holds numbers
            that are not finite.
    """
    left_over = source.keys() - set(names.values())
    unknown = {name for name in left_over if not dropped.fullmatch(name)}
    missing = {names[name] for name in wanted} - source.keys()
    if missing or unknown:
        parts = [f"has no {_some(missing)}"] * bool(missing)
        parts += [f"has {_some(unknown)} that the model has no place for"] * bool(unknown)
        raise UserError(f"{origin} {' and '.join(parts)}")
    filled = {}
    for name, own in wanted.items():
        tensor = source[names[name]]
        _check(tensor, own, names[name], origin)
        filled[name] = tensor.float() if tensor.is_floating_point() else tensor
    return filled, sorted(left_over)


def _check(tensor: torch.Tensor, own: torch.Tensor, name: str, origin: Path) -> None:
    if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
        raise UserError(
            f"{origin}: {name} is {tuple(tensor.shape)} {tensor.dtype}, "
            f"the model's {tuple(own.shape)} {own.dtype}"
        )
    extremes = torch.stack(tensor.aminmax())  # NaN where there is one; needs no memory
    if not extremes.isfinite().all():
        raise UserError(f"{origin}: {name} holds numbers that are not finite")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
