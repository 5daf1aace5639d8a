"""The one way in which everything that asks a trained model opens its checkpoint."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks
from fairseq.dataclass import FairseqDataclass
from omegaconf import OmegaConf, open_dict
from torch import nn

import vt_fairseq.plugin  # noqa: F401
from vt_fairseq.errors import UserError
from vt_fairseq.task import VideoTranslateTask


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
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Model and task of a checkpoint.

    Args:
        path: the ``.pt`` file that ``fairseq-train`` wrote.
        data: a data directory, for its splits and its class names; None: only the vocabulary in
            the checkpoint.
        device: None: the GPU where there is one, else the CPU.
        dtype: of the weights.
        overrides: options of ``--task video_translate`` in place of the checkpoint's.

    Raises:
        UserError: there is no checkpoint, it is damaged or none of this task, or it was trained
            with another vocabulary than that of ``data``.
    """
    state = read_state(Path(path))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cfg = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    with open_dict(cfg):
        cfg.task.update({"eval_bleu": False, "results_path": None, **(overrides or {})})
        cfg.task.data, cfg.task.cpu = str(data or ""), device.type != "cuda"
    task_state = state.get("task_state") or {}
    task = tasks.setup_task(cfg.task, from_checkpoint=True, task_state=task_state)
    task.load_state_dict(task_state)
    model = task.build_model(cfg.model, from_checkpoint=True)
    model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    return Loaded(model.eval().to(device, dtype), task, device, cfg.task)


def read_state(path: Path) -> dict[str, Any]:
    """What ``path`` holds, without the optimizer's state; tensors stay on disk until they are used.

    Raises UserError where it is missing, damaged, no checkpoint of this task, or would run code.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        mmap = zipfile.is_zipfile(path)  # not so in files of torch before 1.6
        state = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"{path} is no checkpoint, is damaged, or would run code: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(state, dict) or not {"cfg", "model"} <= state.keys():
        raise UserError(f"{path} is no checkpoint of fairseq: expected the keys cfg and model")
    name = ((state["cfg"] or {}).get("task") or {}).get("_name")
    if name != "video_translate":
        raise UserError(f"{path} is a checkpoint of the task {name}, expected video_translate")
    state.pop("last_optimizer_state", None)
    return state
