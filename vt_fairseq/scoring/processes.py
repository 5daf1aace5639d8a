"""One process or, under torchrun, several that share the rows."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

# One process may have much more left to do than the others, who wait for it.
LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """This process's number ``rank`` among ``count``, and its place ``local`` on its machine."""

    rank: int
    count: int
    local: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.rank == 0

    def from_first(self, value: Any) -> Any:
        """The first process's ``value`` (picklable); all wait for it."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone."""
    found = Processes(
        *(int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    )
    if found.count == 1:
        yield found
        return
    # Only small objects are exchanged, so this does for GPUs, too.
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield found
    finally:
        dist.destroy_process_group()
