"""The files that generation and scoring write and that metrics and submissions are made from.

jsonl: one object per line, with an ``id`` that is text. Every mistake raises UserError that names
file and line.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vt_fairseq.bounded_files import byte_lines
from vt_fairseq.errors import UserError
from vt_fairseq.visible_text import json_text

JsonRow = dict[str, Any]
"""The object of one line, with the line's name as ``_where`` for error messages."""
PairedRows = list[tuple[JsonRow, JsonRow | None]]
"""Each reference with its prediction, None where it has none."""


def is_plain_file(path: Path) -> bool:
    """Whether ``path`` is a regular file itself: no link, no named pipe, no device."""
    return path.is_file() and not path.is_symlink()


def jsonl_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number, from 1, and the bytes of each line that is not blank."""
    for number, line in enumerate(byte_lines(path), 1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield number, line


def parse_object(line: bytes) -> JsonRow:
    """The JSON object of a line in UTF-8; raise ValueError saying what is wrong with another."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, not an object")
    return row


def numbered_objects(path: Path) -> Iterator[tuple[int, JsonRow]]:
    """The number and the object of each line of a jsonl file; raise UserError at another line."""
    for number, line in jsonl_lines(path):
        try:
            yield number, parse_object(line)
        except ValueError as error:
            where = f"{path} line {number}"
            raise UserError(f"{where}: expected a JSON object: {error}") from error


def objects(path: Path) -> Iterator[JsonRow]:
    """The objects of a jsonl file, each with file and line as ``_where``."""
    for number, row in numbered_objects(path):
        yield row | {"_where": f"{path} line {number}"}


def by_id(rows: Iterable[JsonRow]) -> dict[str, JsonRow]:
    """``rows`` by their ``id``, in their order; the ids must be distinct texts."""
    named: dict[str, JsonRow] = {}
    for row in rows:
        name = row.get("id")
        if not isinstance(name, str):
            shown = {key: value for key, value in row.items() if key != "_where"}
            raise UserError(
                f"{row['_where']}: expected an object with an id that is text, found {shown!r:.60}"
            )
        if name in named:
            first = named[name]["_where"]
            raise UserError(f"{row['_where']}: duplicate id {name!r}, first on {first}")
        named[name] = row
    return named


def read(path: Path) -> dict[str, JsonRow]:
    """The objects of a jsonl file by id."""
    return by_id(objects(path))


def pair(
    predictions: dict[str, JsonRow], references: dict[str, JsonRow], source: str
) -> PairedRows:
    """Every reference with its prediction or None.

    ``source`` names the file of the references. Raises UserError on a prediction without a
    reference, on no references, and on NaN among a prediction's scores.
    """
    if not references:
        raise UserError(f"{source} has no rows")
    for name, row in predictions.items():
        if name not in references:
            raise UserError(
                f"{row['_where']}: id {name!r} is not in {source}; "
                "are predictions and references of the same split?"
            )
        refuse_nan(row)
    return [(row, predictions.get(name)) for name, row in references.items()]


def refuse_nan(row: JsonRow) -> None:
    """Raise UserError when the row's ``scores`` hold NaN."""
    scores = row.get("scores")
    if isinstance(scores, list) and any(isinstance(s, float) and math.isnan(s) for s in scores):
        where = row["_where"]
        raise UserError(f"{where}: NaN among the scores; a prediction made from it means nothing")


def check_finite(scores: Iterable[float], clip: str) -> None:
    """Raise UserError naming ``clip`` for a score of a model that is not a finite number."""
    if not all(map(math.isfinite, scores)):
        raise UserError(
            f"a score of clip {clip} is not a finite number: the model has diverged, or its "
            "numbers pass fp16's range (take bf16 or fp32)"
        )


# --- fields --------------------------------------------------------------------------------------


def field(row: JsonRow, key: str, valid: Callable[[Any], bool], what: str) -> Any:
    """``row[key]``; raise UserError saying that ``what`` was expected unless it is ``valid``."""
    if not valid(row.get(key)):
        raise UserError(f"{row['_where']}: expected {key!r}: {what}, found {row.get(key)!r:.60}")
    return row[key]


def predicted(row: JsonRow | None, key: str, valid: Callable[[Any], bool], what: str) -> Any:
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
    """A list of numbers, each within the range of a float: JSON's may have any number of digits."""
    return isinstance(value, list) and all(
        isinstance(v, float) or (isinstance(v, int) and not isinstance(v, bool) and _is_float(v))
        for v in value
    )


def _is_float(value: int) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


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
        for clip_id, own, text, score in zip(clip_ids, references, texts, scores, strict=True):
            prediction: JsonRow = {"prediction": "", "missing": True}
            if text is not None:
                prediction = {"prediction": text, "score": score}
            for file, row in (
                (self._predictions, prediction),
                (self._references, {"references": own}),
            ):
                file.write(json_text({"id": clip_id} | row) + "\n")
