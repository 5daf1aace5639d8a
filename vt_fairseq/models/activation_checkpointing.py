"""Activation checkpointing: the backward pass computes a module again instead of storing it.

Checkpoints are reentrant, PyTorch's older kind: only those work under DeepSpeed's ZeRO-3, which
empties the parameters between the two passes.
"""

import threading
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class _ThreadState(threading.local):
    """One for each thread, because autograd runs a GPU's backward pass in a thread of its own."""

    second_pass = False


_state = _ThreadState()


def is_second_pass() -> bool:
    """Whether the backward pass makes this forward pass, which is then the second one."""
    return not torch.compiler.is_compiling() and _state.second_pass


def checkpointed(module: nn.Module, *inputs: Any) -> torch.Tensor:
    """``module(*inputs)``, of which only ``inputs`` are kept for the backward pass.

    Values and gradients are those of a plain call, dropout included. Where no input needs a
    gradient it is a plain call: in evaluation nothing is kept anyway, and a reentrant checkpoint
    would leave the module's own parameters without gradients.
    """
    needs_gradient = any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs)
    if not (torch.is_grad_enabled() and needs_gradient):
        return module(*inputs)
    return checkpoint(_run, module, *inputs, use_reentrant=True)


def _run(module: nn.Module, *inputs: Any) -> torch.Tensor:
    if torch.compiler.is_compiling():  # traced once, for both passes
        return module(*inputs)
    # A reentrant checkpoint runs the first pass without gradients, the second one with them.
    outer, _state.second_pass = _state.second_pass, torch.is_grad_enabled()
    try:
        return module(*inputs)
    finally:
        _state.second_pass = outer
