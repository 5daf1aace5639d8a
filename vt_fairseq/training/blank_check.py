"""At the end of a training: whether the model is better with the video than without.

A model may learn which texts are frequent and never look; its loss falls all the same.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

from fairseq.logging import metrics

from vt_fairseq.training.trainer import VideoTranslateTrainer

logger = logging.getLogger(__name__)


def train_and_compare(main: Callable[..., None], cfg: Any, **kwargs: Any) -> None:
    """``main`` of one of fairseq's commands, and after a training of our task the comparison."""
    VideoTranslateTrainer.latest = None
    try:
        main(cfg, **kwargs)
        trainer = VideoTranslateTrainer.latest
        if trainer is not None:
            trainer.is_done = True
            compare_with_blank(trainer)
    finally:
        VideoTranslateTrainer.latest = None


def compare_with_blank(trainer: VideoTranslateTrainer) -> None:
    """Log accuracies with and without the video, with a warning where they are much the same.

    The numbers with the video are those of the validation after the last update; without one, or
    with one of a part of the split, nothing is said. The pass over blank video decodes nothing and
    generates nothing.
    """
    task, dataset = trainer.task, trainer.cfg.dataset
    seen = [v for v in task.validated if v["num_updates"] == trainer.get_num_updates()]
    in_part = dataset.max_valid_steps is not None
    if not task.cfg.blank_check or task.cfg.blank_video or not seen or in_part:
        return
    for split, numbers in zip(dataset.valid_subset.split(","), seen, strict=False):
        rows = len(task.dataset(split))
        if rows > task.cfg.blank_check:
            most = task.cfg.blank_check
            logger.info("%s has %d rows, more than --blank-check %d compares", split, rows, most)
            continue
        for key, blank in blank_accuracies(trainer, split).items():
            say_difference(split, key, numbers[key], blank, rows)


def blank_accuracies(trainer: VideoTranslateTrainer, split: str) -> dict[str, float]:
    """The accuracies, in per cent, that a validation on blank video logs."""
    with trainer.task.blank_split(split) as blank, metrics.aggregate(new_root=True) as numbers:
        batches = trainer.get_valid_iterator(blank).next_epoch_itr(
            shuffle=False, set_dataset_epoch=False
        )
        for sample in batches:
            trainer.valid_step(sample)
    found = numbers.get_smoothed_values()
    return {key: value for key, value in found.items() if key.endswith("accuracy")}


def say_difference(split: str, key: str, seen: float, blank: float, rows: int) -> None:
    """Log both; a warning where the gain is within two standard errors of the difference.

    Rows count, and not their tokens, which depend on each other.
    """
    share = (seen + blank) / 200
    error = 100 * math.sqrt(2 * share * (1 - share) / rows)
    text = f"{split}: {key} {seen:.2f} with the video, {blank:.2f} on blank video"
    if seen - blank > 2 * error:
        logger.info("%s", text)
    else:
        logger.warning(
            "%s: of %d rows that is no clear gain, so the model may not be looking at the video "
            "(docs/finetuning.md)",
            *(text, rows),
        )
