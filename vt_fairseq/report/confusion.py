"""Which classes are taken for which."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vt_fairseq.report.rows import ReportRow

MOST_CLASSES = 10  # of the table
MOST_PAIRS = 10
SHADES = 5  # of the table's cells, 0 for none


@dataclass(frozen=True)
class Confusion:
    """The most confused classes of one set of classes.

    Attributes:
        of: label, verb or noun.
        pairs: (right class, predicted class, how often, of how many rows of the right class).
        references, predicted: classes of the table's rows and columns.
        table: per right class [(count, shade from 0 to SHADES)] of each predicted class.
        itself: how often each right class was predicted.
        others: how often each was taken for a class that is not in ``predicted``.
    """

    of: str
    pairs: list[tuple[str, str, int, int]]
    references: list[str]
    predicted: list[str]
    table: list[list[tuple[int, int]]]
    itself: list[int]
    others: list[int]


def confusions(rows: Sequence[ReportRow]) -> list[Confusion]:
    """The confusions of each set of classes that the rows have, where any is confused."""
    names = dict.fromkeys(name for row in rows for name in row.classes)
    tables = (
        _confusion(name, [r.classes[name] for r in rows if name in r.classes]) for name in names
    )
    return [table for table in tables if table.pairs]


def _confusion(of: str, pairs: Sequence[tuple[str, str]]) -> Confusion:
    counts, totals = Counter(pairs), Counter(reference for reference, _ in pairs)
    wrong = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    references, predicted = _most_confused([pair for pair, _ in wrong])
    # How often a class is right stands in a column of its own, the same for all.
    table = [[counts[r, p] if p != r else 0 for p in predicted] for r in references]
    itself = [counts[name, name] for name in references]
    return Confusion(
        of=of,
        pairs=[(r, p, count, totals[r]) for (r, p), count in wrong[:MOST_PAIRS]],
        references=references,
        predicted=predicted,
        table=[
            [(count, -(-SHADES * count // totals[name])) for count in row]
            for name, row in zip(references, table, strict=True)
        ],
        itself=itself,
        others=[
            totals[name] - sum(row) - hits
            for name, row, hits in zip(references, table, itself, strict=True)
        ],
    )


def _most_confused(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The correct and the predicted classes, sorted, of ``pairs``, the most frequent first."""
    references: set[str] = set()
    predicted: set[str] = set()
    for one, other in pairs:
        if len(references | {one}) <= MOST_CLASSES >= len(predicted | {other}):
            references.add(one)
            predicted.add(other)
    return sorted(references), sorted(predicted)
