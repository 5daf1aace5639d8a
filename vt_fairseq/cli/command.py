"""What every ``vt-*`` command shares: ``--version``, and user errors as one line, exit code 2."""

import argparse
import os
import sys
from collections.abc import Callable

from vt_fairseq import __version__
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.quiet import quiet_imports as quiet_imports

EXIT_USER_ERROR = 2


def parser(prog: str, description: str, example: str) -> argparse.ArgumentParser:
    """An argument parser with ``--version`` and an example under its help."""
    made = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"{prog} {__version__}")
    return made


def run(prog: str, main: Callable[[], None]) -> None:
    """Run ``main``; a user's mistake ends in one line on stderr and exit code 2."""
    try:
        main()
    except (UserError, VideoError, PermissionError, NotADirectoryError, FileExistsError) as error:
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); that is not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)
