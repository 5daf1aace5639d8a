"""The sharded half of a checkpoint: what each process keeps of the optimizer, in a folder.

``save_dir/checkpoint*.pt`` are ordinary fairseq files with the whole weights;
``save_dir/deepspeed/update<N>/`` (``-2`` ... where an update was saved again) holds the optimizer's
shards of the same moment. The .pt names its folder relative to itself, so that both can be moved
together. Files are read as data only: no pickled code runs.
"""

import contextlib
import copyreg
import itertools
import logging
import os
import pickle
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vt_fairseq.errors import UserError
from vt_fairseq.files import untrusted_files
from vt_fairseq.training.checkpoints import lasting, other_parameters, system_error_kept

logger = logging.getLogger(__name__)

FOLDER = "deepspeed"


class OptimizerShards:
    """Writes and reads the shards of one training run.

    Attributes:
        saved: what the next .pt file says about its shards.
        in_parts: whether the optimizer steps part after part; runs of earlier versions, whose
            shards are laid out in another way, go on without.
        folder: of the .pt file that is being loaded.
    """

    def __init__(self, stage: int):
        self.stage = stage
        self.saved: dict[str, Any] = {}
        self.in_parts = True
        self.folder = Path()

    def prepare(self, checkpoint: Path, reset_optimizer: bool = False) -> None:
        """Look at what is going to be loaded, before the engine is built."""
        self.folder = checkpoint.parent
        saved = saved_state(checkpoint) if checkpoint.is_file() and not reset_optimizer else {}
        self.in_parts = "folder" not in saved or saved.get("in_parts", False)
        if not self.in_parts:
            logger.info(
                "the optimizer's shards were written before it stepped in parts, and go on like "
                "that: the step needs more memory than vt-memory predicts"
            )

    def save(self, engine, save_dir: Path, updates: int) -> None:
        """Write the shards of this moment; all processes call it together.

        Always into a folder of its own, also at an update that was saved before (fairseq does so
        when the step after it overflowed): until the new .pt is written, the old one's shards stay.
        """
        root = save_dir / FOLDER
        part = root / f"update{updates}.part"
        if dist.get_rank() == 0:
            self._remove_unused(save_dir)
            shutil.rmtree(part, ignore_errors=True)
        dist.barrier()
        pickle_stages_by_value()
        with failures_noted(engine) as failures:
            engine.save_checkpoint(str(root), tag=part.name, save_latest=False)
        raise_together(failures, part)
        folder = part.with_suffix("")
        if dist.get_rank() == 0:  # it alone writes .pt files and needs the name
            try:
                folder = unused_name(folder)
                os.replace(part, folder)
            except OSError as error:
                failures.append(error)
        raise_together(failures, part)
        self.saved = {
            "folder": f"{FOLDER}/{folder.name}",
            "zero_stage": self.stage,
            "processes": dist.get_world_size(),
            "in_parts": self.in_parts,
            "trained": trained_names(engine),
            "deepspeed": version("deepspeed"),
            # By these a checkpoint is known to be complete (``vt_fairseq.training.checkpoints``).
            "files": {
                str(file.relative_to(folder)): file.stat().st_size
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        }

    def load(self, engine, saved: dict[str, Any]) -> None:
        """Load what ``saved`` names into ``engine``, also for another number of processes or stage.

        Raises UserError when the shards are not there, are of other parameters, or DeepSpeed cannot
        convert them.
        """
        path = self.folder / saved["folder"]
        if not path.is_dir():
            raise UserError(
                f"the optimizer's shards {path} are missing; put the folder beside the checkpoint, "
                "or start the optimizer anew with --reset-optimizer (the weights are kept)"
            )
        check_stages(saved["zero_stage"], self.stage)
        trained = trained_names(engine)
        if saved.get("trained", trained) != trained:  # earlier versions did not say
            raise other_parameters(str(path))
        same = (saved["zero_stage"], saved["processes"]) == (self.stage, dist.get_world_size())
        with weights_only(path):
            if same:
                self._load_tag(engine, path)
            else:
                logger.info(
                    "converting the optimizer's shards: ZeRO-%d on %d processes to ZeRO-%d on %d",
                    *(saved["zero_stage"], saved["processes"], self.stage, dist.get_world_size()),
                )
                self._load_universal(engine, path)
        self.saved = dict(saved)

    def _load_tag(self, engine, path: Path) -> None:
        loaded, _ = engine.load_checkpoint(
            str(path.parent), tag=path.name, load_lr_scheduler_states=False
        )
        if loaded is None:
            raise UserError(f"DeepSpeed found nothing to load in {path}")

    def _load_universal(self, engine, path: Path) -> None:
        with universal(path) as whole:
            engine._config.load_universal_checkpoint = True
            try:
                self._load_tag(engine, whole)
            finally:
                engine._config.load_universal_checkpoint = False
        # ZeRO-3 gives all parameters one tensor to count steps in, which then counts them all.
        for state in engine.basic_optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()

    def _remove_unused(self, save_dir: Path) -> None:
        """Delete shards whose .pt files are gone: fairseq's ``--keep-*`` removes those alone."""
        try:
            used = {shards_of(path) for path in save_dir.glob("*.pt")}
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            logger.warning(
                "a checkpoint in %s cannot be read, no shards are deleted: %s", save_dir, error
            )
            return
        for folder in (save_dir / FOLDER).glob("update*"):
            if f"{FOLDER}/{folder.name}" not in used:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def failures_noted(engine) -> Iterator[list[Exception]]:
    """What goes wrong where DeepSpeed writes, instead of raising it.

    Raised in one process, it would leave the others waiting in DeepSpeed's own barriers.
    """
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    failures: list[Exception] = []
    writers = engine.checkpoint_engine
    save = writers.save

    def save_into_file(state_dict: Any, path: str) -> None:
        """Given the path, torch would not tell what the system said."""
        with open(path, "wb") as file, system_error_kept():
            save(state_dict, file)

    def noting(write: Callable[..., None]) -> Callable[..., None]:
        def noted(*args: Any, **kwargs: Any) -> None:
            if failures:
                return
            try:
                write(*args, **kwargs)
            except Exception as error:
                failures.append(error)

        return noted

    with contextlib.ExitStack() as stack:
        for owner, name, write in (
            # A user's JSON may choose a writer that opens files itself.
            (writers, "save", save_into_file if type(writers) is TorchCheckpointEngine else save),
            (writers, "makedirs", writers.makedirs),
            (engine, "_copy_recovery_script", engine._copy_recovery_script),
        ):
            setattr(owner, name, noting(write))
            stack.callback(delattr, owner, name)
        yield failures


def raise_together(failures: list[Exception], part: Path) -> None:
    """Raise in all processes what one of them met as it wrote its shards into ``part``.

    A RunFailure for what the system refuses. The shards make room again then: the checkpoint before
    and its shards are whole.
    """
    failed: list[Exception | None] = [None] * dist.get_world_size()
    # Now that all have looked at the disk.
    dist.all_gather_object(failed, failures[0] if failures else None)
    error = next(filter(None, failed), None)
    if error is None:
        return
    failure = lasting(error, part.with_suffix(""))
    dist.barrier()  # before there is room again, which the line counts
    shutil.rmtree(part, ignore_errors=True)
    raise failure if failure is not None else error


@contextlib.contextmanager
def universal(path: Path) -> Iterator[Path]:
    """Shards with whole parameters, made for as long as they are needed, beside the others.

    All processes call it together; the first one converts and deletes.
    """
    from deepspeed.checkpoint.ds_to_universal import main as convert

    whole = path.with_name(f"{path.name}.universal")
    if dist.get_rank() == 0:
        shutil.rmtree(whole, ignore_errors=True)
        convert(
            Namespace(
                input_folder=str(path),
                output_folder=str(whole),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
    dist.barrier()
    yield whole
    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(whole)


def trained_names(engine) -> list[str]:
    """The names of the parameters of which the optimizer has states."""
    return [name for name, p in engine.module.named_parameters() if p.requires_grad]


def unused_name(path: Path) -> Path:
    """``path``, or with -2, -3 ... where that is taken."""
    names = (path.with_name(f"{path.name}-{count}") for count in itertools.count(2))
    return next(p for p in itertools.chain([path], names) if not p.exists())


def shards_of(checkpoint: Path) -> str | None:
    """Folder of a checkpoint's shards relative to it, or None; reads no tensor data."""
    return saved_state(checkpoint).get("folder")


def saved_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says about its optimizer."""
    return untrusted_files.load_plain(checkpoint).get("last_optimizer_state") or {}


def check_stages(saved: int, stage: int) -> None:
    """Refuse what DeepSpeed cannot convert: its ZeRO-3 files have another layout."""
    if (saved == 3) != (stage == 3):
        raise UserError(
            f"the checkpoint's optimizer was sharded by ZeRO-{saved}, and DeepSpeed cannot turn "
            f"that into ZeRO-{stage}: go on with --zero-stage {saved}, or start the optimizer anew "
            "with --reset-optimizer (the weights are kept)"
        )


def pickle_stages_by_value() -> None:
    """Make pickles hold the value of DeepSpeed's enumeration of stages, in every Python.

    In its place Python 3.11.0 to 3.11.3 writes a call of ``getattr``, which no reader of data runs.
    """
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, lambda stage: (ZeroStageEnum, (stage.value,)))


@contextlib.contextmanager
def weights_only(path: Path) -> Iterator[None]:
    """Make DeepSpeed read its files as data; it asks for whole pickles, which can run code.

    Raises UserError, which names the folder ``path``, for a file that holds anything else.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    types = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(types):
            yield
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL [\w.]+", str(error))
        raise UserError(
            f"the optimizer's shards {path} hold more than data"
            f"{f' ({refused[0]})' if refused else ''}, which would run code: start the optimizer "
            "anew with --reset-optimizer (the weights are kept)"
        ) from error
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
