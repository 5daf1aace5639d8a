"""Importing fairseq for something else than training: no DeepSpeed, no output, nothing left behind.

fairseq imports DeepSpeed where it is installed, only to know that it is there. That costs half a
second, and DeepSpeed may print to stdout. One of fairseq's tasks also sets up the root logger.
"""

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Around an import of fairseq, or of what imports it; once imported, nothing happens here."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    hidden = "deepspeed" not in sys.modules
    logging.disable(logging.WARNING)
    if hidden:
        sys.modules["deepspeed"] = None  # type: ignore[assignment]  # for Python: there is none
    try:
        yield
    finally:
        if hidden:
            del sys.modules["deepspeed"]
            # This module imports DeepSpeed only when it is used; it shall know the truth then.
            cpu_adam: Any = sys.modules.get("fairseq.optim.cpu_adam")
            if cpu_adam is not None:
                cpu_adam.has_deepspeed = importlib.util.find_spec("deepspeed") is not None
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
