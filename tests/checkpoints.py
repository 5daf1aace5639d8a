"""Checkpoints made from a trained one, so that nothing has to be trained for a test."""

from collections.abc import Callable
from pathlib import Path

import torch

import vt_fairseq.plugin  # noqa: F401  (lets torch load a checkpoint's types)
from vt_fairseq.data.manifest import DataDirectory


def changed(source: Path, target: Path, change: Callable[[dict], None]) -> Path:
    """A copy of ``source`` whose loaded contents ``change`` has changed in place."""
    state = torch.load(source, map_location="cpu", weights_only=True)
    change(state)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, target)
    return target


def with_heads(source: Path, target: Path, data: Path, names: str) -> Path:
    """A copy with random linear heads for the classes of ``data``."""
    directory = DataDirectory.open(data)

    def add(state: dict) -> None:
        generator = torch.Generator().manual_seed(len(names))
        width = state["model"]["encoder.embed_tokens.weight"].size(1)
        classes = {
            name: [] if name == "answer" else directory.classes(name) for name in names.split(",")
        }
        for name, found in classes.items():
            size = len(found) or 1
            state["model"][f"heads.{name}.weight"] = torch.randn(size, width, generator=generator)
            if found:
                state["model"][f"heads.{name}.bias"] = torch.randn(size, generator=generator)
        state["cfg"]["model"]["heads"] = names
        state["cfg"]["task"]["actions"] = ""
        state["task_state"]["head_classes"] = classes

    return changed(source, target, add)
