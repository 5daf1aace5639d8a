"""From scores to probabilities: softmax and averages. Scores are natural logarithms; plain numpy.

Shapes: K candidates.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def softmax(scores: Sequence[float]) -> list[float]:
    """exp(score) of each, divided by their sum; all 0 where the highest score is not finite."""
    highest = max(scores, default=0.0)
    if not math.isfinite(highest):
        return [0.0] * len(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]


def log_softmax(scores: npt.ArrayLike) -> np.ndarray:
    """Logarithms of the probabilities that are proportional to exp(scores), over the last axis."""
    scores = np.asarray(scores, dtype=np.float64)
    return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


def mean_likelihood(scores: Sequence[np.ndarray]) -> np.ndarray:
    """log of the mean of exp(scores): likelihoods averaged, not normalized."""
    return np.logaddexp.reduce(np.stack(scores), axis=0) - np.log(len(scores))


def mean_prediction(scores: Sequence[np.ndarray]) -> np.ndarray:
    """log of the mean of softmax(scores); a single prediction stays as it is, unnormalized."""
    if len(scores) == 1:
        return scores[0]
    return mean_likelihood([log_softmax(one) for one in scores])
