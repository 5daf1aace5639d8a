"""``fairseq-train`` in fp16 on CPUs, whose second process has an infinite loss in its third batch.

    python tests/overflowing.py FOLDER [fairseq-train's arguments]

Each process writes FOLDER/rank<R>.json: updates, loss scale and a hash of its weights at the end.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion

OVERFLOW_AT = 3


def prepare(folder: Path) -> None:
    """Allow fp16 on CPUs, inject the infinity, and write down how it ends."""
    CPU_Accelerator.is_fp16_supported = lambda self: True
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # fairseq's own handling of overflow
    forward, train_step = VideoTranslateCriterion.forward, Trainer.train_step
    batches = 0

    def overflowing(self, model, sample, reduce=True):
        nonlocal batches
        batches += 1
        loss, size, log = forward(self, model, sample, reduce)
        if batches == OVERFLOW_AT and dist.get_rank() == 1:
            loss = loss * float("inf")
        return loss, size, log

    def observed(self, *args, **kwargs):
        output = train_step(self, *args, **kwargs)
        digest = hashlib.sha256()
        for parameter in self.get_model().parameters():
            digest.update(parameter.detach().float().numpy().tobytes())
        result = {
            "updates": self.get_num_updates(),
            "loss_scale": self.optimizer.scaler.loss_scale,
            "weights": digest.hexdigest(),
        }
        if self.stage == 3:  # each process has its own part
            del result["weights"]
        (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(result))
        return output

    VideoTranslateCriterion.forward = overflowing
    Trainer.train_step = observed


if __name__ == "__main__":
    prepare(Path(sys.argv.pop(1)))
    cli_main()
