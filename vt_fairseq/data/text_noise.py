"""The noise function n(t): shuffle the target's tokens and mask some of them (paper, section 3.1).

It has every mode of the paper's Table 7c, and both readings of the amount of masking: a share
drawn once per mini-batch from U(0, 1) (section 4.1), or a count drawn per example from 1...N
(section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TEXT_INPUTS = ("none", "unmodified", "shuffled", "masked", "shuffled-masked")
MASK_AMOUNTS = ("batch", "example")


def random_generator(*key: int) -> np.random.Generator:
    """A generator that depends on ``key`` alone, e.g. (seed, epoch, row)."""
    return np.random.default_rng(np.random.SeedSequence(key))


@dataclass(frozen=True)
class TextNoise:
    """Turns the target's tokens into the noisy text of the source.

    Attributes:
        mode: one of TEXT_INPUTS.
        mask_amount: one of MASK_AMOUNTS.
        dropout: probability in [0, 1] that an example gets no text at all. Masking leaves N
            [MASK] tokens however much is masked, so a model has to see empty text, too, to know
            what to do at test, where there is none (measured: docs/model.md).
        mask_id: id of [MASK].
    """

    mode: str
    mask_amount: str
    dropout: float
    mask_id: int

    def __call__(
        self, tokens: Sequence[int], batch_share: float, rng: np.random.Generator
    ) -> list[int]:
        """Noisy copy of ``tokens``; ``batch_share`` in [0, 1] is the mini-batch's masked share."""
        if self.mode == "none" or rng.random() < self.dropout:
            return []
        noisy = np.array(tokens, dtype=np.int64)
        if "shuffled" in self.mode:
            noisy = rng.permutation(noisy)
        if "masked" in self.mode and len(noisy):
            if self.mask_amount == "batch":
                count = round(batch_share * len(noisy))
            else:
                count = int(rng.integers(1, len(noisy) + 1))
            noisy[rng.choice(len(noisy), size=count, replace=False)] = self.mask_id
        return noisy.tolist()
