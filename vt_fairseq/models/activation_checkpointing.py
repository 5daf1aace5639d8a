"""Activation checkpointing: computing a module again in the backward pass instead of keeping it.

Reentrant checkpoints (PyTorch's older kind), because those are the ones that work under DeepSpeed's
ZeRO-3, which empties the parameters between the two passes.
"""

import threading

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class _Thread(threading.local):
    """Each thread's own, because autograd runs a GPU's backward pass in a thread of its own."""

    recomputing = False


_thread = _Thread()


def is_recomputing() -> bool:
    """Whether this forward pass is the second one, made by the backward pass."""
    return _thread.recomputing


def recomputed(module: nn.Module, *inputs: torch.Tensor | None) -> torch.Tensor:
    """``module(*inputs)``, of which only ``inputs`` are kept for the backward pass.

    Values and gradients are those of a plain call, dropout included. Where no input needs a
    gradient it is a plain call: in evaluation nothing is kept anyway, and a reentrant checkpoint
    would leave the module's own parameters without gradients.
    """
    needs_gradient = any(x is not None and x.requires_grad for x in inputs)
    if not (torch.is_grad_enabled() and needs_gradient):
        return module(*inputs)
    return checkpoint(_run, module, *inputs, use_reentrant=True)


def _run(module: nn.Module, *inputs: torch.Tensor | None) -> torch.Tensor:
    # A reentrant checkpoint runs the first pass without gradients, the second one with them.
    outer, _thread.recomputing = _thread.recomputing, torch.is_grad_enabled()
    try:
        return module(*inputs)
    finally:
        _thread.recomputing = outer
