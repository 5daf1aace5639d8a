"""What fairseq and its libraries print at the start of a command that tells its user nothing.

A training would else begin with 400 lines: the whole configuration, every layer of the model, a
line for each bias that T5 does not have, and what Hydra and torch think of fairseq's calls. With
``LOGLEVEL=DEBUG``, fairseq's own switch, all of it is there.
"""

import logging
import os
import warnings
from typing import Any

from omegaconf import DictConfig
from torch import nn

# Names of loggers and the beginnings of their messages; fairseq takes parameters that a module
# does not have (biases of None) for shared ones.
UNTOLD = (
    ("fairseq.trainer", "detected shared parameter"),
    ("fairseq_cli.train", "num. shared model params"),  # `start` says it
    ("fairseq_cli.train", "num. expert model params"),
    ("fairseq_cli.train", "max tokens per device"),
    ("fairseq_cli.train", "task: "),
    ("fairseq_cli.train", "model: "),
    ("fairseq_cli.train", "criterion: "),
    ("fairseq.data.iterators", "grouped total_num_itrs"),
)
# The other commands print the whole configuration alone.
LOGGERS = sorted({name for name, _ in UNTOLD} | {"fairseq_cli.generate", "fairseq_cli.validate"})


def quiet() -> None:
    """From now on leave it out, unless the environment asks for everything."""
    if os.environ.get("LOGLEVEL", "").lower() == "debug":
        return
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if is_told not in logger.filters:
            logger.addFilter(is_told)
    # Of fairseq's calls, which nobody who trains can change.
    for module in ("hydra", "fairseq", r"torch\.utils\.data"):
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"{module}\b")
    warnings.filterwarnings("ignore", message=r"\n?'config' is validated against")
    logging.getLogger("hydra").setLevel(logging.INFO)


def is_told(record: logging.LogRecord) -> bool:
    """Whether a record of fairseq's says something; its objects are the options and the model."""
    content: Any = record.msg
    if isinstance(content, DictConfig | nn.Module):
        return False
    return not any(record.name == name and str(content).startswith(b) for name, b in UNTOLD)
