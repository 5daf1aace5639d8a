"""Counts the memory that one forward and backward pass needs, byte for byte, on any device.

On the meta device, whose tensors have sizes and no contents, this takes seconds for any model.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TrainingMemory(NamedTuple):
    """Bytes of one training step, besides parameters, buffers and the parameters' gradients.

    Attributes:
        activations: the most that is kept for the backward pass at one time. With checkpointed
            modules that moment lies in the backward pass.
        work_space: what all tensors alive need beyond ``activations`` at the worst moment:
            intermediate results and the gradients of activations.
        with_gradients: the most that all tensors alive need at one time, the parameters' gradients
            among them, which the backward pass makes one by one.
    """

    activations: int
    work_space: int
    with_gradients: int

    @property
    def peak(self) -> int:
        """Without the parameters' gradients."""
        return self.activations + self.work_space


def training_memory(
    parameters: Iterable[torch.nn.Parameter],
    buffers: Iterable[torch.Tensor],
    loss: Callable[[], torch.Tensor],
) -> TrainingMemory:
    """Run ``loss()``, which makes its own batch, and its backward pass; leaves no gradients.

    Attention takes PyTorch's plain implementation, the same on every device. The fused ones of a
    GPU keep less, which counts for sources of hundreds of tokens.
    """
    parameters = list(parameters)
    own = [tensor.untyped_storage() for tensor in (*parameters, *buffers)]
    saved, alive = _Saved(own), _Alive(own)
    hooks = [
        parameter.register_post_accumulate_grad_hook(alive.forget_gradient)
        for parameter in parameters
        if parameter.requires_grad
    ]
    try:
        # The backward pass runs checkpointed modules again, hence is under the hooks too.
        with sdpa_kernel(SDPBackend.MATH), saved.hooks(), alive:
            loss().backward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in parameters:
            parameter.grad = None
    work_space = max(alive.bytes.peak - saved.bytes.peak, 0)
    return TrainingMemory(saved.bytes.peak, work_space, alive.all.peak)


class _Peak:
    """A number of bytes that rises and falls, and the highest it has been."""

    def __init__(self):
        self.now = self.peak = 0

    def add(self, number: int) -> None:
        self.now += number
        self.peak = max(self.peak, self.now)


def _key(storage: torch.UntypedStorage) -> int:
    # The address of the storage itself: on the meta device its contents have none.
    return storage._cdata


class _Handle:
    """What autograd holds in place of a saved tensor, and drops when it needs it no more."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor


class _Saved:
    """Storages that autograd keeps, each counted once however many tensors share it."""

    def __init__(self, own: list[torch.UntypedStorage]):
        self.bytes = _Peak()
        self._own = {_key(storage) for storage in own}
        self._users: dict[int, int] = {}

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda handle: handle.tensor)

    def _pack(self, tensor: torch.Tensor) -> _Handle:
        # Detached: a saved output would otherwise hold the graph that holds it.
        handle = _Handle(tensor.detach())
        storage = tensor.untyped_storage()
        key, size = _key(storage), storage.nbytes()
        if key not in self._own:
            if key not in self._users:
                self.bytes.add(size)
            self._users[key] = self._users.get(key, 0) + 1
            weakref.finalize(handle, self._release, key, size)
        return handle

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.bytes.add(-size)


class _Alive(TorchDispatchMode):
    """Storages that operations have made and that are still alive.

    Attributes:
        bytes: of those, the parameters' gradients left out.
        all: of all.
    """

    def __init__(self, own: list[torch.UntypedStorage]):
        super().__init__()
        self.bytes, self.all = _Peak(), _Peak()
        self._own = {_key(storage) for storage in own}
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = _key(storage)
        if key not in self._own and key not in self._sizes:
            self._sizes[key] = size = storage.nbytes()
            self.bytes.add(size)
            self.all.add(size)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.bytes.add(-self._sizes.pop(key))
        self.all.add(-size)

    def forget_gradient(self, parameter: torch.nn.Parameter) -> None:
        """Called whenever a parameter's gradient has been made or added to."""
        assert parameter.grad is not None  # or this would not be called
        key = _key(parameter.grad.untyped_storage())
        if self._sizes.get(key):
            self.bytes.add(-self._sizes[key])
            self._sizes[key] = 0
