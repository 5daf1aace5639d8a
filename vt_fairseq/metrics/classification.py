"""Accuracy of classes (top-1, top-5, per class, their mean) and of actions."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from vt_fairseq.metrics.measure import Measure, check_lengths, per_cent, values
from vt_fairseq.metrics.retrieval import target_ranks

DEPTHS = (1, 5)


def per_class_accuracy(
    of: str, correct: Sequence[bool] | np.ndarray, classes: Sequence[Hashable]
) -> list[dict[str, Any]]:
    """A row of ``of``, ``class``, ``accuracy`` in per cent and ``n`` for each of the right classes.

    Raises ValueError on differing lengths and on no rows.
    """
    check_lengths(correct, classes)
    hits: dict[Hashable, list[bool]] = {}
    for hit, name in zip(correct, classes, strict=True):
        hits.setdefault(name, []).append(bool(hit))
    return [
        {"of": of, "class": name, "accuracy": per_cent(values), "n": len(values)}
        for name, values in hits.items()
    ]


def mean_class_measure(
    key: str, correct: Sequence[bool] | np.ndarray, classes: Sequence[Hashable]
) -> Measure:
    """The mean over classes of their accuracy, as ``key``; classes without rows do not count.

    A resample averages over the classes that it holds.
    """
    check_lengths(correct, classes)
    index = {name: k for k, name in enumerate(dict.fromkeys(classes))}
    rows = np.array([(float(hit), index[name]) for hit, name in zip(correct, classes, strict=True)])

    def compute(rows: np.ndarray) -> dict[str, float]:
        of, hits = rows[:, 1].astype(np.int64), rows[:, 0]
        total = np.bincount(of)
        return {key: per_cent((np.bincount(of, hits) / np.maximum(total, 1))[total > 0])}

    how = f"mean over the {len(index)} classes that the references hold"
    return Measure(rows, compute, {key: how})


def rank_accuracy(ranks: np.ndarray, classes: Sequence[Hashable]) -> dict[str, float]:
    """``top1``, ``top5`` and ``mean_class_accuracy`` from the (Q,) ranks of the right ``classes``.

    Ranks count from 1.
    """
    mean = mean_class_measure("mean_class_accuracy", ranks <= 1, list(classes))
    return {f"top{k}": per_cent(ranks <= k) for k in DEPTHS} | values([mean])


def action_metrics(
    verb_scores: np.ndarray, noun_scores: np.ndarray, verbs: Sequence[int], nouns: Sequence[int]
) -> dict[str, float]:
    """EPIC-Kitchens' metrics: an action is right when its verb and its noun are.

    Args:
        verb_scores, noun_scores: (Q, V) and (Q, N), logarithms of probabilities, or logits.
        verbs, nouns: (Q,) the right classes.

    Returns ``top1``, ``top5`` and ``mean_class_accuracy`` after ``verb_``, ``noun_`` and
    ``action_``, and ``n``. Of all V x N actions the order is that of the sum of the two scores,
    thus of p(verb) p(noun), as on EPIC-Kitchens' server. Ties and errors as ``target_ranks``.
    """
    ranks = {"verb_": target_ranks(verb_scores, verbs), "noun_": target_ranks(noun_scores, nouns)}
    actions = list(zip(map(int, verbs), map(int, nouns), strict=True))
    pairs = zip(np.asarray(verb_scores, np.float64), np.asarray(noun_scores), actions, strict=True)
    ranks["action_"] = np.concatenate(
        [target_ranks((v[:, None] + n).reshape(1, -1), [a * len(n) + b]) for v, n, (a, b) in pairs]
    )
    metrics: dict[str, float] = {"n": len(actions)}
    for prefix, classes in (("verb_", verbs), ("noun_", nouns), ("action_", actions)):
        for key, value in rank_accuracy(ranks[prefix], classes).items():
            metrics[prefix + key] = value
    return metrics
