"""Metrics of captions that need no Java: sacrebleu's BLEU-1 to 4, exact match, and word F1.

BLEU has sacrebleu's defaults (corpus level, 13a, case-sensitive, exp smoothing), and comes from
the counts of each row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics import BLEU

from vt_fairseq.metrics.measure import Measure, check_lengths, mean_measure

BLEU_ORDER = 4
BLEU_NAMES = tuple(f"bleu{n}" for n in range(1, BLEU_ORDER + 1))
# Names of BleuStatistics' counts as a flat dictionary.
BLEU_KEYS = (
    *(f"bleu_{kind}{n}" for kind in ("correct", "total") for n in range(1, BLEU_ORDER + 1)),
    "bleu_sys_len",
    "bleu_ref_len",
)


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
        rows = _counts([prediction for prediction, _ in kept], [texts for _, texts in kept])
        return cls.from_row(rows.sum(axis=0))

    @classmethod
    def from_row(cls, counts: Sequence[float] | np.ndarray) -> "BleuStatistics":
        """From numbers in the order of BLEU_KEYS."""
        values = [int(value) for value in counts]
        correct, total = values[:BLEU_ORDER], values[BLEU_ORDER : 2 * BLEU_ORDER]
        return cls(tuple(correct), tuple(total), *values[2 * BLEU_ORDER :])

    @classmethod
    def from_dict(cls, counts: dict[str, int]) -> "BleuStatistics":
        """The inverse of ``as_dict``."""
        return cls.from_row([counts[key] for key in BLEU_KEYS])

    def as_dict(self) -> dict[str, int]:
        """Flat counts, which fairseq can sum over processes."""
        values = [*self.correct, *self.total, self.sys_len, self.ref_len]
        return dict(zip(BLEU_KEYS, values, strict=True))

    def bleu(self, order: int = BLEU_ORDER) -> float:
        """Corpus BLEU of n-grams up to ``order``, 0 to 100."""
        return BLEU.compute_bleu(
            list(self.correct[:order]),
            list(self.total[:order]),
            self.sys_len,
            self.ref_len,
            smooth_method="exp",
            max_ngram_order=order,
        ).score

    def score(self) -> float:
        """Corpus BLEU in per cent, two decimals."""
        return round(self.bleu(), 2)


def caption_measures(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Measure]:
    """Measures of ``bleu1`` to ``bleu4``, and of ``exact_match`` with any reference up to white
    space.

    Args:
        predictions: one text per clip; "" where there is none.
        references: the right texts of each clip, one or more; their number may differ.

    Raises ValueError on differing lengths, on no clips at all and on a clip without references.
    """
    check_captions(predictions, references)
    exact = [
        text.split() in [reference.split() for reference in texts]
        for text, texts in zip(predictions, references, strict=True)
    ]
    how = "equal to any reference|white space collapsed|case-sensitive"
    bleu = Measure(
        _counts(predictions, references),
        _bleus,
        dict.fromkeys(BLEU_NAMES, f"sacrebleu|{_signature(references)}"),
    )
    return [bleu, mean_measure("exact_match", exact, how)]


def check_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ValueError unless every prediction has a list of references."""
    check_lengths(predictions, references)
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"clip {i}: expected a list of references, found {texts!r}")


def word_f1(one: Sequence[str], other: Sequence[str]) -> float:
    """F1 of the words in common, 0 to 1: twice their number by the words of both texts."""
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / max(1, len(one) + len(other))


def _bleus(rows: np.ndarray) -> dict[str, float]:
    counts = BleuStatistics.from_row(rows.sum(axis=0))
    return {name: counts.bleu(n) for n, name in enumerate(BLEU_NAMES, 1)}


def _counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, 10) float64: each row's counts in the order of BLEU_KEYS."""
    # effective_order only silences a warning: it changes the score, which is not used here.
    bleu = BLEU(effective_order=True)
    found = [
        bleu.sentence_score(prediction, list(texts))
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in found]
    return np.array(rows, dtype=np.float64).reshape(-1, len(BLEU_KEYS))


def _signature(references: Sequence[Sequence[str]]) -> str:
    bleu = BLEU()
    numbers = set(map(len, references))
    bleu.num_refs = numbers.pop() if len(numbers) == 1 else -1  # -1 is sacrebleu's "varying"
    return bleu.get_signature().format()
