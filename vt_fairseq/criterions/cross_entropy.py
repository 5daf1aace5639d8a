"""Mean cross-entropy of the predicted word distributions (paper, section 3.1)."""

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

from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.errors import UserError
from vt_fairseq.models.half_precision_linear import at_least_fp32


@register_criterion("video_translate", dataclass=FairseqDataclass)
class VideoTranslateCriterion(FairseqCriterion):
    """Cross-entropy per target token, eos included, padding left out; also token accuracy.

    The loss is a sum over tokens; fairseq divides gradients by the number of tokens of all
    processes and micro batches, which makes it the mean. Logs ``loss`` and ``nll_loss`` in base
    2 as fairseq does, ``accuracy`` in per cent, ``bad_clips`` (clips that could not be read)
    and, where there are any, ``cut_targets`` (longer than ``--max-target-tokens``).
    """

    def __init__(self, task):
        super().__init__(task)
        if task.heads is not None:
            raise UserError(
                "--criterion video_translate trains the decoder, which --heads freezes: leave one "
                "out, or train heads with --criterion video_translate_classification"
            )

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """Loss, its number of tokens, and what to log.

        The loss of a sample without target is zero, and it runs the whole model, for whose
        parameters other processes may wait.
        """
        logging_output: dict[str, Any] = {
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": sample["ntokens"],
            "bad_clips": len(sample["unreadable"]),
            "cut_targets": sample["num_cut"],
        }
        net_input, target = sample["net_input"], sample["target"]
        if target is None:
            target = sample["id"].new_full((len(sample["id"]), 1), PAD)
            net_input = {**net_input, "prev_output_tokens": target}
        logits, _ = model(**net_input)
        if sample["num_missing"]:
            # Nothing can be learned or measured on a clip that was not seen.
            target = target.masked_fill(sample["missing"].unsqueeze(1), PAD)
        loss, correct = self.token_loss(logits, target, "sum" if reduce else "none")
        logging_output["loss"] = loss.detach()
        logging_output["correct"] = correct
        return loss, sample["ntokens"], logging_output

    @staticmethod
    def token_loss(
        logits: torch.Tensor, target: torch.Tensor, reduction: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of logits (B, L, V) and ids (B, L), and how many tokens are predicted.

        Padding does not count. ``reduction`` is "sum", or "none" for one loss per position.
        """
        loss = F.cross_entropy(
            at_least_fp32(logits).flatten(0, 1),
            target.flatten(),
            ignore_index=PAD,
            reduction=reduction,
        )
        with torch.no_grad():
            correct = (logits.argmax(-1) == target) & target.ne(PAD)
        return loss, correct.sum()

    @staticmethod
    def reduce_metrics(logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate over processes and micro batches."""
        total = summed(logging_outputs)
        tokens = total("ntokens")
        loss = total("loss") / max(tokens, 1) / math.log(2)
        metrics.log_scalar("loss", loss, tokens, round=4)
        metrics.log_scalar("nll_loss", loss, tokens, round=4)
        metrics.log_derived("ppl", lambda meters: 2 ** min(meters["loss"].avg, 60.0))
        metrics.log_scalar("accuracy", 100 * total("correct") / max(tokens, 1), tokens, round=2)
        metrics.log_scalar_sum("bad_clips", int(total("bad_clips")))
        if cut := int(total("cut_targets")):
            metrics.log_scalar_sum("cut_targets", cut)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a count or a sum."""
        return True


def summed(logging_outputs: list[dict[str, Any]]) -> Callable[[str], float]:
    """From a key to its sum over processes and micro batches, a plain number.

    A tensor or numpy scalar would end up in the checkpoint. All tensors are read at once, because
    the CPU waits for a GPU each time.
    """
    keys = {key for log in logging_outputs for key, x in log.items() if isinstance(x, torch.Tensor)}
    sums = [
        functools.reduce(torch.add, [log[key] for log in logging_outputs if key in log]).double()
        for key in keys
    ]
    read = dict(zip(keys, torch.stack(sums).tolist(), strict=True)) if keys else {}
    return lambda key: (
        read[key] if key in read else float(sum(log.get(key, 0) for log in logging_outputs))
    )
