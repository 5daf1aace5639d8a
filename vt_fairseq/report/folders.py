"""What lies in the folders that a user names: data directories, results, training logs."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vt_fairseq.errors import UserError

DATA, PREDICTIONS, CHECKPOINT_SUFFIX = "data.json", "predictions.jsonl", ".pt"
LOG_SUFFIXES = (".log", ".out", ".txt")
DEEPEST = 5  # folders below a named one


@dataclass
class Found:
    """Paths, in the order of their names.

    Attributes:
        data: data directories (of ``vt-prepare``).
        results: folders with predictions.jsonl.
        unfinished: folders of a ``vt-score`` that has not ended.
        logs: files that may be logs of a training.
        checkpoints: whether there are any; they have nothing to show.
    """

    data: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    checkpoints: bool = False


def look_into(names: Sequence[Path], data: Sequence[Path] = ()) -> Found:
    """What is in the folders ``names`` and up to DEEPEST below them; a file is taken for a log.

    ``data`` are data directories that are known already. What is inside a data directory is not
    looked at, nor what is hidden, nor behind links. Raises UserError where there is no such path.
    """
    found = Found(data=list(data))
    for name in names:
        if not name.exists():
            raise UserError(f"no folder {name}")
        if name.is_file():
            found.logs.append(name)
            continue
        for folder, files in _folders(name):
            _take(found, folder, files)
    for paths in (found.data, found.results, found.unfinished, found.logs):
        paths[:] = dict.fromkeys(paths)  # one folder may have been named twice
    return found


def _folders(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with the names of their files, sorted."""
    for parent, folders, files in os.walk(top):
        folder = Path(parent)
        deep = len(folder.relative_to(top).parts) >= DEEPEST
        folders[:] = (
            [] if deep or DATA in files else sorted(f for f in folders if not f.startswith("."))
        )
        yield folder, sorted(files)


def _take(found: Found, folder: Path, files: list[str]) -> None:
    if DATA in files:
        found.data.append(folder)
        return
    found.checkpoints |= any(name.endswith(CHECKPOINT_SUFFIX) for name in files)
    if PREDICTIONS in files:
        found.results.append(folder)
    elif any(name.startswith("scores.") and name.endswith(".jsonl") for name in files):
        found.unfinished.append(folder)
    # fairseq-generate's own output is no log of a training, and may be large.
    found.logs += [
        folder / name
        for name in files
        if name.endswith(LOG_SUFFIXES) and not name.startswith("generate-")
    ]
