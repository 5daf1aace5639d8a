"""The folders that a user names, to everything that the page shows."""

import itertools
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vt_fairseq.data.manifest import DataDirectory, UnconfirmedRootError
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import is_index, is_plain_file, objects
from vt_fairseq.report.logs import TrainingLog, read_log
from vt_fairseq.report.pictures import Pictures, draw_all
from vt_fairseq.report.readers import PREDICTIONS
from vt_fairseq.report.results import ResultFolder, SplitFinder, object_in, read_object, read_result

DATA, CHECKPOINT_SUFFIX, LOG_SUFFIXES = "data.json", ".pt", (".log", ".out", ".txt")
READ_SUFFIXES = (".json", ".jsonl", ".arrow", *LOG_SUFFIXES)
DEEPEST = 5  # folders below a named one
MOST_REJECTED = 500  # rows


@dataclass(frozen=True)
class RejectedRows:
    """Rows that ``vt-prepare`` left out of one data directory.

    Attributes:
        name: of the directory.
        reasons: (kind of reason, rows), the most frequent first.
        rows: the first MOST_REJECTED, as rejected.jsonl has them.
        more: whether there are others.
    """

    name: str
    reasons: list[tuple[str, int]]
    rows: list[dict[str, Any]]
    more: bool


@dataclass
class ReportContent:
    """What a page shows.

    Attributes:
        folders: those that were named.
        results, trainings, rejected: what was read.
        pictures: of clips.
        notes: what could not be read or is not there.
    """

    folders: Sequence[Path]
    results: list[ResultFolder] = field(default_factory=list)
    trainings: list[TrainingLog] = field(default_factory=list)
    rejected: list[RejectedRows] = field(default_factory=list)
    pictures: Pictures = field(default_factory=lambda: Pictures({}))
    notes: list[str] = field(default_factory=list)


def read_content(
    folders: Sequence[Path],
    data: Sequence[Path],
    clips: int,
    video_root: Path | None = None,
    follow_links: bool = False,
) -> ReportContent:
    """Everything in ``folders``.

    Args:
        data: data directories elsewhere.
        clips: the most clips that get pictures.
        video_root: folder of the videos of data directories that this user has not prepared.
        follow_links: open videos and frames that links outside of the folder lead to.

    Raises UserError where there is nothing to show.
    """
    paths = find_inputs(folders, data)
    content = ReportContent(folders)
    directories = list(_directories(paths, content, video_root, follow_links))
    logs = []
    for path in paths.logs:
        try:
            logs.append(read_log(path))
        except UserError as error:
            content.notes.append(f"Not shown: {error}")
    content.trainings = [log for log in logs if log.inner or log.valid]
    unread = {clip: reason for log in logs for clip, reason in log.unread.items()}
    finder = SplitFinder(directories)
    for path in paths.results:
        try:
            refuse_special(path)
            content.results.append(read_result(path, finder, unread))
        except UserError as error:
            content.notes.append(f"Not shown: {error}")
    not_read = [
        f"{path} has scores of a vt-score that has not ended; the same command goes on with it."
        for path in paths.unfinished
    ]
    not_read += [
        f"{path} is a link, a pipe or a device and was not opened." for path in paths.special
    ]
    if not content.results and not content.trainings:
        text = (
            f"nothing to report in {', '.join(map(str, folders))}: expected folders of vt-score or "
            "fairseq-generate --results-path (predictions.jsonl), or logs of fairseq-train"
        )
        if paths.checkpoints:
            text += "; checkpoints alone have nothing to show, what fairseq-train printed has"
        raise UserError(". ".join([text, *content.notes, *not_read]))
    content.notes += not_read
    if content.results and not directories:
        content.notes.append(
            "No pictures: no data directory in these folders. Add --data DATA, the directory that "
            "vt-prepare made."
        )
    content.pictures = draw_all(content.results, clips, follow_links)
    return content


def refuse_special(folder: Path) -> None:
    """Raise UserError where ``folder`` has a link, pipe or device in place of a file to be read."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix in READ_SUFFIXES and not path.is_dir() and not is_plain_file(path):
            raise UserError(f"{path} is a link, a pipe or a device, expected a file")


# --- paths ---------------------------------------------------------------------------------------


@dataclass
class ReportInputs:
    """Paths, in the order of their names.

    Attributes:
        data: data directories (of ``vt-prepare``).
        results: folders with predictions.jsonl.
        unfinished: folders of a ``vt-score`` that has not ended.
        logs: files that may be logs of a training.
        special: what has the name of one of these files and is none, so it is not opened.
        checkpoints: whether there are any; they have nothing to show.
    """

    data: list[Path]
    results: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    special: list[Path] = field(default_factory=list)
    checkpoints: bool = False


def find_inputs(names: Sequence[Path], data: Sequence[Path]) -> ReportInputs:
    """What is in the folders ``names`` and up to DEEPEST below them; a file is taken for a log.

    ``data`` are data directories that are known already. Hidden folders, links and what is inside
    of a data directory are not looked at. Raises UserError where there is no such path.
    """
    inputs = ReportInputs(list(data))
    for name in names:
        if not name.exists():
            raise UserError(f"no folder {name}")
        if name.is_file():
            inputs.logs.append(name)
            continue
        for parent, folders, files in os.walk(name):
            folder = Path(parent)
            deep = len(folder.relative_to(name).parts) >= DEEPEST
            below = [] if deep or DATA in files else folders
            folders[:] = sorted(f for f in below if not f.startswith("."))
            _sort_in(inputs, folder, _plain_files(inputs, folder, files))
    for paths in (inputs.data, inputs.results, inputs.unfinished, inputs.logs):
        paths[:] = dict.fromkeys(paths)  # one folder may have been named twice
    return inputs


def _plain_files(inputs: ReportInputs, folder: Path, files: list[str]) -> list[str]:
    """Those of ``files`` that may be opened, sorted; what could be read and may not is noted."""
    plain = [name for name in sorted(files) if is_plain_file(folder / name)]
    others = sorted(set(files) - set(plain))
    inputs.special += [folder / name for name in others if name.endswith(READ_SUFFIXES)]
    return plain


def _sort_in(inputs: ReportInputs, folder: Path, files: list[str]) -> None:
    if DATA in files:
        inputs.data.append(folder)
        return
    inputs.checkpoints |= any(name.endswith(CHECKPOINT_SUFFIX) for name in files)
    if PREDICTIONS in files:
        inputs.results.append(folder)
    elif any(name.startswith("scores.") and name.endswith(".jsonl") for name in files):
        inputs.unfinished.append(folder)
    # fairseq-generate's own output is no log of a training, and may be large.
    inputs.logs += [
        folder / name
        for name in files
        if name.endswith(LOG_SUFFIXES) and not name.startswith("generate-")
    ]


# --- data directories ----------------------------------------------------------------------------


def _directories(
    inputs: ReportInputs,
    content: ReportContent,
    video_root: Path | None,
    follow_links: bool,
) -> Iterator[DataDirectory]:
    for path in inputs.data:
        try:
            refuse_special(path)
            directory = DataDirectory.open(path, follow_links=follow_links)
            if video_root is not None and not directory.confirmed:
                directory = DataDirectory.open(path, video_root, follow_links)
            content.rejected.append(_read_rejected(directory))
        except UserError as error:
            content.notes.append(str(error))
            continue
        try:
            if not directory.video_root.is_dir():
                content.notes.append(
                    f"No pictures of {directory.path.name}: the folder of its videos, "
                    f"{directory.video_root}, is not there."
                )
        except UnconfirmedRootError as error:
            content.notes.append(
                f"No pictures of {directory.path.name}: {error}; if it is the right one, confirm "
                f"it: --video-root {shlex.quote(str(error.root))}"
            )
        yield directory


def _read_rejected(directory: DataDirectory) -> RejectedRows:
    counts = object_in(read_object(directory.path / DATA), "reasons")
    path = directory.file("rejected.jsonl")
    rows = list(itertools.islice(objects(path), MOST_REJECTED + 1)) if path.is_file() else []
    keys = ("id", "video", "split", "reason", "where")
    return RejectedRows(
        directory.path.name,
        sorted(
            ((reason, rows) for reason, rows in counts.items() if is_index(rows)),
            key=lambda item: -item[1],
        ),
        [{key: row.get(key) for key in keys} for row in rows[:MOST_REJECTED]],
        len(rows) > MOST_REJECTED,
    )
