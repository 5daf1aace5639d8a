"""Which videos ``vt-caption --out`` has done before, with the same options: a run goes on.

Each process writes a list of its own beside the results; all lists are read.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vt_fairseq.errors import VideoError
from vt_fairseq.files.atomic_files import full_disk_named, write_file
from vt_fairseq.files.result_files import jsonl_lines, parse_object
from vt_fairseq.visible_text import json_text

PATTERN = ".vt-caption.*-of-*"


class Progress:
    """The videos that are done, and the list to which this process adds its own."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        share: tuple[int, int],
        beside: Callable[[str], Path | None] | None = None,
    ):
        """Read the lists of runs with the same ``settings``; those of others are forgotten.

        Args:
            folder: of the results.
            settings: what the results depend on.
            share: which of how many processes this is, from 0.
            beside: a video -> the other file that its results depend on; may raise VideoError.
        """
        self.folder = folder
        self._beside = beside
        self.settings = json.loads(json.dumps(settings, allow_nan=False))
        self.own = folder / f".vt-caption.{share[0] + 1}-of-{share[1]}"
        self._done: dict[str, list[dict[str, Any]]] = {}  # by the file of results
        for path in sorted(folder.glob(PATTERN)):
            self._read(path)

    def _read(self, path: Path) -> None:
        rows = []
        for _, line in jsonl_lines(path):
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                rows.append(parse_object(line))
        if rows and rows[0].get("settings") == self.settings:
            for row in rows[1:]:
                self._done.setdefault(str(row.get("file")), []).append(row)
        else:
            path.unlink(missing_ok=True)

    def has(self, video: str, name: str) -> bool:
        """Whether the video, as it is now, has its results in the file ``name``."""
        return self._row(video, name) in self._done.get(name, ()) and (self.folder / name).is_file()

    def add(self, video: str, name: str) -> None:
        """Write down that it has; the file itself is whole already."""
        if not self.own.exists():
            write_file(self.own, json_text({"settings": self.settings}).encode() + b"\n")
        with full_disk_named(self.own), open(self.own, "a", encoding="utf-8") as file:
            file.write(f"\n{json_text(self._row(video, name))}\n")

    def _row(self, video: str, name: str) -> dict[str, Any]:
        path = os.path.abspath(video)
        row = {"video": path, "file": name, **state(path), "results": state(self.folder / name)}
        with contextlib.suppress(VideoError):
            if self._beside is not None and (other := self._beside(video)) is not None:
                row["beside"] = {"path": str(other), **state(other)}
        return row


def state(path: str | Path) -> dict[str, Any]:
    """Size and time of change of a file; None for one that went meanwhile."""
    try:
        status = os.stat(path)
    except OSError:
        return {"size": None, "modified": None}
    return {"size": status.st_size, "modified": status.st_mtime_ns}
