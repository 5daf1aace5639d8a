"""The files that generation and scoring write and that metrics and submissions are made from.

jsonl: one object per line, with an ``id`` that is text. Every mistake raises UserError that names
file and line.
"""

import codecs
import errno
import fcntl
import logging
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.files.atomic_files import atomic_file, full_disk_named
from vt_fairseq.files.bounded_files import byte_lines, parse_json
from vt_fairseq.visible_text import json_text

logger = logging.getLogger(__name__)

HEAD_BYTES = 4096  # of a file that show its format
BOMS_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

JsonRow = dict[str, Any]
"""The object of one line, with the line's name as ``_where`` for error messages."""
PairedRows = list[tuple[JsonRow, JsonRow | None]]
"""Each reference with its prediction, None where it has none."""


def is_plain_file(path: Path) -> bool:
    """Whether ``path`` is a regular file itself: no link, no named pipe, no device."""
    return path.is_file() and not path.is_symlink()


def jsonl_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number, from 1, and the bytes of each line that is not blank."""
    if not path.is_file():
        raise UserError(f"no file {path}{unfinished(path)}")
    refuse_other_formats(path)
    for number, line in enumerate(byte_lines(path), 1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield number, line


def refuse_other_formats(path: Path) -> None:
    """Raise UserError where a file begins as no jsonl does: every line of it would be a mistake.

    One bad line at its beginning is none of that, as long as another begins with a brace.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    text = head.removeprefix(codecs.BOM_UTF8).strip()
    if head.startswith(BOMS_UTF16) or head.count(0) > len(head) / 4:
        found = "text in UTF-16, or none (iconv -f UTF-16 -t UTF-8 converts it)"
    elif re.match(rb"\[\s*(\{|$)", text):
        found = "a JSON array (jq -c '.[]' makes lines of it)"
    elif re.match(rb"\{\s*\n\s*\"", text):
        found = "a JSON object over several lines (jq -c . makes one of them)"
    elif text and not re.search(rb"^\s*\{", text, re.MULTILINE):
        found = f"{text.splitlines()[0].decode(errors='replace')!r:.60}"
    else:
        return
    raise UserError(f"{path}: expected jsonl, one JSON object on each line, found {found}")


def unfinished(path: Path) -> str:
    """What there is of the file in parts, for a message; "" where there are none."""
    parts = sorted(p.name for p in path.parent.glob(f"{path.stem}.*of*.jsonl"))
    if not parts:
        return ""
    return f": only {', '.join(parts)} of a run that did not end; start fairseq-generate again"


def parse_object(line: bytes) -> JsonRow:
    """The JSON object of a line in UTF-8; raise ValueError saying what is wrong with another."""
    row = parse_json(line.decode("utf-8-sig"))
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


@dataclass(frozen=True)
class Share:
    """How many rows this process writes, and which of how many processes it is, from 0."""

    rows: int
    rank: int = 0
    processes: int = 1


class PredictionFiles:
    """predictions.jsonl and references.jsonl of ``fairseq-generate --results-path``.

    They have these names once all rows of all processes are in them. Until then each process writes
    its own under ``part_name``.
    """

    def __init__(self, folder: Path, share: Share):
        """Open this process's parts; UserError where another run is writing them."""
        self.folder, self.share, self._written = folder, share, 0
        for name in NAMES:
            (folder / part_name(name, share, done=True)).unlink(missing_ok=True)
        self._files = [open_part(folder / part_name(name, share)) for name in NAMES]

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
            for file, row in zip(self._files, (prediction, {"references": own}), strict=True):
                with full_disk_named(Path(file.name)):
                    file.write(json_text({"id": clip_id} | row) + "\n")
        self._written += len(clip_ids)
        self.finish_if_whole()

    def finish_if_whole(self) -> None:
        """Give the files their names if these were the last rows of the last process."""
        if self._written < self.share.rows:
            return
        for name, file in zip(NAMES, self._files, strict=True):
            file.flush()
            os.fsync(file.fileno())
            part = self.folder / part_name(name, self.share)
            os.replace(part, self.folder / part_name(name, self.share, done=True))
        with open(self.folder / MERGING, "w") as merging:
            fcntl.flock(merging, fcntl.LOCK_EX)  # two processes may come to their end together
            if merge_parts(self.folder, self.share):
                (self.folder / MERGING).unlink(missing_ok=True)


def refuse_nothing(missing: int, rows: int) -> None:
    """Raise RunFailure where every row of a split is missing: there is nothing to measure."""
    if rows and missing == rows:
        raise RunFailure(
            f"none of the {rows:,} clips could be read, for the reasons above: there is nothing to "
            "measure; check the folder of the videos"
        )


NAMES = ("predictions", "references")
MERGING = ".merging"


def part_name(name: str, share: Share, done: bool = False) -> str:
    """What the rows of one process are called while others are missing."""
    return f"{name}.{'done' if done else 'part'}{share.rank}of{share.processes}.jsonl"


def open_part(path: Path) -> IO[str]:
    """An empty file, line-buffered, so that what is done can be read; locked until it is closed."""
    file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    try:
        # Of this process alone: data workers that outlive a killed run must not hold it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # else the file system has no locks
            raise UserError(
                f"another run writes its predictions to {path.parent}: give this one a "
                "--results-path of its own"
            ) from error
    file.truncate(0)
    return file


def _refuse_nothing(predictions: Sequence[Path]) -> None:
    """Raise RunFailure where these parts are there and every prediction says that it is missing."""
    if all(part.is_file() for part in predictions):
        rows = (row for part in predictions for _, row in numbered_objects(part))
        counts = Counter(bool(row.get("missing")) for row in rows)
        refuse_nothing(counts[True], counts.total())


def merge_parts(folder: Path, share: Share) -> bool:
    """Make one file of the parts of all processes, the predictions last; False until all are done.

    True, too, where another process has done it. Raises RunFailure where every row is missing.
    """
    shares = [replace(share, rank=rank) for rank in range(share.processes)]
    _refuse_nothing([folder / part_name("predictions", one, done=True) for one in shares])
    for name in reversed(NAMES):
        parts = [folder / part_name(name, one, done=True) for one in shares]
        if not all(part.is_file() for part in parts):
            return not any(folder.glob(f"{name}.*of{share.processes}.jsonl"))
        with atomic_file(folder / f"{name}.jsonl") as merged:
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, merged)
        for part in parts:
            part.unlink()
    logger.info("wrote %s/{%s}.jsonl", folder, ",".join(NAMES))
    return True
