"""A metric as a function of one row of numbers per clip.

Whatever is resampled (``intervals``) is resampled by rows, so every metric, corpus BLEU included,
is kept as the rows that it is computed from and the function that does it.
"""

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measure:
    """One or several numbers that are computed from the same rows.

    Attributes:
        rows: (N, K) float64, one row per clip.
        compute: any (M, K) of such rows to {key: number}; always the same keys.
        signatures: {key: how the number is computed}.
    """

    rows: np.ndarray
    compute: Callable[[np.ndarray], dict[str, float]]
    signatures: dict[str, str]

    def values(self) -> dict[str, float]:
        """The values over all rows."""
        return self.compute(self.rows)


def values(measures: Iterable[Measure]) -> dict[str, float]:
    """The values of all ``measures``."""
    return {key: value for measure in measures for key, value in measure.values().items()}


def signatures(measures: Iterable[Measure]) -> dict[str, str]:
    """The signatures of all ``measures``."""
    return {key: text for measure in measures for key, text in measure.signatures.items()}


def mean_measure(key: str, values: Sequence[float] | np.ndarray, signature: str) -> Measure:
    """The mean of ``values`` (booleans, or scores from 0 to 1) in per cent, as ``key``."""
    rows = np.asarray(values, dtype=np.float64)[:, None]
    return Measure(rows, lambda rows: {key: per_cent(rows)}, {key: signature})


def per_cent(values: Sequence[float] | np.ndarray) -> float:
    """The mean of ``values`` times 100."""
    return 100.0 * float(np.mean(values))


def check_lengths(predictions: Sized, answers: Sized) -> None:
    """Raise ValueError unless there is one prediction per answer, and at least one."""
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions for {len(answers)} rows")
    if not len(answers):
        raise ValueError("no rows to score")
