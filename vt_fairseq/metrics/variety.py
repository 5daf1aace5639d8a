"""How varied predictions are: a model that does not look gives most clips the same one.

Texts are equal that differ in case or white space alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DISTINCT, SAME, SAME_REFERENCE = (
    *("distinct_predictions", "most_frequent_prediction", "most_frequent_reference"),
)
HOW = {
    DISTINCT: "different texts",
    SAME: "share of predictions|case and white space ignored",
    SAME_REFERENCE: "share of rows for which one text is right|case and white space ignored",
}
FEWEST = 10  # predictions of which a share says something
ALARMING, TIMES_REFERENCE = 50.0, 1.5


@dataclass(frozen=True)
class Variety:
    """Of the predictions of a split.

    Attributes:
        predictions: how many there are.
        distinct: how many different ones.
        text: the most frequent one.
        share: its share of the predictions, in per cent.
        reference_share: of the most frequent reference: the share of the rows, in per cent.
    """

    predictions: int
    distinct: int
    text: str
    share: float
    reference_share: float

    def values(self) -> dict[str, float]:
        """The numbers by the keys of HOW."""
        shares = {SAME: self.share, SAME_REFERENCE: self.reference_share}
        return {DISTINCT: self.distinct, **shares}

    def warning(self) -> str | None:
        """What is wrong: most predictions are one text, far more than any text is right for."""
        least = max(ALARMING, TIMES_REFERENCE * self.reference_share)
        if self.predictions < FEWEST or self.share <= least:
            return None
        return (
            f"{self.share:.1f} % of {self.predictions:,} predictions are the same, "
            f"{self.text!r:.80}, and no text is right for more than "
            f"{self.reference_share:.1f} % of the rows: the "
            "model may not be looking at the video; compare it with blank video"
        )


def variety(
    predictions: Iterable[str | None], references: Iterable[Sequence[str]]
) -> Variety | None:
    """Of the predictions that there are; None without any, or without any reference.

    Args:
        predictions: texts, or names of classes; None is left out.
        references: the right texts of each row; rows without any are left out.
    """
    texts = Counter(plain(text) for text in predictions if text is not None)
    right = [set(map(plain, row)) for row in references if row]
    if not texts or not right:
        return None
    text, most = texts.most_common(1)[0]
    of_references = Counter(text for row in right for text in row)
    return Variety(
        predictions=texts.total(),
        distinct=len(texts),
        text=text,
        share=100 * most / texts.total(),
        reference_share=100 * max(of_references.values(), default=0) / len(right),
    )


def plain(text: str) -> str:
    """In lower case, with one blank for every run of white space."""
    return " ".join(text.casefold().split())
