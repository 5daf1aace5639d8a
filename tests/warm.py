"""Python commands in processes of their own that start at once.

Importing torch and fairseq takes most of the time of a test that runs a command. So one process
imports them, and each command is a fork of it. What a process does while it starts (options of
``python`` itself, environment variables that torch reads) cannot be tested so.
"""

import atexit
import importlib
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
    arguments: list[str],
    output: Path,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    stdin: Path = Path(os.devnull),
    errors: Path | None = None,
) -> BaseProcess:
    """``python`` with ``arguments`` (``-m MODULE ...`` or a script), writing to ``output``.

    stderr goes there too, unless ``errors`` names a file of its own.
    """
    # Read when the server starts: one thread per process, since two of them share two cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    streams = (stdin, output, errors or output)
    process = _context.Process(target=_command, args=(arguments, streams, env or {}, cwd))
    process.start()
    return process


def _command(
    arguments: list[str], streams: tuple[Path, ...], env: dict[str, str], cwd: Path | None
) -> None:
    for number, path in enumerate(streams):
        mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND if number else os.O_RDONLY
        os.dup2(os.open(path, mode), number)
    # New objects: the old ones may take a pipe for the file that they were opened on.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
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
        if name == "fairseq_cli.generate":
            # As its console script: the plugin replaces functions of the module of this name.
            module = importlib.reload(importlib.import_module(name))
            patches = importlib.import_module("vt_fairseq.training.patches")
            patches.install(patches.PATCHES)
            module.cli_main()
        elif is_module:
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
