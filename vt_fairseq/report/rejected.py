"""Rows that ``vt-prepare`` left out of a data directory."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vt_fairseq.report.readers import read_object
from vt_fairseq.result_files import objects

MOST_ROWS = 500


@dataclass(frozen=True)
class RejectedRows:
    """Of one data directory.

    Attributes:
        name: of the directory.
        reasons: (kind of reason, rows), the most frequent first.
        rows: the first MOST_ROWS, as rejected.jsonl has them.
        more: whether there are others.
    """

    name: str
    reasons: list[tuple[str, int]]
    rows: list[dict[str, Any]]
    more: bool


def read_rejected(directory: Path) -> RejectedRows:
    """What rejected.jsonl of a data directory has; raises UserError where it is damaged."""
    counts = dict(read_object(directory / "data.json").get("reasons") or {})
    path = directory / "rejected.jsonl"
    rows = list(itertools.islice(objects(path), MOST_ROWS + 1)) if path.is_file() else []
    keys = ("id", "video", "split", "reason", "where")
    return RejectedRows(
        directory.name,
        sorted(counts.items(), key=lambda item: -item[1]),
        [{key: row.get(key) for key in keys} for row in rows[:MOST_ROWS]],
        len(rows) > MOST_ROWS,
    )
