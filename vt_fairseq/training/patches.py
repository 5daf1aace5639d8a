"""What in fairseq no subclass and no hook can reach: the names replaced, each with its reason.

``PATCHES`` are put in place when ``--user-dir`` is imported (``plugin``), those of
``TRAINING_PATCHES`` when our trainer is made. fairseq's files do not change.
"""

import functools
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from fairseq import checkpoint_utils
from fairseq import trainer as fairseq_trainer
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.nan_detector import NanDetector
from fairseq.scoring.bleu import Scorer
from fairseq.trainer import Trainer

from vt_fairseq.errors import UserError
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.training import checkpoints, process_groups
from vt_fairseq.training.trainer import VideoTranslateTrainer
from vt_fairseq.training.zero.config import zero_stage
from vt_fairseq.training.zero.trainer import DeepSpeedTrainer
from vt_fairseq.visible_text import say

USER_ERROR = f"{UserError.__module__}.{UserError.__qualname__}: "


def choose_trainer(cls: type, cfg: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
    """``Trainer.__new__``: an object of our class for our task, of fairseq's for any other."""
    if cls is Trainer and isinstance(task, VideoTranslateTask):
        install(TRAINING_PATCHES)
        cls = DeepSpeedTrainer if zero_stage(cfg) else VideoTranslateTrainer
    elif cls is Trainer and zero_stage(cfg):
        raise UserError("--zero-stage: the engine trains --task video_translate alone")
    return object.__new__(cls)


def report_user_errors(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """``sys.excepthook``: one line instead of a traceback for a user's mistake."""
    # One raised in a process that this one started carries that one's traceback, which ends with
    # the mistake.
    _, in_traceback, mistake = f"\n{error}".rpartition(f"\n{USER_ERROR}")
    if issubclass(kind, UserError) or in_traceback:
        say(f"error: {mistake.strip()}", sys.stderr)
    else:
        _excepthook(kind, error, traceback)


def add_if_referenced(self: Scorer, reference: torch.Tensor, hypothesis: torch.Tensor) -> None:
    """``Scorer.add``, but for a row without references."""
    if reference.numel():
        _add(self, reference, hypothesis)


_excepthook = sys.excepthook
_add = Scorer.add


class Patch(NamedTuple):
    """``owner.name`` becomes ``replacement``."""

    owner: Any
    name: str
    replacement: Any
    reason: str


PATCHES = (
    Patch(
        *(Trainer, "__new__", staticmethod(choose_trainer)),
        "fairseq-train calls the class by its name and has no option for another.",
    ),
    Patch(
        *(distributed_utils, "call_main", process_groups.call_main),
        "It decides on the process group before the task exists; see process_groups.py.",
    ),
    Patch(
        *(checkpoint_utils, "verify_checkpoint_directory", checkpoints.verify_directory),
        "It is called before the task exists and ends in a traceback.",
    ),
    Patch(
        *(checkpoint_utils, "load_checkpoint_to_cpu", checkpoints.load_checkpoint_to_cpu),
        "fairseq-validate calls it before the task exists, and it does not say why it refuses.",
    ),
    Patch(
        *(Scorer, "add", add_if_referenced),
        "Its C code crashes fairseq-generate on a row without references.",
    ),
    Patch(
        *(sys, "excepthook", report_user_errors),
        "fairseq's commands catch no error, and a user's mistake should be one line.",
    ),
)
TRAINING_PATCHES = (
    Patch(
        *(PathManager, "copy", staticmethod(checkpoints.copy_whole)),
        "It writes checkpoint_last.pt in place, which a kill would leave cut off.",
    ),
    Patch(
        *(fairseq_trainer, "NanDetector", functools.partial(NanDetector, backward=False)),
        "Its hooks on the backward pass fail for encoders, which return lists in a dict.",
    ),
)


def install(patches: Iterable[Patch]) -> None:
    """Put these in place; calling it again changes nothing."""
    for patch in patches:
        setattr(patch.owner, patch.name, patch.replacement)
