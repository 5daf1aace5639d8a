"""Folders to a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import UserError
from vt_fairseq.report.clips import ClipFinder
from vt_fairseq.report.folders import Found, look_into
from vt_fairseq.report.logs import read_log
from vt_fairseq.report.page import Content, render
from vt_fairseq.report.pictures import draw_all
from vt_fairseq.report.rejected import read_rejected
from vt_fairseq.report.results import Result, read_result


def make(names: Sequence[Path], data: Sequence[Path], clips: int) -> tuple[bytes, Content]:
    """The page about everything in the folders ``names``, and what it is made of.

    Args:
        data: data directories elsewhere.
        clips: the most clips that get pictures.

    Raises UserError where there is nothing to show.
    """
    found = look_into(names, data)
    content = Content(names)
    directories = list(_directories(found, content))
    logs = [read_log(path) for path in found.logs]
    content.trainings = [log for log in logs if log.inner or log.valid]
    unread = {name: reason for log in logs for name, reason in log.unread.items()}
    content.results = list(_results(found, ClipFinder(directories), unread, content))
    if not content.results and not content.trainings:
        raise UserError(_nothing(names, found, content))
    content.notes += _unfinished(found)
    if content.results and not directories:
        content.notes.append(
            "No pictures: no data directory in these folders. Add --data DATA, the directory that "
            "vt-prepare made."
        )
    content.pictures = draw_all(content.results, clips)
    return render(content), content


def _directories(found: Found, content: Content) -> Iterator[DataDirectory]:
    for path in found.data:
        try:
            directory = DataDirectory.open(path)
            content.rejected.append(read_rejected(path))
        except UserError as error:
            content.notes.append(str(error))
            continue
        if not directory.video_root.is_dir():
            content.notes.append(
                f"No pictures of {directory.path.name}: the folder of its videos, "
                f"{directory.video_root}, is not there."
            )
        yield directory


def _results(
    found: Found, finder: ClipFinder, unread: dict[str, str], content: Content
) -> Iterator[Result]:
    for path in found.results:
        try:
            yield read_result(path, finder, unread)
        except UserError as error:
            content.notes.append(f"Not shown: {error}")


def _unfinished(found: Found) -> list[str]:
    return [
        f"{path} has scores of a vt-score that has not ended; the same command goes on with it."
        for path in found.unfinished
    ]


def _nothing(names: Sequence[Path], found: Found, content: Content) -> str:
    text = (
        f"nothing to report in {', '.join(map(str, names))}: expected folders of vt-score or "
        "fairseq-generate --results-path (predictions.jsonl), or logs of fairseq-train"
    )
    if found.checkpoints:
        text += "; checkpoints alone have nothing to show, what fairseq-train printed has"
    return ". ".join([text, *content.notes, *_unfinished(found)])
