"""Texts of others on the terminal and in the log: what would act there is spelled out.

A file name, an id, a caption or a library's error may hold escape sequences, which move the cursor
and recolor a terminal, line breaks, which forge lines of a log, and directional overrides, which
show a text in another order than it has. ``visible`` spells them as Python does, ``\\x1b``. Lines
that we print pass through ``say``, every message of a log through ``VisibleRecord``, and whatever
else reaches stdout or stderr (a traceback, a library's print) through the streams themselves. JSON
keeps the true text: its own escapes stand for these characters.
"""

import codecs
import contextlib
import io
import json
import logging
import os
import re
import sys
from typing import IO, Any, NoReturn

UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: escape sequences, line breaks, tabs
    "\u2028\u2029"  # line breaks of Unicode
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of direction
    "\ud800-\udfff]"  # halves of a character: bytes of a file name that are no text
)
# What a stream lets through in addition: line breaks, tabs, and the return to the beginning of the
# line with which a progress bar begins.
_UNSAFE_IN_STREAM = re.compile(rf"(?![\n\t]|\A\r){UNSAFE.pattern}")
_PREFIX = "visible_"


def visible(text: str) -> str:
    """``text`` on one line, with an escape for each character that would act on a terminal."""
    return UNSAFE.sub(_escaped, text)


def say(line: str, file: IO[str] | None = None) -> None:
    """Print one line, on stdout unless another ``file`` is given."""
    print(visible(line), file=file)


def end(line: str, code: int) -> NoReturn:
    """Print one line on stderr and exit, also where neither stream can be written to any more."""
    with contextlib.suppress(OSError):
        say(line, sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
    sys.exit(code)


def drop_output() -> None:
    """What is still to go to stdout goes nowhere: Python would fail at it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def json_text(value: Any) -> str:
    """``value`` as JSON on one line that is safe to print; ValueError for NaN and infinity.

    Other characters than ASCII stay as they are; a reader gets the true text of every string.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


# --- the log -------------------------------------------------------------------------------------


class VisibleRecord(logging.LogRecord):
    """A record whose message is one line.

    fairseq also logs objects (the model), which take several lines; all but the first are indented,
    as those of a traceback are, so that none passes for a record of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = _indented(f"\n{logging.Formatter().formatException(self.exc_info)}")

    def getMessage(self) -> str:
        """The message with its arguments."""
        message = super().getMessage()
        return visible(message) if isinstance(self.msg, str) else _indented(message)


def _indented(text: str) -> str:
    return "\n  ".join(map(visible, text.split("\n"))).removeprefix("\n")


# --- the streams ---------------------------------------------------------------------------------


def guard_output() -> None:
    """From now on nothing of this process acts on a terminal or forges a record of the log.

    For programs that own their process, as our commands do. Streams that are no files (those of a
    notebook) stay as they are.
    """
    logging.setLogRecordFactory(VisibleRecord)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.startswith(_PREFIX):
            stream.reconfigure(encoding=_PREFIX + stream.encoding, errors="backslashreplace")


def _visible_codec(name: str) -> codecs.CodecInfo | None:
    """``visible_utf_8`` and so on: an encoding of a stream, with escapes as in ``visible``."""
    if not name.startswith(_PREFIX):
        return None
    inner = codecs.lookup(name.removeprefix(_PREFIX))

    def encode(text: str, errors: str = "strict") -> tuple[bytes, int]:
        return inner.encode(_UNSAFE_IN_STREAM.sub(_escaped, text), errors)[0], len(text)

    class Encoder(codecs.IncrementalEncoder):
        def encode(self, text: str, final: bool = False) -> bytes:
            return encode(text, self.errors)[0]

    decoder = inner.incrementaldecoder  # asked for although a stream of output reads nothing
    return codecs.CodecInfo(
        encode, inner.decode, incrementalencoder=Encoder, incrementaldecoder=decoder, name=name
    )


codecs.register(_visible_codec)
