"""Files and folders that appear under their name whole, or not at all; one run a folder.

Until then they have a name beside it that nobody can guess, and are locked. What a killed process
left behind is no longer locked, and goes when something is written to its folder again.
"""

import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import parse_json

logger = logging.getLogger(__name__)

LOCK = ".lock"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Between making a partial file and locking it another process must not take it for a leftover.
SECONDS_BEFORE_REMOVAL = 60
# Of a file's name in bytes: file systems allow 255, and a partial file's has 22 more.
LONGEST = 200
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)


def partial_name(path: Path) -> str:
    """A name for what will be renamed to ``path``: beside it, hidden, not to be guessed."""
    name = os.fsdecode(os.fsencode(path.name)[:LONGEST])
    return f".{name}.{secrets.token_hex(8)}.tmp"


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` whole, or not at all when the block raises.

    Its folder is made. A kill at any moment, of the machine too, leaves the old file or the new.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent.resolve())
    partial = path.with_name(partial_name(path))
    try:
        with full_disk_named(path), open(partial, "xb") as file:  # follows no link
            lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Put ``path`` into the OSError of a full disk: writing to an open file does not know it."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in DISK_FULL:
            error.filename = str(path)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON to ``path``, whole or not at all; ValueError for NaN or infinity."""
    write_file(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder that appears under its name when the block ends, and not at all when it raises.

    Under that name there may be nothing yet, or an empty folder.
    """
    with partial_folder(folder) as partial:
        yield partial
        partial.replace(folder)


@contextlib.contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path`` for as long as the block runs; the folder around it is made.

    For what others write by its name, and what is then renamed to ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent.resolve())
    partial = path.with_name(partial_name(path))
    partial.mkdir()
    handle = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        lock(handle)
        yield partial
    finally:
        os.close(handle)
        shutil.rmtree(partial, ignore_errors=True)


@functools.cache  # once in a process: folders may hold a hundred thousand files
def remove_leftovers(folder: Path) -> None:
    """Delete the partial files and folders that killed processes left in ``folder``."""
    for entry in os.scandir(folder):
        if PARTIAL.fullmatch(entry.name) is None:
            continue
        with contextlib.suppress(OSError):  # renamed meanwhile, in use, or not ours
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > SECONDS_BEFORE_REMOVAL:
                remove_unlocked(Path(entry.path))


def remove_unlocked(partial: Path) -> None:
    """Delete what no process holds; raises OSError where one does."""
    handle = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()
    finally:
        os.close(handle)


def lock(handle: int) -> None:
    """Hold a partial file until its process ends; nothing where the file system has no locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_lock(file: Path) -> IO[str]:
    """The file of a lock, made where it is not there; UserError for a link and what is no file.

    What a link leads to would be overwritten.
    """
    refusal = f"{file} is a link or no file, and so no lock of a run: remove it"
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        handle = os.open(file, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(refusal) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(refusal)
    return os.fdopen(handle, "a+", encoding="utf-8")


class RunLock:
    """Holds something for one run.

    The system lets go of it when the process ends, however.
    """

    def __init__(self, file: Path, held: Path, advice: str):
        """Take the lock; raise UserError naming the run that has it, and what to do instead.

        A second one in the same process is the first one's.

        Args:
            file: whose lock it is; made where it is not there.
            held: what the run writes to, for the message.
        """
        self.file: IO[str] = open_lock(file)
        try:
            # Of this process alone: data workers that outlive a killed run must not hold it.
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                logger.warning("%s has no locks: two runs would not notice each other", held)
                return
            self.file.seek(0)
            raise UserError(
                f"another run writes to {held}: {describe_holder(self.file.read())}; stop it, or "
                f"{advice}"
            ) from error
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        with full_disk_named(file):
            self.file.truncate(0)
            self.file.write(json.dumps(holder, allow_nan=False))
            self.file.flush()

    def release(self) -> None:
        """Let go of it."""
        self.file.close()


class DirectoryLock(RunLock):
    """Holds a folder of results for one run."""

    def __init__(self, folder: Path, option: str):
        """As of ``RunLock``; ``option`` is what to change."""
        super().__init__(folder / LOCK, folder, f"give this one a {option} of its own")


def describe_holder(text: str) -> str:
    """ "process 17 on node3, for 5 min" from the lock's content."""
    try:
        holder = parse_json(text)
        minutes = (time.time() - holder["since"]) / 60
        return f"process {holder['pid']} on {holder['host']}, for {minutes:.0f} min"
    except (ValueError, KeyError, TypeError):
        return "it has only just begun"
