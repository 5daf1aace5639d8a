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
        others: of each right class the predictions that are not in ``said``.
    """

    of: str
    pairs: list[tuple[str, str, int, int]]
    right: list[str]
    said: list[str]
    table: list[list[tuple[int, int]]]
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
    table = [[counts[right, said] for said in columns] for right in rows]
    return Confusion(
        of,
        [(right, said, count, totals[right]) for (right, said), count in wrong[:MOST_PAIRS]],
        rows,
        columns,
        [
            [(n, _shade(n, totals[name])) for n in row]
            for name, row in zip(rows, table, strict=True)
        ],
        [totals[name] - sum(row) for name, row in zip(rows, table, strict=True)],
    )


def _most_confused(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Of pairs, the most frequent first: right classes, and predicted ones, sorted."""
    right: dict[str, None] = {}
    said: dict[str, None] = {}
    for pair in pairs:
        if len(right | {pair[0]: None}) <= MOST_CLASSES >= len(said | {pair[1]: None}):
            right[pair[0]] = said[pair[1]] = None
    # A class that is often right as well belongs into the columns of its own row.
    said |= dict.fromkeys(name for name in right if any(name == other for _, other in pairs))
    return sorted(right), sorted(said)


def _shade(count: int, total: int) -> int:
    return -(-SHADES * count // max(1, total))
