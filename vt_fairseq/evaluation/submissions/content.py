"""What one file of a submission is made of."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vt_fairseq.errors import UserError
from vt_fairseq.result_files import JsonRow


@dataclass(frozen=True)
class Content:
    """One split's predictions in a server's format.

    Attributes:
        ids: the official ones, all of them, in their order.
        missing: those without a prediction.
        pieces: the text of the file.
    """

    ids: list[str]
    missing: int
    pieces: Iterator[str]


def known(rows: dict[str, JsonRow], ids: Iterable[str], split: str) -> dict[str, JsonRow]:
    """``rows``; raise UserError when one of them is not among the official ``ids``."""
    known = set(ids)
    for name, row in rows.items():
        if name not in known:
            raise UserError(f"{row['_where']}: id {name!r} is not in the official {split} split")
    return rows
