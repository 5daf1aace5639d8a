"""Videos inside tar files, read where they lie: ``shard.tar@OFFSET+LENGTH`` names one.

OFFSET and LENGTH are bytes; at OFFSET begins the content of a member that is stored as it is.
"""

import os
import re
import tarfile
from typing import NamedTuple

from vt_fairseq.errors import VideoError

MAX_IN_HEADER = 8**11
_NAME = re.compile(r"(.+\.tar)@(\d{1,15})\+(\d{1,15})", re.DOTALL)


class Member(NamedTuple):
    """A file inside a tar file: ``length`` bytes from ``offset`` on."""

    tar: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.tar}@{self.offset}+{self.length}"

    def check(self) -> None:
        """Raise VideoError where the tar file has no member of this length there."""
        header = b""
        if self.offset >= tarfile.BLOCKSIZE:
            with open(self.tar, "rb", buffering=0) as file:
                header = os.pread(file.fileno(), tarfile.BLOCKSIZE, self.offset - tarfile.BLOCKSIZE)
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            found = tarfile.TarInfo()
        # Sizes of MAX_IN_HEADER and more may stand in a header before this one.
        size = found.size or max(self.length, MAX_IN_HEADER)
        whole = self.offset + self.length <= os.path.getsize(self.tar)
        if not (found.isreg() and whole and size == self.length):
            raise VideoError(
                f"{os.path.basename(self.tar)} has no file of {self.length:,} bytes at byte "
                f"{self.offset:,}: it is not the tar file that was prepared; prepare it again"
            )


def member_of(path: str | os.PathLike[str]) -> Member | None:
    """The member that ``path`` names; None for a path of a file or folder."""
    named = _NAME.fullmatch(os.fspath(path))
    return named and Member(named[1], int(named[2]), int(named[3]))


def file_of(path: str | os.PathLike[str]) -> str:
    """The file that is opened for ``path``: of a member its tar file."""
    member = member_of(path)
    return member.tar if member else os.fspath(path)
