"""Cross-entropy over linear heads: discriminative fine-tuning (paper, sections 3.1 and 4.2).

Shapes: B clips, N classes of a head (for ``answer`` the candidates of the question with most).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import nn

from vt_fairseq.criterions.cross_entropy import summed
from vt_fairseq.data.head_targets import ANSWER, CLASS_HEADS, NO_CLASS
from vt_fairseq.data.tokenizer import EOS
from vt_fairseq.errors import UserError
from vt_fairseq.models.heads import scores_by_question


@register_criterion("video_translate_classification", dataclass=FairseqDataclass)
class ClassificationCriterion(FairseqCriterion):
    """Sum over the heads of the cross-entropy, each in the mean over the clips with a class.

    The loss is a sum over clips; fairseq divides gradients by the number of clips, of all
    processes and micro batches, that have a class for at least one head. Logs ``loss`` and each
    head's own in base 2 as fairseq does, accuracies in per cent (``verb_accuracy``,
    ``action_accuracy`` where verb and noun are both right, ``answer_accuracy``),
    ``verb_unlabeled`` (clips without that class, where there are any) and ``bad_clips``.
    """

    def __init__(self, task):
        super().__init__(task)
        if task.heads is None:
            raise UserError(
                "--criterion video_translate_classification trains linear heads: say which, "
                "--heads verb,noun or --heads answer"
            )

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """Loss, its number of clips, and what to log."""
        targets = targets_of_seen_clips(sample)
        logits = logits_of_clips(model, sample)
        reduction = "sum" if reduce else "none"
        losses = {
            name: F.cross_entropy(logits[name], y, ignore_index=NO_CLASS, reduction=reduction)
            for name, y in targets.items()
        }
        loss = functools.reduce(torch.add, losses.values())
        sample_size = sample["num_labeled"]
        logging_output = {
            "loss": loss.detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": sample_size,
            "bad_clips": len(sample["unreadable"]),
            **head_counts(losses, logits, targets, sample["missing"]),
        }
        return loss, sample_size, logging_output

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate over processes and micro batches."""
        total = summed(logging_outputs)
        clips = total("sample_size")
        metrics.log_scalar("loss", total("loss") / max(clips, 1) / math.log(2), clips, round=4)
        for name in (*CLASS_HEADS, "action", ANSWER):
            if any(f"{name}_count" in log for log in logging_outputs):
                log_head(name, total)
        metrics.log_scalar_sum("bad_clips", int(total("bad_clips")))

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a count or a sum."""
        return True


def log_head(name: str, total: Callable[[str], float]) -> None:
    """Log one head, or the action; ``total`` sums what ``head_counts`` counted."""
    count = total(f"{name}_count")
    accuracy = 100 * total(f"{name}_correct") / max(count, 1)
    metrics.log_scalar(f"{name}_accuracy", accuracy, count, round=2)
    if name != "action":
        loss = total(f"{name}_loss") / max(count, 1) / math.log(2)
        metrics.log_scalar(f"{name}_loss", loss, count, round=4)
    if unlabeled := int(total(f"{name}_unlabeled")):
        metrics.log_scalar_sum(f"{name}_unlabeled", unlabeled)


def targets_of_seen_clips(sample: dict[str, Any]) -> dict[str, torch.Tensor]:
    """(B,) int64 per head; nothing can be learned or measured on a clip that could not be read."""
    return {
        name: target.masked_fill(sample["missing"], NO_CLASS)
        for name, target in sample["classes"].items()
    }


def logits_of_clips(model: nn.Module, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
    """(B, N) fp32 per head.

    A batch whose questions have no candidates gets a source of its own all the same: other
    processes may wait for the model's parameters.
    """
    net_input = sample["net_input"]
    if not net_input["src_tokens"].numel():
        net_input = {**net_input, "src_tokens": net_input["src_tokens"].new_full((1, 1), EOS)}
        zero = model(**net_input)[ANSWER][:0].sum()
        return {ANSWER: zero.expand(len(sample["missing"]), 1)}
    logits = model(**net_input)
    if ANSWER in logits:
        logits = {ANSWER: scores_by_question(logits[ANSWER], sample["candidates"])}
    return logits


@torch.no_grad()
def head_counts(
    losses: dict[str, torch.Tensor],
    logits: dict[str, torch.Tensor],
    targets: dict[str, torch.Tensor],
    missing: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Sums to log of each head and of the action: clips with a class, correct ones, loss."""
    counts = {}
    known = {name: target.ne(NO_CLASS) for name, target in targets.items()}
    correct = {name: logits[name].argmax(-1) == target for name, target in targets.items()}
    for name in targets:
        counts[f"{name}_loss"] = losses[name].sum()
        counts[f"{name}_unlabeled"] = (~known[name] & ~missing).sum()
    if "verb" in targets and "noun" in targets:
        known["action"] = known["verb"] & known["noun"]
        correct["action"] = correct["verb"] & correct["noun"]
    for name in known:
        counts[f"{name}_count"] = known[name].sum()
        counts[f"{name}_correct"] = (correct[name] & known[name]).sum()
    return counts
