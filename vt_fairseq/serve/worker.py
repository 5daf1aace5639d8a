"""One thread that has the model: what is asked takes turns there.

A long job lets what waits go first whenever it calls ``let_others``, in the same thread.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from vt_fairseq.errors import RunFailure

MOST_WAITING = 16


class Worker:
    """Calls of many threads, one after the other in one of its own."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def call(self, work: Callable[[], Any]) -> Future:
        """What ``work`` will return or raise; RunFailure where too many wait, or none will run."""
        future: Future = Future()
        with self._changed:
            if self._closed:
                raise RunFailure("vt-serve is ending")
            if len(self._waiting) >= MOST_WAITING:
                raise RunFailure("too many questions wait for the model: ask again later")
            self._waiting.append((future, work))
            self._changed.notify()
        return future

    def let_others(self) -> None:
        """Do all that waits; for a long job that runs in this thread."""
        while True:
            with self._changed:
                if not self._waiting:
                    return
                call = self._waiting.popleft()
            self._do(*call)

    def close(self, patience: float) -> None:
        """Begin nothing more, and wait at most ``patience`` seconds for what runs."""
        with self._changed:
            self._closed = True
            while self._waiting:
                self._waiting.popleft()[0].cancel()
            self._changed.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                call = self._waiting.popleft()
            self._do(*call)

    @staticmethod
    def _do(future: Future, work: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
