"""Expected failures: the user's mistakes, what ends a run, and clips that cannot be read."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

# Added where a file is not opened because a link leads to it.
FOLLOW_LINKS = "--follow-links (in Python follow_links=True) allows links"


class UserError(Exception):
    """A mistake in the command, the configuration or the files; commands end in one line, exit 2.

    The message says what was expected, what was found, where, and a suggestion.
    """

    exit_code = 2


class RunFailure(UserError):
    """What ends a run though nobody made a mistake: a full disk, a dead worker, a diverged loss.

    Commands end in one line, exit 1; the message says what to do.
    """

    exit_code = 1


class VideoError(Exception):
    """A clip that cannot be decoded; ``str(error)`` is the one-line reason, without the clip id."""


@contextmanager
def naming(option: str) -> Iterator[None]:
    """Put ``option`` before the message of a UserError: functions do not know the options."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{option}: {error}") from error


# --- what the system refuses ----------------------------------------------------------------------


class _Refusal(NamedTuple):
    """What an error number of the system means.

    Attributes:
        kind: a failure, or a mistake: what the user has to name otherwise.
        text: what it is, and what to do.
        lasts: trying again at once would not help.
        of_machine: it comes again with the next file, whatever that is.
    """

    kind: type[UserError]
    text: str
    lasts: bool = True
    of_machine: bool = False


_FULL = _Refusal(
    RunFailure, "the disk is full: make room and run the same command again", of_machine=True
)
_FILES = _Refusal(
    RunFailure,
    "too many files are open: raise the limit (ulimit -n 4096), or use fewer workers",
    lasts=False,
    of_machine=True,
)
_DENIED = "permission denied: change its owner or mode"
_REFUSALS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.EFBIG: _Refusal(
        RunFailure,
        "the file would pass the largest size that is allowed here (ulimit -f)",
        of_machine=True,
    ),
    errno.EIO: _Refusal(
        RunFailure,
        "the disk or the network does not answer as it should (input/output error)",
        lasts=False,
        of_machine=True,
    ),
    errno.ENOMEM: _Refusal(RunFailure, "there is too little memory", lasts=False),
    errno.EACCES: _Refusal(UserError, _DENIED, of_machine=True),
    errno.EPERM: _Refusal(UserError, _DENIED),  # also FFmpeg's number for whatever goes wrong
    errno.EROFS: _Refusal(
        UserError, "it lies on a read-only file system: choose another folder", of_machine=True
    ),
    errno.ENAMETOOLONG: _Refusal(
        UserError, "the name is too long for the file system: choose a shorter one"
    ),
    errno.ENOTDIR: _Refusal(UserError, "expected a folder, found a file in its place or above it"),
    errno.EISDIR: _Refusal(UserError, "expected a file, found a folder"),
    errno.EEXIST: _Refusal(UserError, "expected nothing there, or a folder; found a file"),
    errno.ELOOP: _Refusal(UserError, "its links lead in a circle"),
    errno.ENOENT: _Refusal(UserError, "there is no such file or folder", lasts=False),
}


def _refusal(error: BaseException | None) -> _Refusal | None:
    return _REFUSALS.get(getattr(error, "errno", None) or 0)


def from_system(error: OSError, name: str | None = None) -> UserError | None:
    """What the system refused, as an error of one line with the file; None for anything rare.

    A full disk and the like are a RunFailure; what the user has to name otherwise, a UserError.

    Args:
        name: of what could not be done, where the error knows no file; by default "the output".
    """
    refusal = _refusal(error)
    if refusal is None:
        return None
    if refusal is _FILES and error.filename is None:
        return RunFailure(refusal.text)
    return refusal.kind(f"{error.filename or name or 'the output'}: {refusal.text}")


def lasts(error: Exception) -> bool:
    """Whether the system would refuse the same at once again."""
    refusal = _refusal(error)
    return refusal is not None and refusal.lasts


def of_machine(error: Exception) -> bool:
    """Whether the system would refuse the next file as well: this one is not at fault."""
    refusal = _refusal(error)
    return refusal is not None and refusal.of_machine


def is_lack_of_files(error: BaseException | None) -> bool:
    """Whether too many files were open to open one more."""
    return _refusal(error) is _FILES


def too_many_files() -> RunFailure:
    """The error for that."""
    return RunFailure(_FILES.text)
