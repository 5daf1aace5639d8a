"""Metrics as pure functions: what was predicted and what is right, to a dictionary of numbers.

Everything but ``n``, ``missing`` and ``median_rank`` is in per cent, 0 to 100. The COCO toolkit's
metrics stand in ``vt_fairseq.metrics.coco``: they need the extra ``coco`` and Java.
"""

from vt_fairseq.metrics.bleu import BLEU_KEYS, BleuStatistics
from vt_fairseq.metrics.captions import caption_metrics
from vt_fairseq.metrics.classification import (
    accuracy,
    action_metrics,
    action_ranks,
    classification_metrics,
    per_class_accuracy,
)
from vt_fairseq.metrics.intervals import confidence_intervals, paired_test
from vt_fairseq.metrics.retrieval import rank_metrics, recall, retrieval_metrics, target_ranks

__all__ = [
    "BLEU_KEYS",
    "BleuStatistics",
    "accuracy",
    "action_metrics",
    "action_ranks",
    "caption_metrics",
    "classification_metrics",
    "confidence_intervals",
    "paired_test",
    "per_class_accuracy",
    "rank_metrics",
    "recall",
    "retrieval_metrics",
    "target_ranks",
]
