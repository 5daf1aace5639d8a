"""A time limit for calls into C, which Python cannot interrupt.

The call runs in a thread. A call that does not end is left alone, with all that it has opened, and
the caller goes on with a new thread: FFmpeg runs without Python's lock. Threads end with the
process. A caller keeps its thread from call to call, since a new one allocates memory slowly.
"""

import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")
_own = threading.local()


class Unfinished(Exception):
    """The call did not end in time."""


def _work(calls: queue.SimpleQueue, outcomes: queue.SimpleQueue) -> None:
    while (call := calls.get()) is not None:
        function, arguments = call
        try:
            outcomes.put((function(*arguments), None))
        except BaseException as error:
            outcomes.put((None, error))
        del call, function, arguments


class _Thread:
    """Does one call after the other; ends with this object."""

    def __init__(self) -> None:
        self.process = os.getpid()  # a forked one has the object, but not the thread
        self.calls: queue.SimpleQueue = queue.SimpleQueue()
        self.outcomes: queue.SimpleQueue = queue.SimpleQueue()
        queues = (self.calls, self.outcomes)
        threading.Thread(target=_work, args=queues, daemon=True).start()

    def __del__(self) -> None:
        self.calls.put(None)


def within(seconds: float, function: Callable[..., Value], *args: Any) -> Value:
    """What ``function(*args)`` returns or raises; raise Unfinished after ``seconds``."""
    thread: _Thread | None = getattr(_own, "thread", None)
    if thread is None or thread.process != os.getpid():
        thread = _own.thread = _Thread()
    thread.calls.put((function, args))
    try:
        result, error = thread.outcomes.get(timeout=seconds)
    except BaseException as interruption:  # KeyboardInterrupt, too: the call still runs
        _own.thread = None
        if isinstance(interruption, queue.Empty):
            raise Unfinished from None
        raise
    if error is not None:
        raise error
    return result
