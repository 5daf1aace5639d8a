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

BUILD_SECONDS, SECONDS_BETWEEN_LOOKS = 600, 2.0


def wait_for_other_builds(extension: str) -> None:
    """Until no other process compiles ``extension``, for which torch waits without end.

    Raises UserError where its lock is BUILD_SECONDS old: whoever made it was killed.
    """
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    locks = [root / extension / "lock", *root.glob(f"*/{extension}/lock")]
    for lock in locks:
        with contextlib.suppress(FileNotFoundError):  # it has been let go
            while True:
                if time.time() - lock.stat().st_mtime > BUILD_SECONDS:
                    raise UserError(
                        f"{lock} is more than {BUILD_SECONDS / 60:.0f} minutes old: a process that "
                        f"compiled DeepSpeed's {extension} was killed. Delete the file and start "
                        "again, or add --adam-backend torch"
                    )
                logger.info("waiting for another process that compiles %s (%s)", extension, lock)
                signals.end_before_training()
                time.sleep(SECONDS_BETWEEN_LOOKS)
