"""How sure a number is: bootstrap intervals, and a paired test of two systems.

Both draw rows (clips), so they speak of the choice of test clips alone, not of the training's
randomness.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from vt_fairseq.metrics.measure import Measure

RESAMPLES = 1000


def confidence_intervals(
    measures: Iterable[Measure], level: float, resamples: int = RESAMPLES, seed: int = 1
) -> dict[str, float]:
    """Percentile bootstrap: ``KEY_low`` and ``KEY_high`` of every number.

    Args:
        level: share of the resamples between the two, 0 to 1, for instance 0.95.
        resamples: draws of N rows out of N, with replacement; the same ones for all measures.

    Raises ValueError when ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, found {level}")
    intervals: dict[str, float] = {}
    for measure in measures:
        rng, n = np.random.default_rng(seed), len(measure.rows)
        draws = [measure.compute(measure.rows[rng.integers(n, size=n)]) for _ in range(resamples)]
        for key in draws[0]:
            low, high = np.quantile([d[key] for d in draws], [(1 - level) / 2, (1 + level) / 2])
            intervals |= {f"{key}_low": float(low), f"{key}_high": float(high)}
    return intervals


def paired_gains(
    measures: Sequence[Measure],
    others: Sequence[Measure],
    level: float,
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> dict[str, float]:
    """Percentile bootstrap of the difference of two systems on the same rows in the same order.

    Returns ``KEY_gain`` (first minus second), ``KEY_gain_low`` and ``KEY_gain_high`` of every
    number; arguments and errors as ``confidence_intervals``.
    """
    gains = [_gain(measure, other) for measure, other in zip(measures, others, strict=True)]
    found = {key: value for gain in gains for key, value in gain.values().items()}
    return found | confidence_intervals(gains, level, resamples, seed)


def _gain(measure: Measure, other: Measure) -> Measure:
    """What ``measure`` has more than ``other``, of rows that hold those of both."""
    width = measure.rows.shape[1]

    def compute(rows: np.ndarray) -> dict[str, float]:
        return {
            f"{key}_gain": value
            for key, value in _difference(measure, rows[:, :width], rows[:, width:]).items()
        }

    return Measure(np.hstack([measure.rows, other.rows]), compute, {})


def paired_test(
    measures: Sequence[Measure],
    others: Sequence[Measure],
    resamples: int = RESAMPLES,
    seed: int = 1,
) -> dict[str, float]:
    """Approximate randomization of two systems on the same rows in the same order.

    If the two were alike, swapping their predictions of a clip would change nothing. Each trial
    swaps every row with probability 1/2; ``KEY_p`` is the share of trials, the observed one
    included, whose difference is at least as large (two-sided).

    Returns ``KEY_other`` (the second system's number), ``KEY_difference`` (first minus second) and
    ``KEY_p`` of every number.
    """
    results: dict[str, float] = {}
    for measure, other in zip(measures, others, strict=True):
        observed = _difference(measure, measure.rows, other.rows)
        larger = dict.fromkeys(observed, 1)
        rng = np.random.default_rng(seed)
        for _ in range(resamples):
            swap = rng.random(len(measure.rows))[:, None] < 0.5
            left = np.where(swap, other.rows, measure.rows)
            right = np.where(swap, measure.rows, other.rows)
            for key, value in _difference(measure, left, right).items():
                # Sums in another order differ in their last digits; that is no difference.
                larger[key] += abs(value) >= abs(observed[key]) - 1e-9
        results |= {f"{key}_other": value for key, value in other.values().items()}
        results |= {f"{key}_difference": value for key, value in observed.items()}
        results |= {f"{key}_p": count / (resamples + 1) for key, count in larger.items()}
    return results


def _difference(measure: Measure, left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    first, second = measure.compute(left), measure.compute(right)
    return {key: first[key] - second[key] for key in first}
