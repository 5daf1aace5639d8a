"""Ranks of the right item among all, and recall at a depth.

Ties: ``pessimistic``, the target loses every tie; or ``howto100m``, as the script that HowTo100M,
MIL-NCE, UniVL and CLIP4Clip share counts them: each position that the target's score takes in the
sorted row counts as a query of its own, so a query with a tie counts more than once, and one whose
target has the score -inf not at all.
"""

from collections.abc import Sequence

import numpy as np

from vt_fairseq.metrics.measure import Measure, check_lengths, per_cent

RECALL_DEPTHS = (1, 5, 10)
TIES = ("pessimistic", "howto100m")
_HOW = {
    "pessimistic": "the target loses every tie",
    "howto100m": "HowTo100M's script: every tied place counts as a query of its own",
}


def target_ranks(scores: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Rank of the target column in each row, 1 the best; the target loses every tie.

    Args:
        scores: (Q, N) real, higher is better; -inf is allowed.
        targets: (Q,) column indices, 0 to N - 1.

    Returns (Q,) int64: the columns whose score is at least the target's, itself included. Raises
    ValueError on NaN, naming the first row and column, and on shapes or targets that do not fit.
    """
    return _pessimistic(rank_statistics(scores, targets))


def rank_statistics(scores: np.ndarray, targets: Sequence[int] | np.ndarray) -> np.ndarray:
    """(Q, 3) int64: columns better than the target; those equal to it, itself included; and 1, or 0
    where the target's score is infinite.

    Arguments and errors as ``target_ranks``.
    """
    scores, columns = np.asarray(scores), np.asarray(targets)
    _check_scores(scores, columns)
    own = np.take_along_axis(scores, columns[:, None], axis=1)
    better, equal = (scores > own).sum(axis=1), (scores == own).sum(axis=1)
    return np.stack([better, equal, np.isfinite(own[:, 0])], axis=1)


def _check_scores(scores: np.ndarray, columns: np.ndarray) -> None:
    """Raise ValueError unless ``scores`` is (Q, N) without NaN and has a target in every row."""
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


def recall_measure(statistics: np.ndarray, ties: str = "pessimistic") -> Measure:
    """Measure of ``r1``, ``r5``, ``r10`` and ``median_rank``.

    Args:
        statistics: (Q, 3), see ``rank_statistics``.
        ties: one of TIES.
    """
    ranks_of = {"pessimistic": _pessimistic, "howto100m": _every_tie}[ties]

    def compute(rows: np.ndarray) -> dict[str, float]:
        ranks = ranks_of(rows.astype(np.int64))
        recall = {f"r{k}": per_cent(ranks <= k) for k in RECALL_DEPTHS}
        return recall | {"median_rank": float(np.median(ranks))}

    keys = (*(f"r{k}" for k in RECALL_DEPTHS), "median_rank")
    return Measure(np.asarray(statistics, np.float64), compute, dict.fromkeys(keys, _HOW[ties]))


def _pessimistic(statistics: np.ndarray) -> np.ndarray:
    return statistics[:, 0] + statistics[:, 1]


def _every_tie(statistics: np.ndarray) -> np.ndarray:
    better, equal, finite = statistics.T
    equal = equal * finite  # the script subtracts the target's score: infinite, it equals nothing
    first = np.repeat(better, equal)
    within = np.arange(equal.sum()) - np.repeat(np.cumsum(equal) - equal, equal)
    return first + within + 1


def ranking_statistics(
    rankings: Sequence[Sequence[str] | None],
    targets: Sequence[str],
    scores: Sequence[Sequence[float] | None] | None = None,
) -> np.ndarray:
    """(Q, 3) as ``rank_statistics``, from rankings as files have them.

    Args:
        rankings: distinct ids, best first; None is a missing prediction.
        targets: the right id of each query.
        scores: of the ids of each ranking, which show the ties among them; without, there are none.

    The gallery is every id that occurs. A target that its ranking does not hold (a list cut at
    its top, a missing prediction) has the worst rank, the size of the gallery. Raises ValueError
    on differing lengths, on NaN and on no queries.
    """
    check_lengths(rankings, targets)
    gallery = set(targets).union(*(ranking or () for ranking in rankings))
    rows = np.empty((len(targets), 3), dtype=np.int64)
    for query, (ranking, target) in enumerate(zip(rankings, targets, strict=True)):
        values = scores[query] if scores is not None else None
        if not ranking or target not in ranking:
            rows[query] = len(gallery) - 1, 1, 1
            continue
        index = list(ranking).index(target)
        rows[query] = (
            (index, 1, 1)
            if values is None
            else rank_statistics(np.array([values], dtype=np.float64), [index])
        )
    return rows
