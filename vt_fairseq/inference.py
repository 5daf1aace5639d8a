"""What everything that asks a trained model has in common: opening its checkpoint, and encoding."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks, utils
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import merge_with_parent
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

import vt_fairseq.plugin  # noqa: F401
from vt_fairseq.data.text import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.hardware import check_gpus
from vt_fairseq.task import VideoTranslateTask, VideoTranslateTaskConfig


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode with its task, on ``device``.

    Attributes:
        cfg: the task's options in the checkpoint, for ``task.load_dataset(split, task_cfg=cfg)``.
    """

    model: nn.Module
    task: VideoTranslateTask
    device: torch.device
    cfg: FairseqDataclass


def open_checkpoint(
    path: str | Path,
    *,
    data: str | Path | None = None,
    vocabulary: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Model and task of a checkpoint.

    Args:
        path: the ``.pt`` file that ``fairseq-train`` wrote.
        data: a data directory, for its splits; None: the vocabulary and the class names in the
            checkpoint are enough.
        vocabulary: without ``data``, the sentencepiece model, for a checkpoint that holds none.
        device: None: the GPU where there is one, else the CPU.
        dtype: of the weights.
        overrides: options of ``--task video_translate`` in place of the checkpoint's.

    Raises:
        UserError: there is no checkpoint, it is damaged or none of this task, it was trained with
            another vocabulary than that of ``data``, or there is no such device.
    """
    device = usable_device(device)
    state = read_state(Path(path))
    cfg = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    with open_dict(cfg):
        cfg.task.update({"eval_bleu": False, "results_path": None, **(overrides or {})})
        cfg.task.data, cfg.task.cpu = str(data or ""), device.type != "cuda"
    task_state = state.get("task_state") or {}
    if data:
        task = tasks.setup_task(cfg.task, from_checkpoint=True)
    else:
        task = task_without_data(cfg.task, task_state, vocabulary)
    task.load_state_dict(task_state)
    model = task.build_model(cfg.model, from_checkpoint=True)
    model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    return Loaded(model.eval().to(device, dtype), task, device, cfg.task)


def usable_device(name: str | torch.device | None) -> torch.device:
    """The device, by default the CUDA GPU or else the CPU; raise UserError where there is none."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"there is no device {name}: {str(error).splitlines()[0]}") from error


def read_state(path: Path) -> dict[str, Any]:
    """What ``path`` holds, without the optimizer's state; tensors stay on disk until they are used.

    Raises UserError where it is missing, damaged, no checkpoint of this task, or would run code.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        mmap = zipfile.is_zipfile(path)  # not so in files of torch before 1.6
        state = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except Exception as error:
        # Damaged files fail in as many ways as there are bytes.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is no checkpoint, damaged, or would run code: {reason}") from error
    if not isinstance(state, dict) or not {"cfg", "model"} <= state.keys():
        raise UserError(f"{path} is no checkpoint of fairseq: expected the keys cfg and model")
    name = ((state["cfg"] or {}).get("task") or {}).get("_name")
    if name != "video_translate":
        raise UserError(f"{path} is a checkpoint of the task {name}, expected video_translate")
    state.pop("last_optimizer_state", None)
    return state


def task_without_data(
    cfg: DictConfig, task_state: Mapping[str, Any], vocabulary: str | Path | None
) -> VideoTranslateTask:
    """The task from what its checkpoint holds, and ``vocabulary`` if given.

    Raises UserError when there is no vocabulary, or torch has no code for the GPU.
    """
    if not cfg.cpu:
        check_gpus()
    if vocabulary:
        tokenizer = Tokenizer.from_file(vocabulary)
    elif "vocabulary" in task_state:
        proto = task_state["vocabulary"].numpy().tobytes()
        tokenizer = Tokenizer(proto, "the checkpoint's vocabulary")
    else:
        raise UserError(
            "the checkpoint holds no vocabulary (an earlier version wrote it): name the "
            "sentencepiece model that it was trained with (spiece.model in its data directory)"
        )
    # As fairseq's setup_task: options that are newer than the checkpoint get their defaults.
    cfg = merge_with_parent(VideoTranslateTaskConfig(), cfg, remove_missing=True)
    return VideoTranslateTask(cfg, None, tokenizer, dict(task_state.get("classes", {})))


@torch.inference_mode()
def encode(loaded: Loaded, sample: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
    """The encoder's output for a collated sample."""
    inputs = to_device(sample, loaded.device)["net_input"]
    return loaded.model.encoder(**{k: v for k, v in inputs.items() if k != "prev_output_tokens"})


def to_device(sample: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A copy of ``sample`` with its tensors on ``device``."""
    return utils.apply_to_sample(lambda tensor: tensor.to(device), sample)
