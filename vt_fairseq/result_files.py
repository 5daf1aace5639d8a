"""The files that generation and scoring write and that metrics and submissions are made from.

jsonl: one object a line, with an ``id`` that is text. Every mistake raises UserError that names
file and line.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError

Row = dict[str, Any]  # one line's object, with "_where" for error messages
Pairs = list[tuple[Row, Row | None]]  # each reference with its prediction


def objects(path: Path) -> Iterator[Row]:
    """The objects of a jsonl file, each with its place as ``_where``."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    with open(path, "rb") as file:
        # Binary lines end at \n alone, so that U+2028 inside a text does not split a row.
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path} line {number}"
                yield _parse(line, where) | {"_where": where}


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected a JSON object a line: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with an id that is text, found {row!r:.60}")
    return row


def by_id(rows: Iterable[Row]) -> dict[str, Row]:
    """``rows`` by their ``id``, in their order."""
    found: dict[str, Row] = {}
    for row in rows:
        name = row.get("id")
        if not isinstance(name, str):
            shown = {key: value for key, value in row.items() if key != "_where"}
            raise UserError(
                f"{row['_where']}: expected an object with an id that is text, found {shown!r:.60}"
            )
        if name in found:
            first = found[name]["_where"]
            raise UserError(f"{row['_where']}: duplicate id {name!r}, first on {first}")
        found[name] = row
    return found


def read(path: Path) -> dict[str, Row]:
    """The objects of a jsonl file by id."""
    return by_id(objects(path))


def pair(predicted: dict[str, Row], right: dict[str, Row], source: str) -> Pairs:
    """Every reference with its prediction or None.

    ``source`` says where the references are from. Raises UserError on a prediction without a
    reference, on no references, and on NaN among a prediction's scores.
    """
    if not right:
        raise UserError(f"{source} has no rows")
    for name, row in predicted.items():
        if name not in right:
            raise UserError(
                f"{row['_where']}: id {name!r} is not in {source}; "
                "are predictions and references of the same split?"
            )
        refuse_nan(row)
    return [(row, predicted.get(name)) for name, row in right.items()]


def refuse_nan(row: Row) -> None:
    """Raise UserError when ``scores`` holds NaN."""
    scores = row.get("scores")
    if isinstance(scores, list) and any(isinstance(s, float) and math.isnan(s) for s in scores):
        where = row["_where"]
        raise UserError(f"{where}: NaN among the scores; a prediction made from it means nothing")


# --- fields --------------------------------------------------------------------------------------


def field(row: Row, key: str, valid: Callable[[Any], bool], what: str) -> Any:
    """``row[key]``; raise UserError saying that ``what`` was expected unless it is ``valid``."""
    if not valid(row.get(key)):
        raise UserError(f"{row['_where']}: expected {key!r}: {what}, found {row.get(key)!r:.60}")
    return row[key]


def predicted(row: Row | None, key: str, valid: Callable[[Any], bool], what: str) -> Any:
    """``row[key]``; None when there is no row or it says null (a clip that could not be read)."""
    if row is None or (key in row and row[key] is None):
        return None
    return field(row, key, valid, what)


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_index(value: Any) -> bool:
    """An integer from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_texts(value: Any) -> bool:
    """A list of strings with at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def is_ranking(value: Any) -> bool:
    """A list of distinct strings with at least one."""
    return is_texts(value) and len(set(value)) == len(value)


def is_numbers(value: Any) -> bool:
    """A list of numbers."""
    return isinstance(value, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in value
    )


# --- writing -------------------------------------------------------------------------------------


class PredictionFiles:
    """predictions.jsonl and references.jsonl of ``fairseq-generate --results-path``."""

    def __init__(self, folder: Path):
        # Line-buffered: what is done is on disk when the run is interrupted.
        self._predictions, self._references = (
            open(folder / name, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            for name in ("predictions.jsonl", "references.jsonl")
        )

    def write(
        self,
        clip_ids: Sequence[str],
        references: Sequence[Sequence[str]],
        texts: Sequence[str | None],
        scores: Sequence[float | None],
    ) -> None:
        """Append the rows of a batch; a text is None where the clip could not be read."""
        for clip_id, right, text, score in zip(clip_ids, references, texts, scores, strict=True):
            found = {"prediction": "", "missing": True}
            if text is not None:
                found = {"prediction": text, "score": score}
            self._write(self._predictions, {"id": clip_id, **found})
            self._write(self._references, {"id": clip_id, "references": right})

    @staticmethod
    def _write(file, record: dict) -> None:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
