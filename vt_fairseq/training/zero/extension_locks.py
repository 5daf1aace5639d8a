"""torch compiles an extension once, under a lock that a killed process leaves behind for good."""

import contextlib
import logging
import os
import time
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

from vt_fairseq.errors import UserError
from vt_fairseq.training import signals

logger = logging.getLogger(__name__)

# What DeepSpeed compiles for what we use: its Adam, on a CPU and on a GPU.
EXTENSIONS = ("cpu_adam", "fused_adam")
BUILD_SECONDS, SECONDS_BETWEEN_LOOKS = 600, 2.0


def wait_for_other_builds() -> None:
    """Until no other process compiles one of DeepSpeed's extensions: torch would wait without end.

    Raises UserError where a lock is BUILD_SECONDS old: whoever made it was killed.
    """
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for name in EXTENSIONS:
        for lock in (root / name / "lock", *root.glob(f"*/{name}/lock")):
            with contextlib.suppress(FileNotFoundError):  # it has been let go
                wait_for(lock)


def wait_for(lock: Path) -> None:
    """Until the lock is gone, which raises FileNotFoundError, or too old, UserError."""
    while True:
        if time.time() - lock.stat().st_mtime > BUILD_SECONDS:
            raise UserError(
                f"{lock} is more than {BUILD_SECONDS / 60:.0f} minutes old: a process that "
                f"compiled {lock.parent.name} for DeepSpeed was killed: delete the file"
            )
        logger.info("waiting for another process that compiles %s (%s)", lock.parent.name, lock)
        signals.end_before_training()
        time.sleep(SECONDS_BETWEEN_LOOKS)
