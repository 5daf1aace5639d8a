"""Python commands in processes of their own that start at once.

Importing torch and fairseq takes most of the time of a test that runs a command. So one process
imports them, and each command is a fork of it. What a process does while it starts (options of
``python`` itself, environment variables that torch reads) cannot be tested so.
"""

import atexit
import logging
import multiprocessing
import os
import runpy
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.warm_imports"])


def start(
    arguments: list[str], output: Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> BaseProcess:
    """``python`` with ``arguments`` (``-m MODULE ...`` or a script), writing to ``output``."""
    # Read when the server starts: one thread a process, since two of them share two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    process = _context.Process(target=_command, args=(arguments, str(output), env or {}, cwd))
    process.start()
    return process


def _command(arguments: list[str], output: str, env: dict[str, str], cwd: Path | None) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    os._exit(_exit_code(arguments))


def _exit_code(arguments: list[str]) -> int:
    is_module = arguments[0] == "-m"
    name, *rest = arguments[1:] if is_module else arguments
    sys.argv = [name, *rest]
    if name == "fairseq_cli.train":
        # It sets up the log before it imports fairseq, which here has been imported.
        logging.root.handlers.clear()
    code = 0
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code
