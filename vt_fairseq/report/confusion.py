"""Which classes are taken for which."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vt_fairseq.report.rows import Row

MOST_CLASSES = 10  # of the table
MOST_PAIRS = 10
SHADES = 5  # of the table's cells, 0 for none


@dataclass(frozen=True)
class Confusion:
    """The most confused classes of one set of classes.

    Attributes:
        of: label, verb or noun.
        pairs: (right class, predicted class, how often, of how many rows of the right class).
        right, said: classes of the table's rows and columns.
        table: a row a right class: [(count, shade from 0 to SHADES)] of each predicted class.
        itself: of each right class how often it was said.
        others: the predictions that are neither it nor in ``said``.
    """

    of: str
    pairs: list[tuple[str, str, int, int]]
    right: list[str]
    said: list[str]
    table: list[list[tuple[int, int]]]
    itself: list[int]
    others: list[int]


def confusions(rows: Sequence[Row]) -> list[Confusion]:
    """Of each set of classes that the rows have, where any is confused."""
    names = dict.fromkeys(name for row in rows for name in row.classes)
    return [found for name in names if (found := _confusion(name, rows)).pairs]


def _confusion(of: str, rows: Sequence[Row]) -> Confusion:
    counts = Counter(row.classes[of] for row in rows if of in row.classes)
    totals: Counter[str] = Counter()
    for (right, _), count in counts.items():
        totals[right] += count
    wrong = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
    rows, columns = _most_confused([pair for pair, _ in wrong])
    # How often a class is right stands in a column of its own, the same for all.
    itself = [counts[name, name] for name in rows]
    table = [[counts[n, said] if said != n else 0 for said in columns] for n in rows]
    return Confusion(
        of=of,
        pairs=[(n, said, count, totals[n]) for (n, said), count in wrong[:MOST_PAIRS]],
        right=rows,
        said=columns,
        table=[
            [(count, _shade(count, totals[name])) for count in row]
            for name, row in zip(rows, table, strict=True)
        ],
        itself=itself,
        others=[
            totals[name] - sum(row) - hits
            for name, row, hits in zip(rows, table, itself, strict=True)
        ],
    )


def _most_confused(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Of pairs, the most frequent first: right classes, and predicted ones, sorted."""
    right: set[str] = set()
    said: set[str] = set()
    for name, other in pairs:
        if len(right | {name}) <= MOST_CLASSES >= len(said | {other}):
            right.add(name)
            said.add(other)
    return sorted(right), sorted(said)


def _shade(count: int, total: int) -> int:
    return -(-SHADES * count // max(1, total))
