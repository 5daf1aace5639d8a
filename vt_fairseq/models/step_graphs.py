"""Steps of generation and scoring that a GPU replays as one launch (CUDA graphs).

A step is captured together with the tensors that it reads and writes, and stays for the next batch
of the same sizes.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import nn

logger = logging.getLogger(__name__)

Run = Callable[[], None]
State = TypeVar("State")
# What is kept, each step with its tensors: those used last.
MOST_STEPS = 32
MOST_BYTES = 4 * 2**30
WARM_UP = 3  # runs before a capture, in which libraries allocate and choose


class CudaGraphs:
    """Captures functions without arguments whose tensors stay where they are, on ``device``."""

    def __init__(self, device: torch.device):
        self._device = device
        self._pool: Any = None  # of what is needed within a run alone: all share it

    def __call__(self, run: Run) -> Run:
        """A function that does what ``run`` does, by one launch; ``run`` has run then."""
        with torch.cuda.device(self._device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run()
            here.wait_stream(aside)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # A thread that pins the next batch's memory must not end the capture.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                run()
        return graph.replay


class StepGraphs:
    """Captured steps of a module and their states.

    Args:
        capture: takes a function, may run it, and returns what does the same.
    """

    def __init__(self, capture: Callable[[Run], Run]):
        self.works = True
        self._capture = capture
        self._kept: OrderedDict[Hashable, tuple[Any, Run]] = OrderedDict()
        self._weights: tuple[int, ...] = ()

    def begin(self, module: nn.Module) -> None:
        """Before a batch: forget what was captured of weights that have moved since."""
        weights = tuple(parameter.data_ptr() for parameter in module.parameters())
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights

    def of(self, key: Hashable, make: Callable[[], tuple[State, Run]]) -> tuple[State, Run]:
        """The state for ``key`` and its step; the state has to be begun anew.

        ``make`` gives a state and the function that is its step.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        state, run = make()
        if not self.works:
            return state, run
        try:
            replay = self._capture(run)
        except RuntimeError as error:  # torch's, of whatever cannot be captured
            self.works = False
            reason = " ".join(str(error).split())
            logger.warning("runs without CUDA graphs, which failed here: %.500s", reason)
            return state, run
        self._kept[key] = state, replay
        while len(self._kept) > 1 and self._is_too_much():
            self._kept.popitem(last=False)
        return state, replay

    def _is_too_much(self) -> bool:
        states = [state for state, _ in self._kept.values()]
        return len(states) > MOST_STEPS or sum(map(num_bytes, states)) > MOST_BYTES


def num_bytes(state: Any) -> int:
    """Of the tensors among the attributes, and theirs."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    return sum(map(num_bytes, vars(state).values())) if hasattr(state, "__dict__") else 0


def rounded_up(count: int) -> int:
    """A count of rows or tokens to be captured: 1, 2, 4, 8, or the next multiple of 8.

    Fewer sizes occur then, each of which is captured once.
    """
    return 1 << (count - 1).bit_length() if count <= 8 else -(-count // 8) * 8
