"""What in fairseq no subclass and no hook can reach: the names replaced, each with its reason.

``PATCHES`` are put in place when ``--user-dir`` is imported (``plugin``), those of
``TRAINING_PATCHES`` when our trainer is made. fairseq's files do not change.
"""

import argparse
import contextlib
import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import fairseq_cli.generate
from fairseq import checkpoint_utils, optim, options, scoring, utils
from fairseq import trainer as fairseq_trainer
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.nan_detector import NanDetector
from fairseq.trainer import Trainer
from torch.multiprocessing import ProcessRaisedException

from vt_fairseq.data.dictionary import T5Dictionary
from vt_fairseq.errors import RunFailure, UserError, from_system
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.task import NoRows, VideoTranslateTask
from vt_fairseq.training import (
    checkpoints,
    default_options,
    generation_options,
    process_groups,
)
from vt_fairseq.training.blank_check import train_and_compare
from vt_fairseq.training.fp16_optimizer import FP16Optimizer
from vt_fairseq.training.gradient_norm import clip_grad_norm_
from vt_fairseq.training.trainer import VideoTranslateTrainer
from vt_fairseq.training.zero.config import zero_stage
from vt_fairseq.training.zero.trainer import DeepSpeedTrainer
from vt_fairseq.visible_text import end

logger = logging.getLogger(__name__)


def choose_trainer(cls: type, cfg: Any, task: Any, *args: Any, **kwargs: Any) -> Any:
    """``Trainer.__new__``: an object of our class for our task, of fairseq's for any other."""
    if cls is Trainer and isinstance(task, VideoTranslateTask):
        install(TRAINING_PATCHES)
        cls = DeepSpeedTrainer if zero_stage(cfg) else VideoTranslateTrainer
    elif cls is Trainer and zero_stage(cfg):
        raise UserError(
            "--optimizer deepspeed_adam: the engine trains --task video_translate alone; for other "
            "tasks add --zero-stage 0"
        )
    return object.__new__(cls)


def generate_whole(cfg: Any) -> Any:
    """``fairseq_cli.generate.main``; of our task the results appear when they are whole."""
    if isinstance(cfg, argparse.Namespace):
        cfg = convert_namespace_to_omegaconf(cfg)
    if not process_groups.is_our_task(cfg.task):
        return _generate(cfg)
    with one_line_errors():
        check_models(cfg)
        generation_options.take_share(cfg)
        try:
            return _generate_whole(cfg)
        except NoRows as error:
            if cfg.distributed_training.distributed_world_size == 1:
                raise
            logger.warning("%s", error)


def _generate_whole(cfg: Any) -> Any:
    if cfg.common_eval.results_path is None:
        return _generate(cfg)
    rank = cfg.distributed_training.distributed_rank
    name = f"generate-{cfg.dataset.gen_subset}{f'.{rank}' if rank else ''}.txt"
    with atomic_file(Path(cfg.common_eval.results_path) / name) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", line_buffering=True)
        try:
            return generate_module()._main(cfg, text)
        finally:
            text.detach()


def generate_module() -> ModuleType:
    """The module of ``fairseq-generate``, which ``python -m`` has under another name."""
    main = sys.modules["__main__"]
    return main if hasattr(main, "get_symbols_to_strip_from_output") else fairseq_cli.generate


def call_main(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
    """``distributed_utils.call_main`` of fairseq-train and others, which ends in one line."""
    with one_line_errors():
        check_models(cfg)
        process_groups.call_main(cfg, functools.partial(train_and_compare, main), **kwargs)


def check_models(cfg: Any) -> None:
    """Raise UserError for a ``--path`` of our task that leads nowhere."""
    paths = cfg.common_eval.path if process_groups.is_our_task(cfg.task) else None
    for path in utils.split_paths(paths or ""):
        if path and not Path(path).exists():
            several = f" ({os.pathsep!r} divides several of them)" if path != paths else ""
            raise UserError(
                f"--path {path}: there is no such checkpoint or exported folder{several}"
            )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """An expected failure, of a process that this one started too, is one line and an exit code."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except (UserError, ProcessRaisedException) as error:
        kind, message = expected_failure(error)
        if kind is None:
            raise
        end(f"error: {message}", kind.exit_code)
    except BrokenPipeError:
        raise
    except OSError as error:
        failure = from_system(error)
        if failure is None:
            raise
        end(f"error: {failure}", failure.exit_code)


def expected_failure(error: Exception) -> tuple[type[UserError] | None, str]:
    """The kind of an expected failure, None for another, and its message.

    One that a data worker or another process raised carries that one's traceback, which ends with
    the message.
    """
    for kind in (UserError, RunFailure):
        name = f"\n{kind.__module__}.{kind.__qualname__}: "
        _, in_traceback, message = f"\n{error}".rpartition(name)
        if in_traceback:
            return kind, message.strip()
    return (type(error) if isinstance(error, UserError) else None), str(error)


def build_scorer(choice: Any, tgt_dict: Any) -> Any:
    """``scoring.build_scorer``: of our task one that leaves out rows without references."""
    scorer = _build_scorer(choice, tgt_dict)
    if isinstance(tgt_dict, T5Dictionary):
        for name in {"add", "add_string"} & set(dir(scorer)):
            setattr(scorer, name, if_referenced(getattr(scorer, name)))
    return scorer


def if_referenced(add: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``add``, which does nothing for an empty reference, text or tokens."""
    return lambda reference, hypothesis: add(reference, hypothesis) if len(reference) else None


_generate = generate_module().main
_build_scorer = scoring.build_scorer


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
        *(distributed_utils, "call_main", call_main),
        "It decides on the process group before the task exists (process_groups.py), and a user's "
        "mistake should be one line.",
    ),
    Patch(
        *(distributed_utils, "distributed_main", process_groups.distributed_main),
        "In the processes that fairseq starts Ctrl-C would look like a good end.",
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
        *(options, "parse_args_and_arch", default_options.parse_args_and_arch),
        "Its defaults (a rate of 0.25, cross_entropy) are of other tasks, and what is missing ends "
        "in tracebacks.",
    ),
    Patch(
        *(generate_module(), "main", generate_whole),
        "It empties the results of the run before when it starts; all processes use one file.",
    ),
    Patch(
        *(scoring, "build_scorer", build_scorer),
        "BLEU's C code crashes on a row without references, and others count it as wrong.",
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
    Patch(
        *(optim, "FP16Optimizer", FP16Optimizer),
        "The trainer calls the class by its name; its loops over parameters keep a GPU waiting.",
    ),
    Patch(
        *(utils, "clip_grad_norm_", clip_grad_norm_),
        "Every fairseq optimizer calls it; it measures gradients one by one and reads the norm in "
        "several places.",
    ),
)


def install(patches: Iterable[Patch]) -> None:
    """Put these in place; calling it again changes nothing."""
    for patch in patches:
        setattr(patch.owner, patch.name, patch.replacement)
