"""A data worker that dies ends the run in one line that says which, of what, and what to do.

torch alone ends it with tracebacks, waits forever for a batch that found no room in shared memory,
and interrupts whatever the trainer is at, a save too. On a GPU some of its workers die of the
trainer's own garbage; ours leave it alone.
"""

import atexit
import copy
import gc
import multiprocessing
import os
import shutil
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any

from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from vt_fairseq.errors import RunFailure, too_many_files

SHARED_MEMORY = "/dev/shm"
EXIT_NO_SHARED_MEMORY = 71  # of a worker; EX_OSERR of sysexits.h
EXIT_TOO_MANY_FILES = 72  # likewise; EX_OSFILE
# What the system, torch and multiprocessing say of them; each tensor of a batch is an open file.
TOO_MANY_FILES = ("Too many open files", "received 0 items of ancdata")
# How long a worker of a process that trains lives on after SIGTERM; the trainer ends it before.
GRACE_SECONDS = 60


class WatchedDataLoader(DataLoader):
    """torch's ``DataLoader``; raises RunFailure for a dead worker, wherever the batch is taken.

    Takes all of its options but ``worker_init_fn`` and ``multiprocessing_context``.
    """

    def __init__(self, dataset: Any, *, num_workers: int = 0, **options: Any):
        if num_workers:
            options |= {"worker_init_fn": begin_worker, "multiprocessing_context": worker_context()}
        super().__init__(dataset, num_workers=num_workers, **options)

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if self.num_workers == 0:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return WatchedIterator(self)


class WatchedIterator(_MultiProcessingDataLoaderIter):
    """Batches of the workers, which it watches."""

    def __init__(self, loader: DataLoader):
        with garbage.kept(), no_exceptions_from_signals():
            super().__init__(loader)
        _workers.update(self._workers)

    def _try_get_data(self, *args: Any, **kwargs: Any) -> tuple[bool, Any]:
        # Called every 5 s, or for each batch.
        try:
            return super()._try_get_data(*args, **kwargs)
        except RuntimeError as error:
            for number, worker in enumerate(self._workers):
                if worker.exitcode:
                    raise RunFailure(death(number, worker.pid, worker.exitcode)) from error
            if any(text in str(error) for text in TOO_MANY_FILES):
                raise too_many_files() from error
            raise


def death(number: int, pid: int | None, code: int) -> str:
    """Why worker ``number`` ended with the exit code ``code``, negative for a signal."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    suggestion = "the lines above may say why"
    if code == EXIT_TOO_MANY_FILES:
        suggestion = str(too_many_files())
    elif code == EXIT_NO_SHARED_MEMORY or name == "SIGBUS":
        suggestion = (
            f"no room for a batch in the shared memory {SHARED_MEMORY} ({_room()}): make it larger "
            "(docker run --shm-size 8g), or take smaller batches, fewer data workers, or none"
        )
    elif name == "SIGKILL":
        suggestion = (
            "often by the system for lack of memory: take fewer data workers or smaller batches"
        )
    elif code < 0:
        suggestion = (
            "the decoder may have crashed on a video: vt-prepare names those it cannot read"
        )
    ended = f"was killed by {name}" if code < 0 else f"ended with {name}"
    return (
        f"data worker {number} (process {pid}) {ended}, {suggestion}. What is saved is whole; the "
        "same command goes on from the last checkpoint"
    )


def _room() -> str:
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return "there is none"
    return f"{room.free / 2**20:.1f} of {room.total / 2**20:.1f} MiB free"


class WorkerQueue(Queue):
    """Ends a worker whose batch could not be sent: the trainer would wait for it forever."""

    @staticmethod
    def _on_queue_feeder_error(error: BaseException, item: object) -> None:
        in_worker = get_worker_info() is not None
        if in_worker and any(text in str(error) for text in TOO_MANY_FILES):
            os._exit(EXIT_TOO_MANY_FILES)
        if in_worker and ("shared memory" in str(error) or "No space left" in str(error)):
            os._exit(EXIT_NO_SHARED_MEMORY)
        Queue._on_queue_feeder_error(error, item)  # type: ignore[attr-defined]  # not in typeshed
        if in_worker:
            os._exit(1)


def worker_context() -> BaseContext:
    """The default way to start processes, with queues that end a worker."""
    context = copy.copy(multiprocessing.get_context())

    def queue(maxsize: int = 0) -> WorkerQueue:
        return WorkerQueue(maxsize, ctx=context)

    context.Queue = queue  # type: ignore[method-assign]  # of this copy alone
    return context


class ForkGarbageGuard:
    """A forked worker never collects cyclic garbage of the process it was forked from.

    Of tensors on a GPU the collection would abort the worker: CUDA does not work behind a fork.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # threads may start workers at the same time
        self.enabled = gc.isenabled()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around the start of workers: nothing is collected in any process."""
        with self.lock:
            self.enabled = gc.isenabled()
            gc.disable()
            try:
                yield
            finally:
                if self.enabled:
                    gc.enable()

    def let_go_in_worker(self) -> None:
        """In a worker: collect from now on, but nothing that is there already."""
        gc.freeze()
        if self.enabled:
            gc.enable()


@contextmanager
def no_exceptions_from_signals() -> Iterator[None]:
    """Around torch's start of workers: a dead one is no exception wherever the main thread is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler, was_set = signal.getsignal(signal.SIGCHLD), signal_handling._SIGCHLD_handler_set
    try:
        yield
    finally:
        if handler is not None:  # set from Python
            signal.signal(signal.SIGCHLD, handler)
        signal_handling._SIGCHLD_handler_set = was_set


def begin_worker(number: int) -> None:
    """Called first in each worker."""
    garbage.let_go_in_worker()
    if _outlive_signals.is_set():
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))
        for number in (signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def outlive_signals() -> None:
    """Let the workers that this process starts from now on outlive SIGTERM and others for a while.

    A cluster and a terminal send them to every process of a job, and without its workers a trainer
    could not come to the next boundary. They end with it, and after GRACE_SECONDS in any case.
    """
    _outlive_signals.set()


def is_data_worker(process: BaseProcess) -> bool:
    """Whether a child of this process decodes for it."""
    return process in _workers


@atexit.register
def kill_workers() -> None:
    """Workers that outlive SIGTERM for a while do not keep a failed run waiting.

    It runs before multiprocessing's own, which sends them SIGTERM and then waits for their end.
    """
    for process in list(_workers):
        process.kill()


garbage = ForkGarbageGuard()
_outlive_signals = threading.Event()
_workers: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
