"""Filling a model from files, strictly in both directions."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.files import Tensors, is_finite

SHOWN = 3  # names in an error line
NOTHING = re.compile(r"(?!)")


class Filled(NamedTuple):
    """What came of a video network's ``load_pretrained``.

    Attributes:
        dropped: names of tensors in the file that were left out.
        new: names of the network's own tensors that the file does not have.
    """

    dropped: list[str]
    new: list[str]


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
    check_names({names[name] for name in wanted} - source.keys(), left_over, dropped, origin)
    filled = {}
    for name, own in wanted.items():
        tensor = source[names[name]]
        _check(tensor, own, names[name], origin)
        filled[name] = tensor.float() if tensor.is_floating_point() else tensor
    return filled, sorted(left_over)


def fill_module(
    module: nn.Module, source: Tensors, dropped: re.Pattern[str] = NOTHING, origin: Path = Path()
) -> list[str]:
    """Load ``source``, by the module's own names, into it; the names that were dropped.

    Raises UserError as ``fill`` does.
    """
    wanted = module.state_dict()
    filled, left_out = fill(wanted, source, {name: name for name in wanted}, dropped, origin)
    module.load_state_dict(filled)
    return left_out


def check_names(
    missing: set[str], left_over: set[str], dropped: re.Pattern[str], origin: Path
) -> None:
    """Raise UserError for missing names, and for those left over that are not ``dropped``."""
    unknown = {name for name in left_over if not dropped.fullmatch(name)}
    if missing or unknown:
        parts = [f"has no {_some(missing)}"] * bool(missing)
        parts += [f"has {_some(unknown)} that the model has no place for"] * bool(unknown)
        raise UserError(f"{origin} {' and '.join(parts)}")


def _check(tensor: torch.Tensor, own: torch.Tensor, name: str, origin: Path) -> None:
    if tensor.shape != own.shape or tensor.is_floating_point() != own.is_floating_point():
        raise UserError(
            f"{origin}: {name} is {tuple(tensor.shape)} {tensor.dtype}, "
            f"the model's {tuple(own.shape)} {own.dtype}"
        )
    if not is_finite(tensor):
        raise UserError(f"{origin}: {name} holds numbers that are not finite")


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
