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

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer
from torch.utils.data._utils import signal_handling

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# What a data worker that got the signal, too, lives on for; the trainer ends it before.
WORKER_GRACE_SECONDS = 60

_received: list[int] = []


def watch() -> None:
    """Let the signals be noted in this process, which trains."""
    if threading.current_thread() is not threading.main_thread():
        return
    trainer = os.getpid()

    def note(number: int, frame) -> None:
        if os.getpid() == trainer:
            _received.append(number)

    for number in SIGNALS:
        signal.signal(number, note)
    signal_handling._set_worker_signal_handlers = outlive_the_trainers_signal


def outlive_the_trainers_signal() -> None:
    """In a data worker, when it starts: a cluster sends SIGTERM to every process of a job.

    Without its workers the trainer could not come to the next boundary. They end with it, and after
    WORKER_GRACE_SECONDS in any case.
    """
    _set_worker_signal_handlers()
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(WORKER_GRACE_SECONDS))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def any_process_was_told(trainer: Trainer) -> bool:
    """Whether a signal came to any process of the run; all of them call it together."""
    if trainer.data_parallel_world_size == 1:
        return bool(_received)
    told = torch.tensor([float(bool(_received))], device=trainer.device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX, group=trainer.data_parallel_process_group)
    return bool(told.item())


def end_if_told(trainer: Trainer) -> None:
    """At an update boundary: save and exit if a signal came."""
    if not any_process_was_told(trainer):
        return
    name = signal.Signals(_received[0]).name if _received else "a signal to another process"
    checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, trainer.epoch_iterator, None)
    logger.warning(
        "%s: saved at update %d; the same command goes on from there (exit code %d)",
        *(name, trainer.get_num_updates(), EXIT_INTERRUPTED),
    )
    sys.exit(EXIT_INTERRUPTED)


def init(self: Trainer, *args, **kwargs) -> None:
    """``Trainer.__init__`` that watches for the signals from now on."""
    _init(self, *args, **kwargs)
    watch()


def get_train_iterator(self: Trainer, *args, **kwargs):
    """``Trainer.get_train_iterator`` that keeps the iterator, whose place is saved."""
    self.epoch_iterator = _get_train_iterator(self, *args, **kwargs)
    return self.epoch_iterator


def cumulative_training_time(self: Trainer) -> float:
    """``Trainer.cumulative_training_time``, which fairseq asks for first after every update."""
    if not self.is_saving:
        end_if_told(self)
    return _cumulative_training_time(self)


def state_dict(self: Trainer) -> dict:
    """``Trainer.state_dict``, which asks for the time, too, on one process alone."""
    self.is_saving = True
    try:
        return _state_dict(self)
    finally:
        self.is_saving = False


def valid_step(self: Trainer, *args, **kwargs):
    """``Trainer.valid_step``: a validation may take longer than a cluster waits."""
    end_if_told(self)
    return _valid_step(self, *args, **kwargs)


_set_worker_signal_handlers = signal_handling._set_worker_signal_handlers
_init = Trainer.__init__
_get_train_iterator = Trainer.get_train_iterator
_cumulative_training_time = Trainer.cumulative_training_time
_state_dict = Trainer.state_dict
_valid_step = Trainer.valid_step


def install() -> None:
    """Put it in place; calling it again changes nothing."""
    Trainer.__init__ = init
    Trainer.get_train_iterator = get_train_iterator
    Trainer.cumulative_training_time = cumulative_training_time
    Trainer.state_dict = state_dict
    Trainer.valid_step = valid_step
    Trainer.is_saving = False
