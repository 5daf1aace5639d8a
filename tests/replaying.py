"""What a CUDA graph does, done on a CPU: the operations of a function, again, on the same memory.

Python does not run again, so a number that it computed, a tensor that it made or a decision that it
took stays as it was in the recording.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Reading a value, a shape that depends on values, copying a new tensor of numbers to the device.
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "lift_fresh", "item"}
WAITING |= {"nonzero", "masked_select", "masked_scatter", "unique", "_unique2", "repeat_interleave"}


class Recorder(TorchDispatchMode):
    """The operations that run, with their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result

    @property
    def names(self) -> list[str]:
        """Of the operations."""
        return [function.overloadpacket.__name__ for function, *_ in self.calls]


class Replays:
    """In the place of ``CudaGraphs``: counts what it captures and launches.

    Attributes:
        captured: the names of the operations of each capture.
        launches: how often one was replayed.
    """

    def __init__(self) -> None:
        self.captured: list[list[str]] = []
        self.launches = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """Record ``run``."""
        run()  # to warm up
        with Recorder() as recorder:
            run()
        self.captured.append(recorder.names)
        calls = recorder.calls

        def replay() -> None:
            self.launches += 1
            for call in calls:
                again(*call)

        return replay


def again(function: Any, args: tuple, kwargs: dict, results: Any) -> None:
    """Run an operation into the memory of its first results; a view needs no launch."""
    given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
    writes = function._schema.is_mutable
    made = [x for x in listed(results) if isinstance(x, torch.Tensor) and storage(x) not in given]
    if not (made or writes):
        return
    new = listed(function(*args, **kwargs))
    for result, value in zip(listed(results), new, strict=True):
        if any(result is x for x in made):
            assert result.shape == value.shape, "the shape depends on values"
            result.copy_(value)


def storage(tensor: torch.Tensor) -> int:
    """Its address."""
    return tensor.untyped_storage().data_ptr()


def listed(results: Any) -> list:
    """The results of an operation as a list."""
    return list(results) if isinstance(results, (list, tuple)) else [results]
