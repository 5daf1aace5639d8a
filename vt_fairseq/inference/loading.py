"""What everything that asks a trained model has in common: opening its checkpoint, and encoding."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks, utils
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import merge_with_parent
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import DictConfig, OmegaConf, open_dict

import vt_fairseq.models.architectures  # noqa: F401
from vt_fairseq.devices import check_gpus, emulates
from vt_fairseq.errors import UserError
from vt_fairseq.library.segment_model import fingerprint
from vt_fairseq.models.checkpoint_state import saved_tokenizer
from vt_fairseq.models.pretrained.exported import read_model
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.task import VideoTranslateTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode with its task, on ``device``.

    Attributes:
        model: its video network's BatchNorms are folded into the convolutions.
        cfg: the task's options in the checkpoint, for ``task.load_dataset(split, task_cfg=cfg)``.
        path: what was opened, absolute.
        fingerprint: see ``segment_model.fingerprint``.
    """

    model: VideoTranslateModel
    task: VideoTranslateTask
    device: torch.device
    cfg: FairseqDataclass
    path: Path
    fingerprint: str


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    overrides: dict[str, Any] | None = None,
) -> Loaded:
    """Model and task of a checkpoint.

    Args:
        path: the ``.pt`` file of ``fairseq-train`` or ``vt-init``, or a folder of ``vt-init
            --export``.
        data: a data directory, for its splits; None: the vocabulary and the class names in the
            checkpoint are enough.
        vocabulary: the sentencepiece model, for a checkpoint that holds none.
        device: None: the GPU where there is one, else the CPU.
        dtype: of the weights.
        overrides: options of ``--task video_translate`` in place of the checkpoint's.

    Raises:
        UserError: there is no checkpoint, it is damaged or none of this task, it was trained with
            another vocabulary than that of ``data``, or there is no such device.
    """
    device = usable_device(device)
    if emulates(device, dtype):
        logger.warning(
            "%s on a processor without instructions for it takes many times as long as float32",
            str(dtype).removeprefix("torch."),
        )
    state = read_model(Path(path), vocabulary)
    cfg = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    with open_dict(cfg):
        # Whether links are followed is for the user to say, and never for a checkpoint.
        cfg.task.update({"eval_bleu": False, "results_path": None, "follow_links": False})
        cfg.task.cuda_graphs = False  # in training it is another thing
        cfg.task.context = False  # what it did in training stands in no_context
        cfg.task.update(overrides or {})
        cfg.task.data, cfg.task.cpu = str(data or ""), device.type != "cuda"
    if data:
        task = tasks.setup_task(cfg.task, from_checkpoint=True)
    else:
        task = task_without_data(cfg.task, state["task_state"])
    task.load_state_dict(state["task_state"])
    model = task.build_model(cfg.model, from_checkpoint=True)
    model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    model.eval().fold()
    own = Path(os.path.abspath(path)), fingerprint(state["model"], task)
    model = model.to(device, dtype)
    task.capture_steps([model])
    return Loaded(model, task, device, cfg.task, *own)


def usable_device(name: str | torch.device | None) -> torch.device:
    """The device, by default the CUDA GPU or else the CPU; raise UserError where there is none."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device {name}: {str(error).splitlines()[0]}") from error


def task_without_data(cfg: DictConfig, task_state: dict[str, Any]) -> VideoTranslateTask:
    """The task from what its checkpoint holds.

    Raises UserError when that has no vocabulary, or torch has no code for the GPU.
    """
    if not cfg.cpu:
        check_gpus()
    # As fairseq's setup_task: options that are newer than the checkpoint get their defaults.
    task, options = (known[cfg._name] for known in (TASK_REGISTRY, TASK_DATACLASS_REGISTRY))
    cfg = merge_with_parent(options(), cfg, remove_missing=True)
    classes = {**task_state.get("classes", {}), **task_state.get("head_classes", {})}
    return task(cfg, None, saved_tokenizer(task_state), classes)


@torch.inference_mode()
def encode(loaded: Loaded, sample: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """The encoder's output for a collated sample."""
    inputs = to_device(sample, loaded.device)["net_input"]
    return loaded.model.encoder(**{k: v for k, v in inputs.items() if k != "prev_output_tokens"})


def to_device(sample: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A copy of ``sample`` with its tensors on ``device``."""
    return utils.apply_to_sample(lambda tensor: tensor.to(device), sample)
