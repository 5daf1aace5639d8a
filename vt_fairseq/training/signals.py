"""SIGTERM, SIGUSR1 (Slurm's warning) and Ctrl-C end a run at the next update boundary, saved.

All processes of a run agree on the boundary, also when only one of them got the signal. The exit
code is EXIT_INTERRUPTED; the same command goes on from there, and no finished update is lost. What
fairseq does at a boundary, a validation among it, is done by the run that goes on. A run that is
done ends as such, without its comparison with blank video.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any, NoReturn

import fairseq_cli.train
import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from torch.multiprocessing import ProcessExitedException

from vt_fairseq.data.data_workers import is_data_worker, outlive_signals
from vt_fairseq.training.checkpoints import keep_last_epoch

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
EXIT_KILLED = 128  # plus the signal, as shells have it
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# A terminal and a launcher may both pass on one Ctrl-C.
SAME_KEY_SECONDS = 1.0
# Names in a checkpoint's ``extra_state``.
INTERRUPTED, PATIENCE = "interrupted", "patience"

_received: list[int] = []
_interrupts: list[float] = []  # when SIGINT came, in seconds


def watch(trainer: Any) -> None:
    """Note the signals in this process, which trains."""
    if threading.current_thread() is not threading.main_thread():
        return
    process = os.getpid()
    outlive_signals()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            return
        _received.append(number)
        if number == signal.SIGINT:
            note_interrupt(trainer.is_done)

    for number in SIGNALS:
        signal.signal(number, note)


def note_interrupt(is_done: bool) -> None:
    """Say what the first Ctrl-C does; end the process at the second."""
    now = time.monotonic()
    if not _interrupts:
        # No logger: the signal may have come inside one.
        saving = b"saving after this update; once more ends at once, unsaved"
        os.write(2, b"\nCtrl-C: " + (b"ending" if is_done else saving) + b"\n")
    elif now - _interrupts[0] > SAME_KEY_SECONDS:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    _interrupts.append(now)


@contextlib.contextmanager
def passed_on() -> Iterator[None]:
    """In a process that starts those which train: they get its signals, and it ends as they do.

    Python sets handlers in the main thread alone; in another one nothing is passed on.
    """

    passed: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        children = [p for p in multiprocessing.active_children() if not is_data_worker(p)]
        if not children:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        passed.append(number)
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, number)

    is_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, pass_on) for n in SIGNALS} if is_main else {}
    try:
        yield
    except ProcessExitedException as error:
        # A KeyboardInterrupt while Python starts a child, before ``end_by_interrupts``.
        if signal.SIGINT in passed and error.exit_code == 1:
            leave(EXIT_KILLED + signal.SIGINT)
        if (code := code_of_signal(error.exit_code)) is not None:
            leave(code)
        raise
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # else ``leave`` was called
                signal.signal(number, handler)


def end_by_interrupts() -> None:
    """Have a process that another one has started end at Ctrl-C by the signal, until it watches.

    torch takes a KeyboardInterrupt in it for a good end.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def code_of_signal(code: int) -> int | None:
    """With what to end after a process that ended with ``code`` at a signal; None for others."""
    if -code in SIGNALS:  # before it began to watch, or at a second Ctrl-C
        return EXIT_KILLED - code
    return code if code == EXIT_INTERRUPTED or code - EXIT_KILLED in SIGNALS else None


def leave(code: int) -> NoReturn:
    """Exit with ``code``, also where a signal comes again while the process ends.

    Whoever warns a run may do so more than once, and Python lets go of its handlers before it ends.
    """
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def any_process_received(trainer: Any) -> bool:
    """Whether a signal came to any process of the run; all of them call it together."""
    if trainer.data_parallel_world_size == 1:
        return bool(_received)
    received = torch.tensor([float(bool(_received))], device=trainer.device)
    dist.all_reduce(received, op=dist.ReduceOp.MAX, group=trainer.data_parallel_process_group)
    return bool(received.item())


def end_if_received(trainer: Any) -> None:
    """At an update boundary, save and exit if a signal came; after the last one just exit."""
    if not any_process_received(trainer):
        return
    number = _received[0] if _received else signal.SIGTERM
    name = signal.Signals(number).name if _received else "a signal to another process"
    if trainer.is_done:
        logger.warning("%s: the comparison with blank video is left out; training is done", name)
        leave(0)
    updates, options = trainer.get_num_updates(), trainer.cfg.checkpoint
    if options.no_save:
        logger.warning("%s: ended at update %d, not saved (--no-save)", name, updates)
        leave(EXIT_KILLED + number)
    if trainer.boundary is None:  # else the checkpoint is there, and says so
        iterator = trainer.epoch_iterator
        trainer.boundary = Boundary(iterator.epoch, iterator.end_of_epoch(), {})
        # --no-last-checkpoints spares the disk; here it would lose the work.
        options.no_last_checkpoints = False
        checkpoint_utils.save_checkpoint(options, trainer, iterator, None)
    logger.warning(
        "%s: saved at update %d; the same command goes on from there (exit code %d)",
        *(name, updates, EXIT_INTERRUPTED),
    )
    leave(EXIT_INTERRUPTED)


def end_before_training() -> None:
    """Exit if a signal came to this process while the training is still being set up."""
    if _received:
        logger.warning("%s: ended before any update", signal.Signals(_received[0]).name)
        leave(EXIT_KILLED + _received[0])


@dataclass
class Boundary:
    """The end of an update, at which a run was interrupted; fairseq's iterator of that moment.

    Attributes:
        epoch: of the update.
        at_end: whether it was the epoch's last.
        position: where the run goes on, as the checkpoint has it.
    """

    epoch: int
    at_end: bool
    position: dict[str, Any]

    def end_of_epoch(self) -> bool:
        """Called by fairseq."""
        return self.at_end

    def state_dict(self) -> dict[str, Any]:
        """Called by fairseq."""
        return self.position

    def as_saved(self) -> dict[str, Any]:
        """The entry in ``extra_state``."""
        return {"epoch": self.epoch, "at_end": self.at_end}


def saved_state(trainer: Any) -> dict[str, Any]:
    """What belongs into ``extra_state``: an interruption, and how long nothing has improved."""
    state: dict[str, Any] = {}
    if trainer.boundary is not None:
        state[INTERRUPTED] = trainer.boundary.as_saved()
    counted = vars(train_module().should_stop_early)
    if "best" in counted:
        state[PATIENCE] = {name: counted[name] for name in ("best", "num_runs")}
    return state


def restore_state(trainer: Any, extra_state: dict[str, Any]) -> None:
    """Take over what ``saved_state`` made of it, where the checkpoint has it."""
    vars(train_module().should_stop_early).update(extra_state.get(PATIENCE, {}))
    if (found := extra_state.get(INTERRUPTED)) is not None:
        position = extra_state["train_iterator"]
        trainer.boundary = Boundary(found["epoch"], found["at_end"], position)


def finish_boundary(trainer: Any) -> None:
    """Do what fairseq does after an update, at the one at which the run before was interrupted.

    It validates and saves where that is due, and ends the run where it is over.
    """
    boundary = trainer.boundary
    keep_last_epoch(trainer.cfg, boundary.epoch)
    subsets = trainer.cfg.dataset.valid_subset.split(",")
    losses, is_over = train_module().validate_and_save(
        trainer.cfg, trainer, trainer.task, boundary, subsets, boundary.at_end
    )
    trainer.boundary = None
    if is_over:
        logger.info("done training: the interrupted run had come to its end")
        sys.exit(0)
    if boundary.at_end:
        trainer.lr_step(boundary.epoch, losses[0])


def train_module() -> ModuleType:
    """The module of ``fairseq-train``, which ``python -m`` has under another name."""
    main = sys.modules["__main__"]
    return main if hasattr(main, "should_stop_early") else fairseq_cli.train
