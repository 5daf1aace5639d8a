"""Metrics of captions that need no Java: sacrebleu's BLEU-1 to 4, exact match, and word F1.

BLEU has sacrebleu's defaults (corpus level, 13a, case-sensitive, exp smoothing), and comes from
the counts of each row.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU

from vt_fairseq.metrics.measure import Measure, check_lengths, mean_measure

BLEU_ORDER = 4
BLEU_NAMES = tuple(f"bleu{n}" for n in range(1, BLEU_ORDER + 1))
# Matched and all n-grams for n = 1...4; tokens of the predictions, and of the closest references.
BLEU_KEYS = (
    *(f"bleu_{kind}{n}" for kind in ("correct", "total") for n in range(1, BLEU_ORDER + 1)),
    "bleu_sys_len",
    "bleu_ref_len",
)


def bleu_counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, int]:
    """What corpus BLEU is made of, by BLEU_KEYS; rows without references are left out.

    Adding the counts of parts gives those of the whole: fairseq can sum them over processes.
    """
    kept = [(p, r) for p, r in zip(predictions, references, strict=True) if r]
    rows = _counts([prediction for prediction, _ in kept], [texts for _, texts in kept])
    return dict(zip(BLEU_KEYS, rows.sum(axis=0).astype(int).tolist(), strict=True))


def bleu_score(counts: Sequence[float] | np.ndarray, order: int = BLEU_ORDER) -> float:
    """Corpus BLEU of n-grams up to ``order``, 0 to 100, of counts in the order of BLEU_KEYS."""
    *ngrams, sys_len, ref_len = (int(value) for value in counts)
    correct, total = ngrams[:order], ngrams[BLEU_ORDER : BLEU_ORDER + order]
    return BLEU.compute_bleu(
        correct, total, sys_len, ref_len, smooth_method="exp", max_ngram_order=order
    ).score


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
    counts = rows.sum(axis=0)
    return {name: bleu_score(counts, n) for n, name in enumerate(BLEU_NAMES, 1)}


def _counts(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, 10) float64: each row's counts in the order of BLEU_KEYS."""
    # effective_order only silences a warning: it changes the score, which is not used here.
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(prediction, list(texts))
        for prediction, texts in zip(predictions, references, strict=True)
    ]
    rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
    return np.array(rows, dtype=np.float64).reshape(-1, len(BLEU_KEYS))


def _signature(references: Sequence[Sequence[str]]) -> str:
    bleu = BLEU()
    counts = set(map(len, references))
    bleu.num_refs = counts.pop() if len(counts) == 1 else -1  # -1 is sacrebleu's "varying"
    return bleu.get_signature().format()
