"""Calls in forked processes, which may crash or hang."""

import os
import pickle
import resource
import signal
import time
from collections.abc import Callable


def in_a_process(function: Callable[[], object], seconds: float = 60) -> tuple[str, object]:
    """ "done" and what ``function`` returned in a forked process; or "crashed", how; or "hung"."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            answer = ("done", function())
        except BaseException as error:
            answer = ("crashed", repr(error))
        os.write(writing, pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return "hung", None
        time.sleep(0.002)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    if os.WIFSIGNALED(ended[1]):
        number = os.WTERMSIG(ended[1])
        return "hung" if number == signal.SIGXCPU else "crashed", signal.Signals(number).name
    return pickle.loads(answer)  # our own child's
