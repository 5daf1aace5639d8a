"""Equal captions and equal candidates, which no model can tell apart, are counted and stay apart.

As in the scripts of the field a query has one right clip, a clip one right caption and a question
one right index, also where another has the same text. So of two clips with one caption either
comes second in retrieval, in both directions, and of two equal candidates the first is predicted.
Texts are equal that differ in white space alone.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

CAPTIONS, CANDIDATES = "equal_captions", "equal_candidates"  # keys of the counts
HOW = {
    CAPTIONS: "rows whose caption another row has|each row's own clip and caption alone are right",
    CANDIDATES: "rows with two equal candidates|the index of the answer alone is right",
}


def equal_captions(captions: Iterable[str]) -> dict[str, int]:
    """{CAPTIONS: the number of rows whose caption another row has}; nothing for none."""
    counts = Counter(map(_plain, captions))
    return _some(CAPTIONS, sum(rows for rows in counts.values() if rows > 1))


def equal_candidates(rows: Iterable[Sequence[str]]) -> dict[str, int]:
    """{CANDIDATES: the number of rows that have two equal candidates}; nothing for none."""
    return _some(CANDIDATES, sum(len(set(map(_plain, own))) < len(own) for own in rows))


def _plain(text: str) -> str:
    return " ".join(text.split())


def _some(key: str, rows: int) -> dict[str, int]:
    return {key: rows} if rows else {}
