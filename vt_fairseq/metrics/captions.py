"""Metrics of captions that need no Java: BLEU-1 to 4 of sacrebleu, and exact match."""

from collections.abc import Sequence

from vt_fairseq.metrics.bleu import bleu_measure
from vt_fairseq.metrics.measure import Measure, check_lengths, mean_measure, numbers, signatures


def caption_measures(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Measure]:
    """Measures of ``bleu1`` to ``bleu4`` and ``exact_match``; see ``caption_metrics``."""
    check_captions(predictions, references)
    exact = [
        text.split() in [reference.split() for reference in texts]
        for text, texts in zip(predictions, references, strict=True)
    ]
    how = "equal to any reference|white space collapsed|case-sensitive"
    return [bleu_measure(predictions, references), mean_measure("exact_match", exact, how)]


def caption_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict:
    """BLEU (sacrebleu's defaults: corpus level, 13a, case-sensitive, exp smoothing) and more.

    Args:
        predictions: one text a clip; "" where there is none.
        references: the right texts of each clip, one or more; their number may differ.

    Returns ``bleu1`` to ``bleu4``, ``exact_match`` (predictions that equal any of their references
    up to white space), ``n`` and ``signatures``. Raises ValueError on differing lengths, on no
    clips at all and on a clip without references.
    """
    measures = caption_measures(predictions, references)
    return numbers(measures) | {"n": len(predictions), "signatures": signatures(measures)}


def check_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ValueError unless every prediction has a list of references."""
    check_lengths(predictions, references)
    for i, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"clip {i}: expected a list of references, found {texts!r}")
