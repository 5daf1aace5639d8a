"""The commands in forks of one process that has already imported torch and fairseq.

Starting a command costs five seconds of imports; a recipe calls six to ten. The server does nothing
but import, so that no thread is lost in a fork; each command runs in a fork of its own, as
``python -m MODULE`` would run it.

    python -m tests.warm_commands SOCKET    serves until the process that started it ends
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

from tests.commands import MODULES

READY = "ready"
IMPORTS = ("fairseq.trainer", "vt_fairseq.plugin", "pyarrow", "sacrebleu")
SECONDS_BETWEEN_LOOKS = 5.0
# What a shell calls by a command's name: hands over its arguments, folder, environment and files.
CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
command = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
request = json.dumps([command, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [request + b"\\0"], [0, 1, 2])
sys.exit(int(server.recv(16) or 1))
"""


def serve(address: str) -> None:
    """Run every command that a client asks for in a fork."""
    for name in IMPORTS:
        importlib.import_module(name)
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    server.settimeout(SECONDS_BETWEEN_LOOKS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need not be waited for
    print(READY, flush=True)
    started_by = os.getppid()
    while os.getppid() == started_by:
        try:
            client, _ = server.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            client.sendall(str(_command(client)).encode())
            os._exit(0)
        client.close()


def _command(client: socket.socket) -> int:
    """Exit code of the command that one client asks for, run in this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    while not request.endswith(b"\0"):
        request += client.recv(1 << 20)
    (name, *arguments), folder, environment = json.loads(request[:-1])
    for target, file in enumerate(files):
        os.dup2(file, target)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [name, *arguments]
    try:
        runpy.run_module(MODULES[name], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def client_scripts(address: str) -> dict[str, str]:
    """Name of each command -> the script that asks the server at ``address`` for it."""
    text = CLIENT.format(python=Path(sys.executable).resolve(), address=address)
    return dict.fromkeys(MODULES, text)


if __name__ == "__main__":
    serve(sys.argv[1])
