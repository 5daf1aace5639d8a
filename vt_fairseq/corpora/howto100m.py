"""HowTo100M (Miech et al. 2019; di.ens.fr/willow/research/howto100m): 136 million narrated clips.

One split, train. A row's caption is the narration and its label the activity: the WikiHow task
that the video was found with. Clips shorter than MIN_SECONDS are widened as HowTo100M's own loader
does it.

The narrations are read from the first of FILES that is there: ``raw_caption.json`` (unprocessed,
what the paper trains on), ``howto100m_captions`` (a folder with one CSV a video), ``caption.json``
(without stop words). The files are streamed; memory holds one task a video.
"""

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.files import (
    VideoFinder,
    csv_records,
    integer,
    json_items,
    require_file,
    text,
)
from vt_fairseq.corpora.rows import Entry, FirstSeen, Rejected, Source
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError

SPLIT = "train"
PUBLISHED = {SPLIT: 136_000_000}
PUBLISHED_VIDEOS = 1_220_000
TOLERANCE = 0.01  # the published numbers are rounded
PUBLISHED_AT = "di.ens.fr/willow/research/howto100m"
FILES = ("raw_caption.json", "howto100m_captions", "caption.json")
VIDEOS_FILE = "HowTo100M_v1.csv"
TASKS_FILE = "task_ids.csv"
MIN_SECONDS = 4.0
DELIMITERS = "\t,;"
_SAMPLE = 100  # lines that the delimiter is guessed from


@dataclass(frozen=True)
class Narration:
    """What is said in one video: (text, start, end) a clip, or the problem that it has."""

    video: str
    where: str
    clips: Iterable[tuple[Any, Any, Any]] = ()
    problem: str | None = None


def open_corpus(
    annotations: Path, videos: Path, keeps: Callable[[str], bool] = lambda video: True
) -> Source:
    """The corpus in its official files, or the videos of it that ``keeps`` says yes to.

    Raise UserError for a missing or wrong file.
    """
    narrations = require_file(annotations, *FILES, source=PUBLISHED_AT)
    tasks = read_tasks(require_file(annotations, TASKS_FILE, source=PUBLISHED_AT))
    labels = read_labels(require_file(annotations, VIDEOS_FILE, source=PUBLISHED_AT), tasks)
    notes = []
    if narrations.name == "caption.json":
        notes.append("caption.json lacks stop words; the paper keeps them: raw_caption.json")
    return Source(
        rows=_rows(narrations, labels, VideoFinder(videos), notes, keeps),
        videos=videos,
        settings={"annotations": str(annotations), "narrations": narrations.name},
        published=PUBLISHED,
        published_at=PUBLISHED_AT,
        tolerance=TOLERANCE,
        notes=notes,
    )


# --- activities ----------------------------------------------------------------------------------


def read_tasks(path: Path) -> dict[int, str]:
    """Task id -> readable name; commas, tabs or semicolons, with or without a header."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = [line for line, _ in zip(file, range(_SAMPLE), strict=False)]
            delimiter = max(DELIMITERS, key=lambda d: sum(_task_id(line, d) for line in head))
            file.seek(0)
            rows = list(csv.reader(file, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not csv as published: {error}") from error
    tasks: dict[int, str] = {}
    for number, row in enumerate(rows, 1):
        if not row or (number == 1 and not row[0].strip().isdigit()):
            continue  # a header
        where = f"{path.name} line {number}"
        # A name with a comma in it may stand there without quotes.
        name = " ".join(delimiter.join(row[1:]).split())
        if not name:
            raise UserError(f"{where}: expected a task's number and name, found {row!r:.80}")
        tasks[integer(row[0].strip(), where, "the task's number")] = readable(name)
    if not tasks:
        raise UserError(f"{path} has no tasks; expected a number and a name a line")
    return tasks


def _task_id(line: str, delimiter: str) -> bool:
    first, found, _ = line.partition(delimiter)
    return bool(found) and first.strip().strip('"').isdigit()


def readable(name: str) -> str:
    """``Make-Kimchi``, as WikiHow's addresses have it, is "Make Kimchi"."""
    return name if " " in name else name.replace("-", " ").replace("_", " ")


def read_labels(path: Path, tasks: Mapping[int, str]) -> dict[str, str]:
    """Video id -> activity; a video that several tasks found keeps the first."""
    labels: dict[str, str] = {}
    for where, record in csv_records(path, ("video_id", "task_id")):
        task = integer(record["task_id"], where, "task_id")
        if task not in tasks:
            raise UserError(f"{where}: task_id {task} is not in {TASKS_FILE}")
        labels.setdefault(text(record, "video_id", where), tasks[task])
    return labels


# --- narrations ----------------------------------------------------------------------------------


def _rows(
    path: Path,
    labels: Mapping[str, str],
    videos: VideoFinder,
    notes: list[str],
    keeps: Callable[[str], bool],
) -> Iterator[Entry | Rejected]:
    seen = FirstSeen()
    count = unlabeled = 0
    for narration in _from_folder(path) if path.is_dir() else _from_json(path):
        name, where = narration.video, narration.where
        count += 1
        unlabeled += name not in labels
        if not keeps(name):
            continue
        if (earlier := seen.earlier(name, where)) is not None:
            yield _rejected(narration, f"duplicate id: the video is also in {earlier}")
        elif narration.problem is not None:
            yield _rejected(narration, f"bad narration: {narration.problem}")
        else:
            yield from _clips(narration, labels.get(name), videos.find(name))
    notes.append(
        f"{count:,} videos have narrations, about {PUBLISHED_VIDEOS:,} are published; "
        f"{unlabeled:,} of them have no activity"
    )


def _from_json(path: Path) -> Iterator[Narration]:
    for name, value in json_items(path):
        where = f"{path.name} {name}"
        if isinstance(value, dict):
            yield _narration(name, value.get("text"), value.get("start"), value.get("end"), where)
        else:
            yield Narration(name, where, problem=f"expected an object, found {value!r:.40}")


def _from_folder(folder: Path) -> Iterator[Narration]:
    for file in sorted(name for name in os.listdir(folder) if name.endswith(".csv")):
        name = file.removesuffix(".csv")
        try:
            records = [r for _, r in csv_records(folder / file, ("start", "end", "text"))]
        except UserError as error:
            yield Narration(name, file, problem=str(error))
            continue
        columns = ([record[key] for record in records] for key in ("text", "start", "end"))
        yield _narration(name, *columns, file)


def _narration(name: str, text: Any, start: Any, end: Any, where: str) -> Narration:
    columns = (text, start, end)
    if not all(isinstance(c, list) for c in columns) or len({len(c) for c in columns}) > 1:
        return Narration(name, where, problem="expected lists text, start, end of one length")
    return Narration(name, where, zip(*columns, strict=True))


def _clips(narration: Narration, label: str | None, video: str) -> Iterator[Entry | Rejected]:
    for index, (said, start, end) in enumerate(narration.clips):
        name = f"{narration.video}_{index}"
        try:
            first, last = widened(_seconds(start), _seconds(end))
        except (TypeError, ValueError, OverflowError):
            yield _rejected(narration, f"bad times: {start!r:.30} to {end!r:.30}", name)
            continue
        if not isinstance(said, str) or not said.strip():
            yield _rejected(narration, f"empty text: {said!r:.30}", name)
            continue
        row = ClipRow(name, video, first, last, captions=(" ".join(said.split()),), label=label)
        yield Entry(SPLIT, row, narration.where)


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value} is no time")
    return seconds


def widened(start: float, end: float) -> tuple[float, float]:
    """A clip of at least MIN_SECONDS, about the same middle unless that begins before 0 s."""
    missing = MIN_SECONDS - (end - start)
    if missing <= 0 or end < start:
        return start, end
    start = max(0.0, start - missing / 2)
    return start, start + MIN_SECONDS


def _rejected(narration: Narration, reason: str, name: str | None = None) -> Rejected:
    return Rejected(name or narration.video, narration.video, SPLIT, reason, narration.where)
