"""Kills a process at the n-th change that it makes to files, whatever code makes it.

The child asks to be traced (``begin``) and says when it is done (``end``); between the two the
kernel stops it before each system call. So Python, torch's C++ and DeepSpeed are seen alike. Of
many writes in a row the first two and each hundredth count as a change: a file is cut off there.
"""

import contextlib
import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator

# linux/ptrace.h
TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
STOPS_ARE_MARKED, KILLED_WITH_TRACER = 0x1, 0x100000
AT_ENTRY = 1
# asm/unistd.h: the calls that change files, and which argument is the flags or the descriptor.
CALLS: dict[str, dict[int, str]] = {
    "x86_64": {
        **{1: "write", 18: "pwrite", 20: "writev", 40: "sendfile", 326: "copy_file_range"},
        **{2: "open", 257: "openat", 85: "creat", 74: "fsync", 75: "fdatasync"},
        **{82: "rename", 264: "renameat", 316: "renameat2", 86: "link", 265: "linkat"},
        **{87: "unlink", 263: "unlinkat", 83: "mkdir", 258: "mkdirat", 84: "rmdir"},
        **{76: "truncate", 77: "ftruncate", 88: "symlink", 285: "fallocate"},
    },
    "aarch64": {
        **{64: "write", 68: "pwrite", 66: "writev", 71: "sendfile", 285: "copy_file_range"},
        **{56: "openat", 82: "fsync", 83: "fdatasync", 38: "renameat", 276: "renameat2"},
        **{37: "linkat", 35: "unlinkat", 34: "mkdirat", 45: "truncate", 46: "ftruncate"},
        **{36: "symlinkat", 47: "fallocate"},
    },
}
STANDARD_STREAMS = 2  # the log is no file of a save
WRITES = ("write", "pwrite", "writev", "sendfile", "copy_file_range")
WRITES_APART = 100


class SyscallInfo(ctypes.Structure):
    """``struct ptrace_syscall_info`` at the entry of a call."""

    _fields_ = (
        *(("op", ctypes.c_uint8), ("arch", ctypes.c_uint32)),
        *(("place", ctypes.c_uint64 * 2), ("number", ctypes.c_uint64)),
        ("arguments", ctypes.c_uint64 * 6),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int = 0, address: int = 0, data: int = 0) -> int:
    result = _libc.ptrace(request, pid, address, data)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
    return result


def possible() -> bool:
    """Whether processes may be traced here."""
    if platform.system() != "Linux" or platform.machine() not in CALLS:
        return False
    if (child := os.fork()) == 0:
        begin()
        os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    traced = os.WIFSTOPPED(status)
    if traced:
        _kill(child)
    return traced


def begin() -> None:
    """In the child's main thread: from now on the parent sees what is done to files."""
    if _libc.ptrace(TRACEME, 0, None, None) == -1:
        os._exit(1)
    end()


def end() -> None:
    """In the child's main thread: what comes now is none of it."""
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def changes(child: int) -> Iterator[str]:
    """The name of each change that the child is about to make, while it is stopped before it.

    It is killed when it has called ``end``, and where it is when the iterator is closed before.
    Raises RuntimeError when it ended by itself.
    """
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        raise RuntimeError(f"the child ended before its save: {status}")
    _ptrace(SETOPTIONS, child, 0, STOPS_ARE_MARKED | KILLED_WITH_TRACER)
    writes_in_a_row = forwarded = 0
    info = SyscallInfo()
    while True:
        _ptrace(SYSCALL, child, 0, forwarded)
        forwarded = 0
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise RuntimeError(f"the child ended in its save: {status}")
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == signal.SIGSTOP:
            break
        if stopped_by != signal.SIGTRAP | 0x80:
            forwarded = stopped_by
            continue
        _ptrace(GET_SYSCALL_INFO, child, ctypes.sizeof(info), ctypes.addressof(info))
        name = changes_files(info) if info.op == AT_ENTRY else None
        if name is None:
            continue
        writes_in_a_row = writes_in_a_row + 1 if name in WRITES else 0
        if writes_in_a_row > 2 and writes_in_a_row % WRITES_APART:
            continue
        try:
            yield name
        except GeneratorExit:
            break
    _kill(child)


def kill_at(child: int, operation: int) -> list[str]:
    """Let the child come to its ``operation``-th change (1, 2, ...) and kill it there.

    Returns the names of the changes that it made; all of them where there were fewer.
    """
    made: list[str] = []
    with contextlib.closing(changes(child)) as coming:
        for name in coming:
            if len(made) + 1 == operation:
                break
            made.append(name)
    return made


def changes_files(info: SyscallInfo) -> str | None:
    """The call's name, if it may change a file."""
    name = CALLS[platform.machine()].get(info.number)
    if name in ("open", "openat"):
        flags = info.arguments[1 if name == "open" else 2]
        return name if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None
    if name in ("write", "writev") and info.arguments[0] <= STANDARD_STREAMS:
        return None
    return name


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
