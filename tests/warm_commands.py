"""The commands by name, for shell scripts under test: each runs as a fork, see ``tests.warm``."""

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import warm
from tests.commands import MODULES

# What a shell starts: it has the command run with its arguments, folder, environment and output.
CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
command = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
request = [command, os.getcwd(), dict(os.environ), os.getpid()]
server.sendall(json.dumps(request).encode() + b"\\n")
sys.exit(int(server.recv(16) or 1))
"""


class _Request(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        (name, *arguments), folder, environment, client = json.loads(self.rfile.readline())
        stdin, output, errors = (Path(f"/proc/{client}/fd/{number}") for number in range(3))
        process = warm.start(
            ["-m", MODULES[name], *arguments], output, environment, Path(folder), stdin, errors
        )
        process.join()
        self.wfile.write(str(process.exitcode).encode())


@contextmanager
def commands_on_path(folder: Path) -> Iterator[Path]:
    """A folder to put on the PATH; ``folder`` must have a short name, as it holds a socket."""
    address = folder / "socket"
    with socketserver.ThreadingUnixStreamServer(str(address), _Request) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = CLIENT.format(python=Path(sys.executable).resolve(), address=str(address))
        try:
            yield scripts_folder(folder / "bin", dict.fromkeys(MODULES, script))
        finally:
            server.shutdown()


def scripts_folder(folder: Path, scripts: dict[str, str]) -> Path:
    """A folder with an executable script of each name."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder
