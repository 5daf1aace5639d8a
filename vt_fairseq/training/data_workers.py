"""A data worker that dies ends the run in one line that says which, of what, and what to do.

torch alone ends it with tracebacks, waits for ever for a batch that found no room in shared memory,
and interrupts whatever the trainer is at, a save too. On a GPU some of its workers die of the
trainer's own garbage; ours leave it alone.
"""

import atexit
import gc
import multiprocessing
import multiprocessing.queues
import os
import shutil
import signal
import threading

import torch.utils.data._utils.signal_handling as signal_handling
from torch.utils.data import get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as LoaderIterator

from vt_fairseq.errors import UserError

SHARED_MEMORY = "/dev/shm"
EXIT_NO_SHARED_MEMORY = 71  # of a worker; EX_OSERR of sysexits.h


def try_get_data(self: LoaderIterator, *args, **kwargs):
    """``_try_get_data``, every 5 s or batch; raises UserError for a dead worker."""
    try:
        return _try_get_data(self, *args, **kwargs)
    except RuntimeError as error:
        codes = {number: worker.exitcode for number, worker in enumerate(self._workers)}
        dead = [number for number, code in codes.items() if code]
        if not dead:
            raise
        worker = self._workers[dead[0]]
        raise UserError(death(dead[0], worker.pid, worker.exitcode)) from error


def death(number: int, pid: int, code: int) -> str:
    """Why worker ``number`` ended with the exit code ``code``, negative for a signal."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    cure = "the lines above may say why"
    if code == EXIT_NO_SHARED_MEMORY or name == "SIGBUS":
        cure = (
            f"no room for a batch in the shared memory {SHARED_MEMORY} ({_room()}): make it larger "
            "(docker run --shm-size 8g), or give a smaller --batch-size, fewer --num-workers, or "
            "--num-workers 0"
        )
    elif name == "SIGKILL":
        cure = (
            "often by the system for lack of memory: give fewer --num-workers or a smaller "
            "--batch-size"
        )
    elif code < 0:
        cure = "the decoder may have crashed on a video: vt-prepare names those it cannot read"
    ended = f"was killed by {name}" if code < 0 else f"ended with {name}"
    return (
        f"data worker {number} (process {pid}) {ended}, {cure}. What is saved is whole; the same "
        "command goes on from the last checkpoint"
    )


def _room() -> str:
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return "there is none"
    return f"{room.free / 2**20:.1f} of {room.total / 2**20:.1f} MiB free"


def feeding_failed(error: Exception, item: object) -> None:
    """End a worker whose batch could not be sent: the trainer would wait for it for ever."""
    in_worker = get_worker_info() is not None
    if in_worker and ("shared memory" in str(error) or "No space left" in str(error)):
        os._exit(EXIT_NO_SHARED_MEMORY)
    _feeding_failed(error, item)
    if in_worker:
        os._exit(1)


@atexit.register
def kill_workers() -> None:
    """Workers that outlive SIGTERM for a while (``interruption``) do not keep a failed run waiting.

    It runs before multiprocessing's own, which sends them SIGTERM and then waits for their end.
    """
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class KeptGarbage:
    """A forked process never collects cyclic garbage of the process it was forked from.

    Of tensors on a GPU the collection would abort the worker: CUDA does not work behind a fork.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()  # threads may fork at the same time
        self.enabled = True

    def before(self) -> None:
        self.lock.acquire()
        self.enabled = gc.isenabled()
        gc.disable()

    def after(self) -> None:
        if self.enabled:
            gc.enable()
        self.lock.release()

    def after_in_child(self) -> None:
        gc.freeze()
        self.after()


_garbage = KeptGarbage()
os.register_at_fork(
    before=_garbage.before,
    after_in_parent=_garbage.after,
    after_in_child=_garbage.after_in_child,
)
_try_get_data = LoaderIterator._try_get_data
_feeding_failed = multiprocessing.queues.Queue._on_queue_feeder_error


def install() -> None:
    """Put it in place; calling it again changes nothing."""
    LoaderIterator._try_get_data = try_get_data
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(feeding_failed)
    # Otherwise a dead worker is an exception wherever the main thread is; see ``try_get_data``.
    signal_handling._set_SIGCHLD_handler = lambda: None
