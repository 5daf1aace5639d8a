"""``fairseq-train`` that also writes each update's loss and gradient norm, not rounded, to a file.

    python tests/recording.py FILE [fairseq-train's arguments]

Only the first process writes. Lines are JSON: update, loss per token (nats), norm, time and CPU
time of this process (s), elements of the parameters.
"""

import json
import sys
import time

import torch.distributed as dist
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main


def record(path: str) -> None:
    """Make every trainer write its updates to ``path``."""
    train_step, clip, reduce = (
        Trainer.train_step,
        Trainer.clip_grad_norm,
        Trainer._reduce_and_log_stats,
    )
    seen = {}

    def clip_grad_norm(self, clip_norm):
        seen["norm"] = clip(self, clip_norm)
        return seen["norm"]

    def reduce_and_log(self, logging_outputs, sample_size, grad_norm=None):
        total = sum(float(log["loss"]) for log in logging_outputs)
        seen["loss"] = total / sum(float(log["ntokens"]) for log in logging_outputs)
        return reduce(self, logging_outputs, sample_size, grad_norm)

    def recorded_step(self, samples, *args, **kwargs):
        before = self.get_num_updates()
        output = train_step(self, samples, *args, **kwargs)
        if self.get_num_updates() > before and (not dist.is_initialized() or dist.get_rank() == 0):
            line = {"update": before + 1, "loss": seen["loss"], "norm": float(seen["norm"])}
            line |= {"time": time.time(), "cpu": time.process_time()}
            # ZeRO-3 leaves the parameters themselves empty between uses.
            line["elements"] = sum(p.numel() for p in self.get_model().parameters())
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        return output

    Trainer.train_step = recorded_step
    Trainer.clip_grad_norm = clip_grad_norm
    Trainer._reduce_and_log_stats = reduce_and_log


if __name__ == "__main__":
    record(sys.argv.pop(1))
    cli_main()
