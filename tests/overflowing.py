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
from tests.poisoned import poison


def prepare(folder: Path) -> None:
    """Allow fp16 on CPUs, and write down how it ends."""
    CPU_Accelerator.is_fp16_supported = lambda self: True
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # fairseq's own handling of overflow
    train_step = Trainer.train_step

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

    Trainer.train_step = observed


if __name__ == "__main__":
    prepare(Path(sys.argv.pop(1)))
    poison("loss", rank=1)
    cli_main()
