"""The two kinds of expected failure: the user's mistake and a clip that cannot be read."""


class UserError(Exception):
    """A mistake in the command, the configuration or the files; commands end in one line, exit 2.

    The message says what was expected, what was found, where, and the cure.
    """


class VideoError(Exception):
    """A clip that cannot be decoded; ``str(error)`` is the one-line reason, without the clip id."""
