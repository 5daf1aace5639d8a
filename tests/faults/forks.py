"""Calls in forked processes, which may crash, hang or be killed."""

import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def start(function: Callable[[], object], log: Path) -> int:
    """The process id of a fork that calls ``function`` as a command; its output goes to ``log``.

    Its exit code is a command's: 0, that of SystemExit, or 1 and a traceback.
    """
    sys.stdout.flush()
    if (child := os.fork()) != 0:
        return child
    code = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        torch.set_num_threads(1)  # threads do not survive a fork
        function()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


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
