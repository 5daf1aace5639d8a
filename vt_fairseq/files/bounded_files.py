"""Files that others made, read up to a size: they may be sparse, or made to fill the memory.

A larger file, and one that is no regular file (a pipe would wait, a device would not end), is a
UserError of one line. JSON takes up to twenty times its size in memory, so what is read at once is
far smaller than memory. Weights, which are as large as they are, are not read here.
"""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError

MAX_OBJECT = 1 << 24  # bytes of one JSON object: a line of jsonl, a data.json
MAX_DOCUMENT = 1 << 28  # bytes of a whole file of annotations or captions
MAX_LINE = MAX_OBJECT  # bytes, or characters of text: a ranking of a million clips


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is no regular file")
        if status.st_size > most:
            raise UserError(
                f"{path} has {status.st_size:,} bytes, at most {most:,} are read of such a file"
            )
        with open(path, "rb") as file:
            return file.read(status.st_size)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}") from error


def parse_json(text: str | bytes) -> Any:
    """What ``json.loads`` gives; ValueError also for lists in lists in lists without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def byte_lines(path: Path) -> Iterator[bytes]:
    r"""The lines of a file, which end at \n alone: U+2028 inside a text does not split one."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            _check_line(line, path, number)
            yield line


def text_lines(
    path: Path, encoding: str = "utf-8-sig", errors: str = "strict", newline: str | None = ""
) -> Iterator[str]:
    """The lines of a file of text, with the ends that they have there; arguments as of ``open``."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    with open(path, encoding=encoding, errors=errors, newline=newline) as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            _check_line(line, path, number)
            yield line


def _check_line(line: str | bytes, path: Path, number: int) -> None:
    if len(line) > MAX_LINE:
        raise UserError(f"{path} line {number}: longer than {MAX_LINE:,}, the most that is read")
