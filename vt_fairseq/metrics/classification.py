"""Accuracy: of answers, of classes (top-1, top-5, a class, their mean) and of verb-noun actions."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from vt_fairseq.metrics.measure import Measure, check_lengths, numbers, per_cent
from vt_fairseq.metrics.retrieval import check_scores, target_ranks

DEPTHS = (1, 5)
_PAIRS_AT_ONCE = 1 << 24  # action scores compared at a time: 128 MB


def accuracy(predicted: Sequence[Hashable | None], answers: Sequence[Hashable]) -> dict:
    """Share of ``predicted`` that equals ``answers``; None is a missing prediction and wrong.

    Returns ``accuracy``, ``n`` (missing ones included) and ``missing``. Raises ValueError on
    differing lengths and on no rows.
    """
    check_lengths(predicted, answers)
    right = [p is not None and p == a for p, a in zip(predicted, answers, strict=True)]
    return {
        "accuracy": per_cent(right),
        "n": len(answers),
        "missing": sum(p is None for p in predicted),
    }


def per_class_accuracy(
    right: Sequence[bool] | np.ndarray, classes: Sequence[Hashable]
) -> dict[Hashable, tuple[float, int]]:
    """{class: (accuracy in per cent, rows)} of the classes that ``classes`` (the right ones) hold.

    Raises ValueError on differing lengths and on no rows.
    """
    check_lengths(right, classes)
    hits: dict[Hashable, list[bool]] = {}
    for hit, name in zip(right, classes, strict=True):
        hits.setdefault(name, []).append(bool(hit))
    return {name: (per_cent(found), len(found)) for name, found in hits.items()}


def mean_class_measure(
    key: str, right: Sequence[bool] | np.ndarray, classes: Sequence[Hashable]
) -> Measure:
    """The mean over classes of their accuracy, as ``key``; classes without rows do not count.

    A resample averages over the classes that it holds.
    """
    check_lengths(right, classes)
    index = {name: k for k, name in enumerate(dict.fromkeys(classes))}
    rows = np.array([(float(hit), index[name]) for hit, name in zip(right, classes, strict=True)])

    def compute(rows: np.ndarray) -> dict[str, float]:
        of, hits = rows[:, 1].astype(np.int64), rows[:, 0]
        total = np.bincount(of)
        return {key: per_cent((np.bincount(of, hits) / np.maximum(total, 1))[total > 0])}

    how = f"mean over the {len(index)} classes that the references hold"
    return Measure(rows, compute, {key: how})


def classification_metrics(scores: np.ndarray, targets: Sequence[int]) -> dict:
    """``top1``, ``top5``, ``mean_class_accuracy`` and ``n`` from scores (Q, N) of N classes.

    Ties and errors as ``target_ranks``.
    """
    return rank_accuracy(target_ranks(scores, targets), targets) | {"n": len(targets)}


def action_metrics(
    verb_scores: np.ndarray, noun_scores: np.ndarray, verbs: Sequence[int], nouns: Sequence[int]
) -> dict:
    """EPIC-Kitchens' metrics: an action is right when its verb and its noun are.

    Args:
        verb_scores, noun_scores: (Q, V) and (Q, N), logarithms of probabilities, or logits.
        verbs, nouns: (Q,) the right classes.

    Returns ``top1``, ``top5`` and ``mean_class_accuracy`` after ``verb_``, ``noun_`` and
    ``action_``, and ``n``. Ties and errors as ``target_ranks``.
    """
    heads = {
        "verb_": (target_ranks(verb_scores, verbs), verbs),
        "noun_": (target_ranks(noun_scores, nouns), nouns),
        "action_": (
            action_ranks(verb_scores, noun_scores, verbs, nouns),
            list(zip(map(int, verbs), map(int, nouns), strict=True)),
        ),
    }
    found = {
        prefix + key: value
        for prefix, (ranks, classes) in heads.items()
        for key, value in rank_accuracy(ranks, classes).items()
    }
    return found | {"n": len(verbs)}


def action_ranks(
    verb_scores: np.ndarray, noun_scores: np.ndarray, verbs: Sequence[int], nouns: Sequence[int]
) -> np.ndarray:
    """(Q,) ranks of the right pair among all V x N, by the sum of its two scores.

    With logarithms of probabilities, or with logits, that is the order of p(verb) p(noun), which
    EPIC-Kitchens' server ranks actions by. Arguments and errors as ``action_metrics``.
    """
    verb_scores, noun_scores = np.asarray(verb_scores), np.asarray(noun_scores)
    check_scores(verb_scores, np.asarray(verbs))
    check_scores(noun_scores, np.asarray(nouns))
    step = max(1, _PAIRS_AT_ONCE // (verb_scores.shape[1] * noun_scores.shape[1]))
    ranks = [
        _pair_ranks(verb_scores[k], noun_scores[k], np.asarray(verbs)[k], np.asarray(nouns)[k])
        for k in _slices(len(verb_scores), step)
    ]
    return np.concatenate(ranks)


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, start + step) for start in range(0, length, step))


def _pair_ranks(
    verb_scores: np.ndarray, noun_scores: np.ndarray, verbs: np.ndarray, nouns: np.ndarray
) -> np.ndarray:
    pairs = verb_scores[:, :, None].astype(np.float64) + noun_scores[:, None, :]
    pairs = pairs.reshape(len(pairs), -1)
    return target_ranks(pairs, verbs * noun_scores.shape[1] + nouns)


def rank_accuracy(ranks: np.ndarray, classes: Sequence[Hashable]) -> dict[str, float]:
    """``top1``, ``top5`` and ``mean_class_accuracy`` from the (Q,) ranks of the right ``classes``.

    Ranks count from 1.
    """
    mean = mean_class_measure("mean_class_accuracy", ranks <= 1, list(classes))
    return {f"top{k}": per_cent(ranks <= k) for k in DEPTHS} | numbers([mean])
