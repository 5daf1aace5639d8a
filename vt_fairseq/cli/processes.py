"""What torchrun tells each of its processes about the machine that it runs on."""

import os

from vt_fairseq.errors import UserError


def local_gpu() -> str | None:
    """The GPU of this process among those that torchrun started; None: the usual device."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def check_one_machine(processes: int) -> None:
    """Raise UserError where not all of them run on this machine."""
    if processes > int(os.environ.get("LOCAL_WORLD_SIZE", processes)):
        raise UserError("a library lies on one machine: give each machine a --shard K/N")
