"""Rankings of retrieval: the first ids and the place of the right one.

A ranking names every clip of the split, so those of 10,000 captions are more than a gigabyte. A
line as ``vt-score`` writes it is therefore looked through and not parsed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vt_fairseq.errors import UserError
from vt_fairseq.result_files import is_ranking

SHOWN = 5
LONG = 1 << 14  # bytes of a line that is worth the trouble
_HEAD = re.compile(rb'\{"id": "([^"]*)", "ranking": \["')
_BETWEEN = b'", "'


class Ranking(NamedTuple):
    """Of one query; ``rank`` is from 1, None where the target is not in the ranking."""

    id: str
    top: list[str]
    rank: int | None


def read_rankings(path: Path, targets: dict[str, str]) -> Iterator[Ranking]:
    """Every line's ranking; the target of an id that is not in ``targets`` is the id itself."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                head = _HEAD.match(line) if len(line) > LONG and b"\\" not in line else None
                where = f"{path} line {number}"
                yield _searched(line, head, targets) if head else _parsed(line, targets, where)


def _searched(line: bytes, head: re.Match, targets: dict[str, str]) -> Ranking:
    """Without a backslash a quotation mark always ends a text, so marks can be counted."""
    name = head[1].decode()
    end, top = head.end(), []
    for _ in range(SHOWN):
        stop = line.find(b'"', end)
        top.append(line[end:stop].decode())
        if not line.startswith(_BETWEEN, stop):
            break
        end = stop + len(_BETWEEN)
    target = b'"' + targets.get(name, name).encode() + b'"'
    found = line.find(target, head.end() - 1)
    rank = None if found < 0 else line.count(_BETWEEN, head.end(), found + 1) + 1
    return Ranking(name, top, rank)


def _parsed(line: bytes, targets: dict[str, str], where: str) -> Ranking:
    try:
        row = json.loads(line)
        name, ranking = row["id"], row["ranking"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: expected an object with id and ranking: {error!r}") from error
    if ranking is not None and not is_ranking(ranking):
        raise UserError(f"{where}: expected 'ranking': distinct ids, best first")
    ranking, target = ranking or [], targets.get(name, name)
    return Ranking(name, ranking[:SHOWN], ranking.index(target) + 1 if target in ranking else None)
