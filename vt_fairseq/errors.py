"""Expected failures: the user's mistakes, what ends a run, and clips that cannot be read."""

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
