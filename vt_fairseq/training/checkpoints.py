"""Checkpoints that survive: written whole, checked before they are used, one run a directory.

A ``.pt`` file is a zip archive whose directory stands at its end and whose records carry
checksums, so it tells by itself whether it is whole. The shards of DeepSpeed's optimizer are
written before the ``.pt``, which names them with their sizes: it marks the whole as complete.
"""

import contextlib
import logging
import math
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.distributed import utils as distributed_utils
from omegaconf import OmegaConf

from vt_fairseq.errors import RunFailure, UserError, from_system, lasts, naming
from vt_fairseq.files import untrusted_files
from vt_fairseq.files.atomic_files import (
    DISK_FULL,
    DirectoryLock,
    atomic_file,
    partial_name,
    sync_folder,
    write_file,
)
from vt_fairseq.models.checkpoint_config import WITH_CRITERION
from vt_fairseq.models.checkpoint_state import check_state, optimizer_history
from vt_fairseq.models.pretrained.exported import read_model
from vt_fairseq.models.pretrained.files import is_finite
from vt_fairseq.task import INPUTS
from vt_fairseq.task_config import INPUT_OPTIONS

logger = logging.getLogger(__name__)

LAST = "checkpoint_last.pt"
SAVE_ATTEMPTS, SECONDS_BETWEEN = 3, 2.5
SCARCE = 3  # warn when fewer than so many checkpoints still fit


def keep_last_epoch(cfg: Any, epoch: int) -> None:
    """Have fairseq validate and save at the end of ``epoch`` where it is that of ``--max-epoch``.

    As it does at ``--max-update``; otherwise what was learned since the last multiple of
    ``--save-interval`` would be lost.
    """
    if epoch == cfg.optimization.max_epoch:
        cfg.checkpoint.save_interval = cfg.dataset.validate_interval = 1


# --- writing -------------------------------------------------------------------------------------


def save_whole(obj: Any, filename: str) -> None:
    """Write a checkpoint under another name, fsync, rename: a kill leaves the old file or the new.

    Raises UserError when the disk is full or may not be written to; nothing is left behind then,
    and what was under ``filename`` is still there.
    """
    path = Path(filename)
    check_finite(obj, path)
    for attempt in range(1, SAVE_ATTEMPTS + 1):
        try:
            with atomic_file(path) as file, system_error_kept():
                torch.save(obj, file)
            warn_if_scarce(path)
            return
        except (OSError, RuntimeError) as error:
            if (failure := lasting(error, path)) is not None:
                raise failure from error
            if attempt == SAVE_ATTEMPTS:
                raise
            logger.warning("writing %s failed, once more: %s", path, error)
            time.sleep(SECONDS_BETWEEN)


def check_finite(obj: Any, path: Path) -> None:
    """Raise RunFailure for a model with a weight that is not a number: resuming would not help."""
    for name, tensor in (obj.get("model") or {}).items():
        if not is_finite(tensor):
            raise RunFailure(
                f"{path} is not written: {name} has values that are not finite; go on from an "
                "earlier checkpoint with a lower --lr"
            )


@contextlib.contextmanager
def system_error_kept() -> Iterator[None]:
    """Around ``torch.save`` into an open file; it has one RuntimeError for whatever happens to it.

    Raises the OSError behind it, where there is one: a full disk, a quota, a limit of size.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    """``PathManager.copy`` as a second name for the same file; a copy where that cannot be.

    fairseq copies the newest checkpoint over ``checkpoint_last.pt`` in place, so that a kill
    during the copy leaves a broken file where the restart looks first. Checkpoints are replaced and
    never changed, so two names may share one file.
    """
    target = Path(dst_path)
    if target.exists() and not overwrite:
        return False
    temporary = target.with_name(partial_name(target))
    try:
        os.link(src_path, temporary)
    except OSError:  # another file system, or one without links
        with open(src_path, "rb") as source, atomic_file(target) as file:
            shutil.copyfileobj(source, file)
        return True
    os.replace(temporary, target)
    temporary.unlink(missing_ok=True)  # still there if both were the same file already
    sync_folder(target.parent)
    return True


def lasting(error: Exception, path: Path) -> UserError | None:
    """Why ``path`` cannot be written where trying again would not help; None when it may."""
    if not isinstance(error, OSError) or not lasts(error):
        return None
    failure = from_system(OSError(error.errno, ""), str(path))
    if failure is None:
        return None
    free = ""
    if error.errno in DISK_FULL and path.parent.is_dir():
        free = f" ({shutil.disk_usage(path.parent).free:,} bytes are free); earlier ones are whole"
    return RunFailure(f"cannot write {failure}{free}")


def warn_if_scarce(path: Path) -> None:
    """Say so before the disk is full."""
    size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
    if free < SCARCE * size:
        logger.warning(
            "%s bytes are free where checkpoints of %s bytes are written (%s): the disk will be "
            "full soon",
            *(f"{free:,}", f"{size:,}", path.parent),
        )


# --- the directory -------------------------------------------------------------------------------


def verify_directory(save_dir: str) -> None:
    """Make ``--save-dir`` and write to it; raise UserError before anything is trained in vain."""
    folder = Path(save_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / ".writable", b"1")
        (folder / ".writable").unlink()
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"--save-dir {folder}: expected a directory, found a file in its place"
        ) from error
    except OSError as error:
        failure = from_system(OSError(error.errno, ""), f"--save-dir {folder}")
        if failure is None:
            raise
        raise failure from error


# --- choosing ------------------------------------------------------------------------------------


def problem(path: Path, optimizer: bool = True) -> str | None:
    """Why a checkpoint cannot be used, or None. Reads all of it and compares checksums.

    Args:
        optimizer: its shards are wanted, too.
    """
    if not path.exists():
        return f"it is a link to {os.readlink(path)}, which is not there"
    if path.stat().st_size == 0:
        return "it is empty (0 bytes)"
    try:
        if (reason := untrusted_files.damage(path)) is not None:
            return reason
        state = untrusted_files.load_plain(path)
    except pickle.UnpicklingError as error:
        return untrusted_files.reason(path, error)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        return " ".join(str(error).split())[:200]
    if not isinstance(state, dict) or "model" not in state:
        return "it has no model in it"
    if state.get("cfg") is not None:
        try:
            check_state(state, path)
        except UserError as error:
            return str(error)
    if not optimizer:
        return None
    return problem_of_shards(path.parent, state.get("last_optimizer_state") or {})


def problem_of_shards(folder: Path, optimizer_state: dict[str, Any]) -> str | None:
    """Which of the shards that a checkpoint names is not as it was written."""
    suggestion = "--reset-optimizer starts the optimizer anew (the weights are kept)"
    for name, size in (optimizer_state.get("files") or {}).items():
        file = folder / optimizer_state["folder"] / name
        if not file.is_file():
            return f"the optimizer's shard {file} is missing; {suggestion}"
        if (actual := file.stat().st_size) != size:
            sizes = f"{actual} bytes, {size} were written"
            return f"the optimizer's shard {file} has {sizes}; {suggestion}"
        if file.suffix == ".pt" and (reason := untrusted_files.damage(file)) is not None:
            return f"the optimizer's shard {file}: {reason}; {suggestion}"
    return None


def newest_complete(save_dir: Path, optimizer: bool = True, last_first: bool = True) -> Path | None:
    """The checkpoint that a restart goes on from; None in a directory without any.

    That is ``checkpoint_last.pt`` if it is complete and ``last_first``, else the complete one of
    the most updates; the log says which. Raises UserError when there are checkpoints and none is
    complete: nothing starts from scratch unasked.

    Args:
        optimizer: its shards are wanted, too.
        last_first: False where ``checkpoint_last.pt`` may be old: a run with
            ``--no-last-checkpoints`` writes it at a signal alone.
    """
    last = save_dir / LAST
    reasons = []
    for path in newest_first(save_dir, last_first):
        reason = problem(path, optimizer)
        if reason is None:
            if path != last:
                logger.warning("going on from %s", path)
            return path
        logger.warning("%s cannot be used: %s", path, reason)
        reasons.append(f"{path.name}: {reason}")
    if reasons:
        raise UserError(
            f"no checkpoint in {save_dir} is whole ({'; '.join(reasons[:3])}); put a whole one "
            "there, or start from scratch with another --save-dir"
        )
    return None


def newest_first(save_dir: Path, last_first: bool) -> Iterator[Path]:
    """All checkpoints in the order in which ``newest_complete`` tries them.

    In order of time where the updates are equal or cannot be read: what is damaged is said first.
    """
    paths, last = sorted(save_dir.glob("checkpoint*.pt"), key=age), save_dir / LAST
    if last_first and last in paths:
        yield last  # in most cases the others need not be opened
        paths.remove(last)
    yield from sorted(paths, key=lambda path: (-updates_of(path), path != last))


def age(path: Path) -> float:
    """Minus the time at which it was written, in seconds; that of the link if it leads nowhere."""
    return -path.stat(follow_symlinks=path.exists()).st_mtime


def updates_of(path: Path) -> float:
    """How many updates a checkpoint has behind it; infinity where it does not say."""
    try:
        return optimizer_history(untrusted_files.load_plain(path))["num_updates"]
    except UserError:
        raise
    except Exception:  # whatever a damaged file makes of torch, which `problem` names
        return math.inf


def choose(trainer: Any) -> None:
    """Before anything is loaded, lock ``--save-dir`` and find the checkpoint that can be used.

    Raises UserError when another run writes to the directory, when ``--restore-file`` names nothing
    or something that cannot be used, when there are only damaged checkpoints, and where the
    environment makes torch run what is in them.
    """
    untrusted_files.refuse_forced_unpickling()
    cfg = trainer.cfg.checkpoint
    choice: tuple[str | None, str | None] = (None, None)
    if trainer.data_parallel_rank == 0:  # one process reads and checks for all
        try:
            choice = other_than_last(cfg), None
            remove_leftovers(cfg)  # not where another run is at work
        except UserError as error:
            choice = None, str(error)
    if trainer.data_parallel_world_size > 1:
        choice = distributed_utils.broadcast_object(
            choice,
            src_rank=0,
            group=trainer.data_parallel_process_group,
            dist_device=trainer.device,
        )
    path, mistake = choice
    if mistake is not None:
        raise UserError(mistake)
    if path is not None:
        cfg.restore_file, cfg.finetune_from_model = path, None


def other_than_last(cfg: Any) -> str | None:
    """What has to be loaded in place of a ``checkpoint_last.pt`` that is not whole, if anything."""
    if not cfg.no_save:
        _locks.append(DirectoryLock(Path(cfg.save_dir), "--save-dir"))
    optimizer = not cfg.reset_optimizer
    if cfg.restore_file == LAST:
        path = newest_complete(
            Path(cfg.save_dir), optimizer, last_first=not cfg.no_last_checkpoints
        )
        if path is None and cfg.finetune_from_model is not None:
            check_pretrained(Path(cfg.finetune_from_model))
        return None if path is None or path.name == LAST else str(path)
    check_named(Path(cfg.restore_file), optimizer)
    return None


def check_named(path: Path, optimizer: bool = True) -> None:
    """Raise UserError unless ``--restore-file`` can be used; fairseq would start from scratch."""
    if not path.is_file():
        raise UserError(f"--restore-file {path}: there is no such file")
    if (reason := problem(path, optimizer)) is not None:
        raise UserError(f"--restore-file {path} cannot be used: {reason}")


def check_pretrained(path: Path) -> None:
    """Raise UserError unless ``--finetune-from-model`` can be used."""
    if not path.exists():
        raise UserError(f"--finetune-from-model {path}: there is no such file or folder")
    with naming("--finetune-from-model"):
        read_model(path)


@contextlib.contextmanager
def naming_checkpoint(filename: str, cfg: Any) -> Iterator[None]:
    """Add ``filename`` to the UserError of a checkpoint that does not fit the command, and a cure.

    What lies in ``--save-dir`` is gone on from without being named in the command, also where it is
    another training's.
    """
    try:
        yield
    except UserError as error:
        text = str(error) if filename in str(error) else f"{filename}: {error}"
        if filename != cfg.finetune_from_model and Path(filename).parent == Path(cfg.save_dir):
            text += (
                f". It lies in --save-dir {cfg.save_dir}, where a training goes on from what is "
                "there: another --save-dir begins a new one"
            )
        raise type(error)(text) from error


def refuse_other_optimizer(filename: str, error: Exception) -> None:
    """Raise UserError where ``error`` is fairseq's or torch's that an optimizer is not as it was.

    fairseq's assertion is "Optimizer does not match; please reset ... . FairseqAdam vs
    FP16Optimizer"; torch's error is one of groups of parameters.
    """
    _, _, names = str(error).partition(" does not match; please reset the optimizer")
    if isinstance(error, AssertionError) and names:
        raise UserError(
            f"{filename} was trained with another optimizer, criterion or precision "
            f"({names.rpartition('. ')[2]}): add --reset-optimizer, which keeps the weights"
        ) from error
    if isinstance(error, ValueError) and str(error).startswith("loaded state dict "):
        raise other_parameters(filename) from error


def other_parameters(filename: str) -> UserError:
    """Of a run that goes on with other parameters than its optimizer has moments of."""
    return UserError(
        f"{filename} was saved by a run that trained other parameters: give --freeze-text, "
        "--freeze-video, --video-lr-scale and --head-lr-scale as it had them, or add "
        "--reset-optimizer, which keeps the weights"
    )


def remove_leftovers(cfg) -> None:
    """Delete what killed saves left behind; their checkpoints never came to be."""
    if cfg.no_save:
        return
    for pattern in (".checkpoint*.tmp", "checkpoint*.tmp"):  # the second is 0.1.0's
        for path in Path(cfg.save_dir).glob(pattern):
            path.unlink(missing_ok=True)


def load_checkpoint_to_cpu(
    path: str,
    arg_overrides: dict[str, Any] | None = None,
    load_on_all_ranks: bool | None = None,
) -> dict[str, Any]:
    """A checkpoint for fairseq, which makes a task, a model and a criterion of its ``cfg``.

    Only fairseq's trainer gives ``load_on_all_ranks``, and makes nothing of ``cfg``: that may be of
    another task. Raises UserError for a file that is refused.
    """
    untrusted_files.refuse_forced_unpickling()
    if load_on_all_ranks is None:
        state = read_model(Path(path), parts=WITH_CRITERION)
        cfg = OmegaConf.create({part: state["cfg"].get(part) for part in WITH_CRITERION})
        overwrite_args_by_name(cfg, arg_overrides or {})
        inputs = {name: cfg.task.get(name) for name in INPUT_OPTIONS}
        task_state = {**state["task_state"], INPUTS: inputs}
        return {"cfg": cfg, "model": state["model"], "task_state": task_state}
    try:
        untrusted_files.refuse_compressed(path)
        return _load_checkpoint_to_cpu(path, arg_overrides, load_on_all_ranks)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        why = untrusted_files.reason(path, error)
        raise UserError(f"{path} is damaged or not what it seems: {why}") from error


_load_checkpoint_to_cpu = checkpoint_utils.load_checkpoint_to_cpu
_locks: list[DirectoryLock] = []  # held until the process ends
