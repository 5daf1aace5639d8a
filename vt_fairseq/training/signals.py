"""SIGTERM and SIGUSR1 (Slurm's warning) end a run at the next update boundary, saved.

All processes of a run agree on the boundary, also when only one of them got the signal. The exit
code is EXIT_INTERRUPTED; the same command goes on from there, and no finished update is lost. A
validation that was under way is not repeated.
"""

import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils

from vt_fairseq.data.data_workers import outlive_signals

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_received: list[int] = []


def watch() -> None:
    """Note the signals in this process, which trains."""
    if threading.current_thread() is not threading.main_thread():
        return
    trainer = os.getpid()
    outlive_signals()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() == trainer:
            _received.append(number)

    for number in SIGNALS:
        signal.signal(number, note)


def any_process_received(trainer: Any) -> bool:
    """Whether a signal came to any process of the run; all of them call it together."""
    if trainer.data_parallel_world_size == 1:
        return bool(_received)
    received = torch.tensor([float(bool(_received))], device=trainer.device)
    dist.all_reduce(received, op=dist.ReduceOp.MAX, group=trainer.data_parallel_process_group)
    return bool(received.item())


def end_if_received(trainer: Any) -> None:
    """At an update boundary, save and exit if a signal came."""
    if not any_process_received(trainer):
        return
    name = signal.Signals(_received[0]).name if _received else "a signal to another process"
    checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, trainer.epoch_iterator, None)
    logger.warning(
        "%s: saved at update %d; the same command goes on from there (exit code %d)",
        *(name, trainer.get_num_updates(), EXIT_INTERRUPTED),
    )
    sys.exit(EXIT_INTERRUPTED)
