"""HowTo100M (Miech et al. 2019; di.ens.fr/willow/research/howto100m): 136 million narrated clips.

One split, train. A row's caption is the narration and its label the activity: the WikiHow task
that the video was found with. Clips shorter than MIN_SECONDS are widened as HowTo100M's own loader
does it.

The narrations are read from the first of FILES that is there: ``raw_caption.json`` (unprocessed,
what the paper trains on), ``howto100m_captions`` (a folder with a CSV per video), ``caption.json``
(without stop words). The files are streamed; memory holds one task per video.
"""

import csv
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.files import (
    VideoFinder,
    as_published,
    csv_records,
    integer,
    json_items,
    number,
    require_file,
    text,
)
from vt_fairseq.corpora.rows import Entry, FirstSeen, Rejected, Source
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import text_lines

SPLIT = "train"
PUBLISHED = {SPLIT: 136_000_000}
PUBLISHED_VIDEOS = 1_220_000
TOLERANCE = 0.01  # the published numbers are rounded
PUBLISHED_AT = "di.ens.fr/willow/research/howto100m"
FILES = ("raw_caption.json", "howto100m_captions", "caption.json")
VIDEOS_FILE = "HowTo100M_v1.csv"
TASKS_FILE = "task_ids.csv"
COLUMNS = ("start", "end", "text")
MIN_SECONDS = 4.0
DELIMITERS = "\t,;"
_SAMPLE = 100  # lines that the delimiter is guessed from


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
        settings={"narrations": narrations.name},
        published=PUBLISHED,
        published_at=PUBLISHED_AT,
        tolerance=TOLERANCE,
        notes=notes,
    )


# --- activities ----------------------------------------------------------------------------------


def read_tasks(path: Path) -> dict[int, str]:
    """Task id -> readable name; commas, tabs or semicolons, with or without a header."""
    with as_published(path):
        head = list(itertools.islice(text_lines(path), _SAMPLE))
        delimiter = max(DELIMITERS, key=lambda d: sum(_task_id(line, d) for line in head))
        rows = list(csv.reader(text_lines(path), delimiter=delimiter))
    tasks: dict[int, str] = {}
    for line, row in enumerate(rows, 1):
        if not row or (line == 1 and not row[0].strip().isdigit()):
            continue  # a header
        where = f"{path.name} line {line}"
        # A name with a comma in it may stand there without quotes.
        name = " ".join(delimiter.join(row[1:]).split())
        if not name:
            raise UserError(f"{where}: expected a task's number and name, found {row!r:.80}")
        tasks[integer(row[0].strip(), where, "the task's number")] = readable(name)
    if not tasks:
        raise UserError(f"{path} has no tasks; expected a number and a name per line")
    return tasks


def _task_id(line: str, delimiter: str) -> bool:
    first, separator, _ = line.partition(delimiter)
    return bool(separator) and first.strip().strip('"').isdigit()


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
    for name, columns in _csv_folder(path) if path.is_dir() else json_items(path):
        where = f"{name}.csv" if path.is_dir() else f"{path.name} {name}"
        count += 1
        unlabeled += name not in labels
        if not keeps(name):
            continue
        if (earlier := seen.earlier(name, where)) is not None:
            reason = f"duplicate id: the video is also in {earlier}"
            yield Rejected(name, name, SPLIT, reason, where)
        else:
            yield from _clips(name, columns, labels.get(name), videos.find(name), where)
    notes.append(
        f"{count:,} videos have narrations, about {PUBLISHED_VIDEOS:,} are published; "
        f"{unlabeled:,} of them have no activity"
    )


def _csv_folder(folder: Path) -> Iterator[tuple[str, dict[str, list[str]] | UserError]]:
    """The video and the columns of each file, or what is wrong with it."""
    for file in sorted(name for name in os.listdir(folder) if name.endswith(".csv")):
        columns: dict[str, list[str]] | UserError = {key: [] for key in COLUMNS}
        try:
            records = [record for _, record in csv_records(folder / file, COLUMNS)]
            columns = {key: [record[key] for record in records] for key in COLUMNS}
        except UserError as error:
            columns = error
        yield file.removesuffix(".csv"), columns


def _clips(
    video: str, columns: Any, label: str | None, path: str, where: str
) -> Iterator[Entry | Rejected]:
    """The clips of a video from its ``columns``, which may be anything that JSON can say."""
    problem = _column_problem(columns)
    if problem is not None:
        yield Rejected(video, video, SPLIT, f"bad narration: {problem}", where)
        return
    for index, (start, end, words) in enumerate(zip(*map(columns.get, COLUMNS), strict=True)):
        name = f"{video}_{index}"
        try:
            first, last = widened(number(start, where, "start"), number(end, where, "end"))
        except UserError:
            reason = f"bad times: {start!r:.30} to {end!r:.30}"
            yield Rejected(name, video, SPLIT, reason, where)
            continue
        if not isinstance(words, str) or not words.strip():
            yield Rejected(name, video, SPLIT, f"empty text: {words!r:.30}", where)
            continue
        row = ClipRow(name, path, first, last, captions=(" ".join(words.split()),), label=label)
        yield Entry(SPLIT, row, where)


def _column_problem(columns: Any) -> str | None:
    if isinstance(columns, UserError):
        return str(columns)
    if not isinstance(columns, dict):
        return f"expected an object, found {columns!r:.40}"
    lists = [column for column in map(columns.get, COLUMNS) if isinstance(column, list)]
    if len(lists) < len(COLUMNS) or len(set(map(len, lists))) > 1:
        return "expected lists text, start, end of one length"
    return None


def widened(start: float, end: float) -> tuple[float, float]:
    """A clip of at least MIN_SECONDS, about the same middle unless that begins before 0 s."""
    missing = MIN_SECONDS - (end - start)
    if missing <= 0 or end < start:
        return start, end
    start = max(0.0, start - missing / 2)
    return start, start + MIN_SECONDS
