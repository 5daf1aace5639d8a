"""One row of results as the page shows it, whatever the model was asked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vt_fairseq.candidates.probabilities import softmax

RIGHT, WRONG, MISSING, OPEN = "right", "wrong", "missing", "open"
"""``MISSING``: no prediction. ``OPEN``: nothing says what would be right."""
FAILURES_FIRST = (MISSING, WRONG, OPEN, RIGHT)
LONGEST = 400  # characters of a text
MOST_REFERENCES, MOST_BARS = 5, 10


class Bar(NamedTuple):
    """A candidate: its score as it was given, if any, and its share of the softmax, 0 to 1."""

    text: str
    score: float | None
    share: float
    correct: bool
    chosen: bool


@dataclass(frozen=True)
class ReportRow:
    """What was asked, what is right, what was predicted.

    Attributes:
        id: of the clip in its split.
        outcome: RIGHT, WRONG, MISSING or OPEN.
        quality: orders the rows of one outcome, the worst first.
        asked: the question, or the caption that looks for its clip.
        references: what is right, as texts.
        prediction: as a text.
        captions: that the model wrote first and then took as text (``--caption-first``).
        score: of the prediction.
        overlap: F1 of the words in common with the best reference, 0 to 1.
        bars: the candidates.
        rank: of the right one, from 1.
        top: ids of the clips that retrieval ranks first.
        target: id of the clip that should be first.
        clip: which part of which video, as a text.
        reason: why there is no prediction.
        classes: {set of classes: (right class, predicted class)}; not a part of the page's row.
    """

    id: str
    outcome: str = MISSING
    quality: float = 0.0
    asked: str = ""
    references: Sequence[str] = ()
    prediction: str = ""
    captions: Sequence[str] = ()
    score: float | None = None
    overlap: float | None = None
    bars: Sequence[Bar] = ()
    rank: int | None = None
    top: Sequence[str] = ()
    target: str = ""
    clip: str = ""
    reason: str = ""
    classes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """The row as JSON for the page: what is empty is left out, long texts are cut."""
        values: dict[str, Any] = {
            "id": _cut(self.id),
            "outcome": self.outcome,
            "asked": _cut(self.asked),
            "references": [_cut(text) for text in self.references[:MOST_REFERENCES]],
            "more": max(0, len(self.references) - MOST_REFERENCES),
            "prediction": _cut(self.prediction),
            "captions": [_cut(text) for text in self.captions],
            "score": _four_digits(self.score),
            "overlap": _four_digits(self.overlap),
            "bars": [
                [
                    _cut(b.text),
                    _four_digits(b.score),
                    round(b.share, 3),
                    int(b.correct),
                    int(b.chosen),
                ]
                for b in self.bars
            ],
            "rank": self.rank,
            "top": list(self.top),
            "target": self.target if self.target != self.id else "",
            "clip": _cut(self.clip),
            "reason": _cut(self.reason),
        }
        return {key: value for key, value in values.items() if value not in (None, "", [])}


def failures_first(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The rows without a prediction, then the wrong ones, the worst of them first."""
    return sorted(rows, key=lambda row: (FAILURES_FIRST.index(row.outcome), row.quality))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _four_digits(number: float | None) -> float | None:
    """None where ``number`` is not finite: JSON has no infinity."""
    return float(f"{number:.4g}") if number is not None and math.isfinite(number) else None


def bars_of(
    texts: Sequence[str], scores: Sequence[float], correct: int | None, chosen: int | None
) -> list[Bar]:
    """Bars of candidates in their order; of more than MOST_BARS the best ones and the correct one.

    ``scores`` is empty where there are none.
    """
    if not scores:
        return [
            Bar(t, None, 0.0, k == correct, k == chosen) for k, t in enumerate(texts[:MOST_BARS])
        ]
    shares = softmax(scores)
    indices: Sequence[int] = range(len(texts))
    if len(texts) > MOST_BARS:
        best = sorted(indices, key=lambda k: -scores[k])[:MOST_BARS]
        indices = best if correct is None or correct in best else [*best[:-1], correct]
    return [Bar(texts[k], scores[k], shares[k], k == correct, k == chosen) for k in indices]
