"""What torchrun tells each of its processes about the machine that it runs on."""

import argparse
import os
import re

from vt_fairseq.errors import UserError

SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")
Share = tuple[int, int]  # which of how many, from 0


def shard(text: str) -> Share:
    """ "2/8" -> (1, 8), for an option."""
    match = SHARD.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, found {text!r}")
    return int(match[1]) - 1, int(match[2])


def own_share(shard: Share, rank: int, count: int) -> Share:
    """That of one of ``count`` processes which have a shard together."""
    return shard[0] + rank * shard[1], shard[1] * count


def launched() -> Share:
    """Which of torchrun's processes this is; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def local_gpu() -> str | None:
    """The GPU of this process among those that torchrun started; None: the usual device."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def check_one_machine(processes: int) -> None:
    """Raise UserError where not all of them run on this machine."""
    if processes > int(os.environ.get("LOCAL_WORLD_SIZE", processes)):
        raise UserError("a library lies on one machine: give each machine a --shard K/N")
