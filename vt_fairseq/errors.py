"""Expected failures: the user's mistakes, what ends a run, and clips that cannot be read."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

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


_SAME_COMMAND = "and run the same command again"
_FAILURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"the disk is full: make room {_SAME_COMMAND}"),
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE),
        "too many files are open: raise the limit (ulimit -n 4096), or use fewer workers",
    ),
    errno.EFBIG: "the file would pass the largest size that is allowed here (ulimit -f)",
    errno.EIO: "the disk or the network does not answer as it should (input/output error)",
    errno.ENOMEM: "there is too little memory",
}
_MISTAKES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied: change its owner or mode"),
    errno.EROFS: "it lies on a read-only file system: choose another folder",
    errno.ENAMETOOLONG: "the name is too long for the file system: choose a shorter one",
    errno.ENOTDIR: "expected a folder, found a file in its place or above it",
    errno.EISDIR: "expected a file, found a folder",
    errno.EEXIST: "expected nothing there, or a folder; found a file",
    errno.ELOOP: "its links lead in a circle",
    errno.ENOENT: "there is no such file or folder",
}


def from_system(error: OSError) -> UserError | None:
    """What the system refused, as an error of one line with the file; None for anything rare.

    A full disk and the like are a RunFailure; what the user has to name otherwise, a UserError.
    """
    number = error.errno or 0
    name = "the output" if error.filename is None else str(error.filename)
    if number in _FAILURES:
        return RunFailure(f"{name}: {_FAILURES[number]}")
    return UserError(f"{name}: {_MISTAKES[number]}") if number in _MISTAKES else None
