"""What ``vt-*`` commands share: ``--version``, ``--user-dir``, user errors as one line, code 2."""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from vt_fairseq.errors import UserError, VideoError, from_system
from vt_fairseq.quiet_imports import quiet_imports as quiet_imports
from vt_fairseq.version import __version__
from vt_fairseq.visible_text import drop_output, end, guard_output, say, visible

DTYPES = ("fp32", "bf16", "fp16")
MAX_SEED = 2**32 - 1


class _Parser(argparse.ArgumentParser):
    """Its errors are one line: an argument may be the hostile name of a file."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with code 2."""
        super().error(visible(message))


def parser(prog: str, description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser with ``--version`` and an example under its help."""
    made = _Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"{prog} {__version__}")
    return made


def add_user_dir(parser: argparse.ArgumentParser) -> None:
    """The option by which a command learns of tasks, corpora and video networks of one's own."""
    parser.add_argument(
        "--user-dir",
        type=Path,
        metavar="DIR",
        help="folder that registers tasks, corpora or video networks of your own",
    )


def add_with_aliases(group: Any, option: str, *aliases: str, **kwargs: Any) -> None:
    """Add ``option``; ``aliases``, its spellings in earlier versions, work but are not shown."""
    group.add_argument(option, *aliases, **kwargs).option_strings = [option]


def add_device(group: Any) -> None:
    """The option for the device; ``--cpu``, fairseq's spelling of one of them, works too."""
    group.add_argument("--device", help="cpu, cuda or mps (default: the GPU if there is one)")
    group.add_argument(
        "--cpu", dest="device", action="store_const", const="cpu", help=argparse.SUPPRESS
    )


def add_follow_links(group: Any) -> None:
    """The option that opens what links lead to."""
    group.add_argument(
        "--follow-links",
        action="store_true",
        help="open videos and frames that links outside of their folder lead to (caches of "
        "Hugging Face, DVC and git-annex)",
    )


def add_cuda_graphs(group: Any) -> None:
    """The option that has a GPU replay steps."""
    group.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="launch each step of the decoder as one CUDA graph; not tried on a GPU yet",
    )


def add_dtype(group: Any) -> None:
    """The option for the precision of the weights."""
    group.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="type of the weights (default: fp32)"
    )


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number that every generator of random numbers takes."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        expected = f"expected a number from 0 to {MAX_SEED:,}"
        raise argparse.ArgumentTypeError(f"{expected}, found {text!r}")
    return int(text)


def write_lines(content: str) -> None:
    """Print lines whose texts may be those of others."""
    for line in content.removesuffix("\n").split("\n") if content else ():
        say(line)


def import_user_dir(folder: Path | None) -> None:
    """Import the package ``folder`` under its own name, as fairseq does with its ``--user-dir``.

    Raises UserError where it is no package, or Python knows another one of that name.
    """
    if folder is None:
        return
    folder = Path(os.path.abspath(folder))
    if not (folder / "__init__.py").is_file():
        raise UserError(f"--user-dir {folder}: expected a folder with __init__.py, found none")
    if str(folder.parent) not in sys.path:
        sys.path.insert(0, str(folder.parent))
    with quiet_imports():
        module = importlib.import_module(folder.name)
    if str(folder) not in module.__path__:
        other = next(iter(module.__path__))
        raise UserError(f"--user-dir {folder}: {other} has that name already, take another")


@contextlib.contextmanager
def console_script(prog: str) -> Iterator[None]:
    """Decorate ``main``: a mistake ends in one line on stderr and exit code 2, a failure in 1.

    What the command prints and logs is safe for a terminal from then on (``visible_text``).
    """
    guard_output()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except UserError as error:
        end(f"{prog}: error: {error}", error.exit_code)
    except VideoError as error:
        end(f"{prog}: error: {error}", UserError.exit_code)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); that is not an error of ours.
        drop_output()
    except OSError as error:
        failure = from_system(error)
        if failure is None:
            raise
        end(f"{prog}: error: {failure}", failure.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
