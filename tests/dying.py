"""``fairseq-train`` with data workers that die, each in its third clip or for lack of memory.

python tests/dying.py SIGKILL|SIGSEGV|... [fairseq-train's arguments]   the signal kills them
python tests/dying.py shm ...           batches find no room in a /dev/shm of 300 kB; needs root
python tests/dying.py may-mount         exit code 0 if the latter can be had
"""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

from fairseq_cli.train import cli_main

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vt_fairseq.data.clips import ClipLoader

CLIP = 3
CLONE_NEWNS = 0x20000


def die_in_workers(number: int) -> None:
    """Let every process but this one be killed by the signal in its third clip."""
    trainer, call, clips = os.getpid(), ClipLoader.__call__, 0

    def dying(self, row, rng):
        nonlocal clips
        clips += 1
        if clips == CLIP and os.getpid() != trainer:
            os.kill(os.getpid(), number)
        return call(self, row, rng)

    ClipLoader.__call__ = dying


def small_shared_memory() -> bool:
    """A small /dev/shm that this process alone sees; False where that is not allowed."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNS):
        return False
    mounts = (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=300k", "tmpfs", "/dev/shm"])
    return not any(
        subprocess.run(["mount", *m], stderr=subprocess.DEVNULL).returncode for m in mounts
    )


if __name__ == "__main__":
    what = sys.argv.pop(1)
    if what == "may-mount":
        sys.exit(not small_shared_memory())
    if what == "shm":
        assert small_shared_memory()
    else:
        # As it is by itself; ``tests.warm``'s processes have another, whose workers are not forks.
        multiprocessing.set_start_method("fork", force=True)
        die_in_workers(getattr(signal, what))
    cli_main()
