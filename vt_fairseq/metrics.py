"""Metrics as pure functions: what was predicted and what is right, to a dictionary of numbers.

Everything but ``n``, ``missing`` and ``median_rank`` is in per cent, 0 to 100.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

RECALL_DEPTHS = (1, 5, 10)
BLEU_ORDER = 4
# Names of BleuStatistics' counts as a flat dictionary.
BLEU_KEYS = (
    *(f"bleu_{kind}{n}" for kind in ("correct", "total") for n in range(1, BLEU_ORDER + 1)),
    "bleu_sys_len",
    "bleu_ref_len",
)


def caption_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict:
    """BLEU-4 (sacrebleu's defaults: corpus level, 13a, case-sensitive, exp smoothing) and more.

    Args:
        predictions: one text a clip; "" where there is none.
        references: the right texts of each clip, one or more; their number may differ.

    Returns ``bleu4``, ``exact_match`` (predictions that equal any of their references up to white
    space), ``n`` and ``signatures``. Raises ValueError on differing lengths, on no clips at all
    and on a clip without references.
    """
    _check_lengths(predictions, references)
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"clip {i}: expected a list of references, found {texts!r}")
    bleu = BLEU()
    score = bleu.corpus_score(list(predictions), _streams(references)).score
    exact = [
        _words(text) in map(_words, texts)
        for text, texts in zip(predictions, references, strict=True)
    ]
    return {
        "bleu4": score,
        "exact_match": _per_cent(exact),
        "n": len(predictions),
        "signatures": {
            "bleu4": f"sacrebleu|{bleu.get_signature().format()}",
            "exact_match": "equal to any reference|white space collapsed|case-sensitive",
        },
    }


def accuracy(predicted: Sequence[Hashable | None], answers: Sequence[Hashable]) -> dict:
    """Share of ``predicted`` that equals ``answers``; None is a missing prediction and wrong.

    Returns ``accuracy``, ``n`` (missing ones included) and ``missing``. Raises ValueError on
    differing lengths and on no rows.
    """
    _check_lengths(predicted, answers)
    right = [p is not None and p == a for p, a in zip(predicted, answers, strict=True)]
    return {
        "accuracy": _per_cent(right),
        "n": len(answers),
        "missing": sum(p is None for p in predicted),
    }


def target_ranks(scores: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Rank of the target column in each row, 1 the best; the target loses every tie.

    Args:
        scores: (Q, N) real, higher is better; -inf is allowed.
        targets: (Q,) column indices, 0 to N - 1.

    Returns (Q,) int64: the columns whose score is at least the target's, itself included. Raises
    ValueError on NaN, naming the first row and column, and on shapes or targets that do not fit.
    """
    scores, columns = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or 0 in scores.shape or columns.shape != scores.shape[:1]:
        raise ValueError(
            f"expected scores (Q, N) and Q targets, found {scores.shape} and {columns.shape}"
        )
    if not np.issubdtype(columns.dtype, np.integer):
        raise ValueError(f"targets must be column indices, found {columns.dtype}")
    if (nan := np.argwhere(np.isnan(scores))).size:
        row, column = nan[0]
        raise ValueError(f"score is NaN at row {row}, column {column} ({len(nan)} NaN in all)")
    for row in np.flatnonzero((columns < 0) | (columns >= scores.shape[1])):
        raise ValueError(f"target {columns[row]} of row {row} is none of {scores.shape[1]} columns")
    own = np.take_along_axis(scores, columns[:, None], axis=1)
    return (scores >= own).sum(axis=1)


def recall(ranks: Sequence[int] | np.ndarray) -> dict:
    """``r1``, ``r5``, ``r10``, ``median_rank`` and ``n`` of ranks that count from 1."""
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not len(ranks):
        raise ValueError(f"expected one rank a query, found the shape {ranks.shape}")
    return {f"r{k}": _per_cent(ranks <= k) for k in RECALL_DEPTHS} | {
        "median_rank": float(np.median(ranks)),
        "n": len(ranks),
    }


def retrieval_metrics(scores: np.ndarray, targets: Sequence[int]) -> dict:
    """``recall`` of ``target_ranks``: rows are queries, columns the gallery."""
    return recall(target_ranks(scores, targets))


def rank_metrics(rankings: Sequence[Sequence[str] | None], targets: Sequence[str]) -> dict:
    """``recall`` from rankings, as files have them, and ``missing``.

    Args:
        rankings: ids, best first; None is a missing prediction.
        targets: the right id of each query.

    The gallery is every id that occurs. A target that its ranking does not hold (a list cut at
    its top, a missing prediction) has the worst rank, the size of the gallery. Raises ValueError
    when a ranking names an id twice, on differing lengths and on no queries.
    """
    _check_lengths(rankings, targets)
    gallery = set(targets)
    for query, ranking in enumerate(rankings):
        if ranking is not None and len(set(ranking)) < len(ranking):
            raise ValueError(f"the ranking of query {query} names an id twice")
        gallery.update(ranking or ())
    ranks = [
        list(ranking).index(target) + 1 if ranking and target in ranking else len(gallery)
        for ranking, target in zip(rankings, targets, strict=True)
    ]
    return recall(ranks) | {"missing": sum(ranking is None for ranking in rankings)}


def classification_metrics(scores: np.ndarray, targets: Sequence[int]) -> dict:
    """``top1``, ``top5`` and ``n`` from scores (Q, N) of N classes; see ``target_ranks``."""
    ranks = target_ranks(scores, targets)
    return {"top1": _per_cent(ranks <= 1), "top5": _per_cent(ranks <= 5), "n": len(ranks)}


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """sacrebleu's one stream a reference number; None stands for one that is not there."""
    most = max(map(len, references))
    return [[texts[k] if k < len(texts) else None for texts in references] for k in range(most)]


def _words(text: str) -> list[str]:
    return text.split()


def _per_cent(right: Sequence[bool] | np.ndarray) -> float:
    return 100.0 * float(np.mean(right))


def _check_lengths(predictions: Sequence[Any], answers: Sequence[Any]) -> None:
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} rows")
    if not answers:
        raise ValueError("no rows to score")


@dataclass(frozen=True)
class BleuStatistics:
    """What corpus BLEU is made of; adding the counts of parts gives those of the whole.

    Attributes:
        correct, total: matched and all n-grams for n = 1...4.
        sys_len, ref_len: length of the hypotheses, and of the closest references, in tokens.
    """

    correct: tuple[int, ...]
    total: tuple[int, ...]
    sys_len: int
    ref_len: int

    @classmethod
    def of(
        cls, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> "BleuStatistics":
        """Counts with sacrebleu's defaults; rows without references are left out."""
        kept = [(p, r) for p, r in zip(predictions, references, strict=True) if r]
        if not kept:
            return cls((0,) * BLEU_ORDER, (0,) * BLEU_ORDER, 0, 0)
        score = BLEU().corpus_score([p for p, _ in kept], _streams([r for _, r in kept]))
        return cls(tuple(score.counts), tuple(score.totals), score.sys_len, score.ref_len)

    def score(self) -> float:
        """Corpus BLEU in per cent, two decimals."""
        bleu = BLEU.compute_bleu(
            list(self.correct), list(self.total), self.sys_len, self.ref_len, smooth_method="exp"
        )
        return round(bleu.score, 2)

    def as_dict(self) -> dict[str, int]:
        """Flat counts, which fairseq can sum over processes."""
        values = [*self.correct, *self.total, self.sys_len, self.ref_len]
        return dict(zip(BLEU_KEYS, map(int, values), strict=True))

    @classmethod
    def from_dict(cls, counts: dict[str, int]) -> "BleuStatistics":
        """The inverse of ``as_dict``."""
        values = [counts[key] for key in BLEU_KEYS]
        correct, total = values[:BLEU_ORDER], values[BLEU_ORDER : 2 * BLEU_ORDER]
        return cls(tuple(correct), tuple(total), *values[2 * BLEU_ORDER :])
