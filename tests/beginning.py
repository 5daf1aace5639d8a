"""``fairseq-train`` that writes down the fp32 weights that it begins with, by name.

    python tests/beginning.py FILE [fairseq-train's arguments]

FILE.PROCESS is torch's: {name: tensor} of the trained parameters before the first update. fp16 is
allowed on CPUs.
"""

import os
import sys

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.utils import safe_get_full_fp32_param
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

from vt_fairseq.training import trainer


def fp32_weights(made: Trainer) -> dict[str, torch.Tensor]:
    """All that the optimizer steps; every process has to ask."""
    names = {p: name for name, p in made.get_model().named_parameters() if p.requires_grad}
    if made.sharded:
        return {name: safe_get_full_fp32_param(p).clone() for p, name in names.items()}
    pairs = zip(made.optimizer.fp16_params, made.optimizer.fp32_params, strict=True)
    return {names[half]: copy.detach().clone() for half, copy in pairs}


def write_down(path: str) -> None:
    """Have the first update write ``path``."""
    train_step = Trainer.train_step

    def observed(self, *args, **kwargs):
        if not os.path.exists(path):
            torch.save(fp32_weights(self), path)
        return train_step(self, *args, **kwargs)

    Trainer.train_step = observed


if __name__ == "__main__":
    CPU_Accelerator.is_fp16_supported = lambda self: True
    trainer.refuse_fp16_on_a_cpu = lambda cfg, device: None
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # fairseq's own handling of overflow
    write_down(f"{sys.argv.pop(1)}.{os.environ.get('RANK', 0)}")
    cli_main()
