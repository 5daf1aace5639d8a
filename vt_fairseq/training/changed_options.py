"""Logs, in one line, the options that differ from those of the checkpoint that a run resumes."""

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from vt_fairseq.models.checkpoint_config import FORMER
from vt_fairseq.task import TRAIN_ROWS

logger = logging.getLogger(__name__)

# Options on which the course of training depends, by section; None: all of them.
COMPARED: dict[str, tuple[str, ...] | None] = {
    "common": ("seed", "fp16", "bf16"),
    "dataset": ("batch_size", "max_tokens", "train_subset"),
    "optimization": ("update_freq", "lr", "clip_norm"),
    "distributed_training": ("distributed_world_size",),
    "model": None,
    "task": None,
    "criterion": None,
    "optimizer": None,
    "lr_scheduler": None,
}
RESPELLED = [("centre", "center"), ("center", "centre")]  # 0.1.0 had the first
# Where things lie, how results are written, what is logged or cached; copies of other sections'.
LEFT_OUT = (
    *("data", "video_root", "follow_links", "results_path", "cpu", "given"),
    *("eval_bleu_print_samples", "blank_check", "cache_clips"),
)


def warn_of_changes(
    filename: str, saved: Mapping[str, Any], cfg: Any, task_state: Mapping[str, Any]
) -> None:
    """Log what is not as it was, with old and new value; the command's options hold.

    Args:
        filename: the checkpoint.
        saved: its state.
        cfg: the command's whole configuration.
        task_state: the task's, as it would be saved now.
    """
    options: Any = OmegaConf.to_container(cfg, enum_to_str=True)
    changes = changed_options(saved.get("cfg") or {}, options)
    old = (saved.get("task_state") or {}).get(TRAIN_ROWS)
    new = task_state.get(TRAIN_ROWS)
    if old is not None and new is not None and old != new:
        changes.append(f"rows of the training data {old:,} -> {new:,}")
    if changes:
        logger.warning(
            "%s was trained otherwise; from here on as the command says: %s",
            *(filename, ", ".join(changes)),
        )


def changed_options(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """ "--batch-size 8 -> 4" of every compared option that both have."""
    changes: dict[str, str] = {}
    for section, names in COMPARED.items():
        before, now = saved.get(section), current.get(section)
        if not isinstance(before, Mapping) or not isinstance(now, Mapping):
            continue
        before = {**FORMER, **before} if section == "task" else before
        for name in before.keys() & now.keys() if names is None else names:
            option = section if name == "_name" else name
            old, new = before.get(name), now.get(name)
            if name not in LEFT_OUT and old != new and (old, new) not in RESPELLED:
                text = f"--{option.replace('_', '-')} {old} -> {new}"
                changes.setdefault(option, text)
    return sorted(changes.values())
