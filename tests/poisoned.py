"""``fairseq-train`` in which one process has an infinite loss, or no memory, in its third batch.

python tests/poisoned.py loss|memory RANK [fairseq-train's arguments]
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from fairseq_cli.train import cli_main

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion

BATCH = 3


def poison(what: str, rank: int) -> None:
    """Let the criterion fail so in the process ``rank``."""
    forward = VideoTranslateCriterion.forward
    batches = 0

    def poisoned(self, model, sample, reduce=True):
        nonlocal batches
        batches += 1
        here = rank == (dist.get_rank() if dist.is_initialized() else 0)
        if batches != BATCH or not here:
            return forward(self, model, sample, reduce)
        if what == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss, size, log = forward(self, model, sample, reduce)
        return loss * float("inf"), size, log

    VideoTranslateCriterion.forward = poisoned


if __name__ == "__main__":
    poison(sys.argv.pop(1), int(sys.argv.pop(1)))
    cli_main()
