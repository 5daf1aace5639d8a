"""``vt-serve``: a library in the browser, to be searched, played and asked."""

import argparse
import errno
import importlib.util
import ipaddress
import secrets
import socket
import sys
from pathlib import Path

from vt_fairseq.cli import command, libraries
from vt_fairseq.cli.inputs import find_videos
from vt_fairseq.errors import UserError
from vt_fairseq.visible_text import say

PROG = "vt-serve"
LOCAL = "127.0.0.1"
PORT = 8000
MISSING = (
    "the page needs Starlette and uvicorn, which are not installed: pip install 'vt_fairseq[serve]'"
)
SECONDS_TO_END = 2  # for answers that are under way, such as a video that plays


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-serve."""
    parser = command.parser(
        PROG,
        "Show a library in the browser: search it, play the moments that are found, ask about "
        "them, add videos. Only this machine can open the page, unless --host says otherwise.",
        "vt-serve holiday.vtlib",
    )
    libraries.add_library(parser)
    parser.add_argument(
        "--host",
        default=LOCAL,
        help=f"address to listen at (default: {LOCAL}, this machine alone); for others the page "
        "has a token",
    )
    parser.add_argument(
        "--port", type=port, default=PORT, help=f"port (default: {PORT}; 0: any that is free)"
    )
    parser.add_argument(
        "--token",
        action="store_true",
        help=f"ask for a token at {LOCAL}, too: where other people use this machine",
    )
    parser.add_argument(
        "--add-below",
        type=Path,
        metavar="DIR",
        help=f"folder that videos may be added from (default: any at {LOCAL}, else none)",
    )
    libraries.add_model(parser)
    return parser


def port(text: str) -> int:
    """A number from 0 to 65535."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, found {text!r}")
    return int(text)


def check_installed() -> None:
    """Raise UserError where the extra is not installed."""
    if not all(map(importlib.util.find_spec, ("starlette", "uvicorn"))):
        raise UserError(MISSING)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raise UserError where none can."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(f"--host {host}: no such address of this machine") from error
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: f"--port {port}: another program listens there; 0 takes a free one",
            errno.EACCES: f"--port {port}: permission denied; take one from 1024 on",
            errno.EADDRNOTAVAIL: f"--host {host}: no address of this machine",
        }
        reason = reasons.get(error.errno or 0, f"--host {host} --port {port}: {error.strerror}")
        raise UserError(reason) from error


def is_local(listening: socket.socket) -> bool:
    """Whether this machine alone can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def names_of(host: str, local: bool) -> frozenset[str]:
    """Names by which the page may be asked for, beside addresses."""
    own = socket.gethostname().lower()
    return frozenset({"localhost", host.lower(), *(() if local else (own, f"{own}.local"))})


def address(host: str, listening: socket.socket, token: str | None) -> str:
    """What to open in a browser."""
    number = listening.getsockname()[0]
    if ipaddress.ip_address(number).is_unspecified:
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={token}"
    return f"http://{shown}:{listening.getsockname()[1]}/{query}"


@command.console_script(PROG)
def main() -> None:
    """Entry point."""
    args = build_parser().parse_args()
    check_installed()
    command.import_user_dir(args.user_dir)
    with listen(args.host, args.port) as listening:
        serve(args, listening)


def serve(args: argparse.Namespace, listening: socket.socket) -> None:
    """Answer until Ctrl-C."""
    local = is_local(listening)
    below = Path("/") if args.add_below is None and local else args.add_below
    if below is not None and not below.is_dir():
        raise UserError(f"--add-below {below}: there is no such folder")
    vt = libraries.load(args)
    with command.quiet_imports():
        import uvicorn

        from vt_fairseq.serve.app import LibraryServer
    token = secrets.token_urlsafe(24) if args.token or not local else None
    server = LibraryServer(
        vt, args.library, lambda path: find_videos([path], args.follow_links), below
    )
    config = uvicorn.Config(
        server.app(names_of(args.host, local), token),
        log_config=None,  # ours, in which no text acts on a terminal
        log_level="warning",
        access_log=False,  # it would hold the token
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    say(f"{PROG}: {address(args.host, listening, token)}  (Ctrl-C ends it)")
    sys.stdout.flush()  # a pipe or a file would hold it back
    uvicorn.Server(config).run(sockets=[listening])
    raise KeyboardInterrupt  # as uvicorn does, but where SIGINT is ignored: a script's background


if __name__ == "__main__":
    main()
