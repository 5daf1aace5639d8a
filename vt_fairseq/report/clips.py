"""The manifest's rows behind the ids of results."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vt_fairseq.data.manifest import ClipRow, DataDirectory


@dataclass(frozen=True)
class Clips:
    """The rows of one split.

    Attributes:
        split: its name, "" where it is not known.
        root: folder of the videos, None without a data directory.
        rows: by id; none without a data directory.
    """

    split: str = ""
    root: Path | None = None
    rows: Mapping[str, ClipRow] = field(default_factory=dict)

    def get(self, name: str) -> ClipRow | None:
        """The row of this id."""
        return self.rows.get(name)


class ClipFinder:
    """Looks for the split that results are of; each is read once."""

    def __init__(self, data: Collection[DataDirectory]):
        self.data = list(data)
        self._read: dict[tuple[Path, str], Clips] = {}

    def find(self, split: str, first: str | None) -> Clips:
        """The rows of ``split``, or of any split if it is "", that has a row with the id ``first``.

        Raises UserError where a manifest is missing or damaged.
        """
        for directory, name in self._splits(split):
            key = (directory.path, name)
            if key not in self._read and first in directory.manifest(name).column("id"):
                rows = {row.id: row for row in directory.manifest(name)}
                self._read[key] = Clips(name, directory.video_root, rows)
            if key in self._read and first in self._read[key].rows:
                return self._read[key]
        return Clips(split)

    def _splits(self, split: str) -> Iterator[tuple[DataDirectory, str]]:
        for directory in self.data:
            for name in directory.splits if split == "" else [split]:
                if name in directory.splits:
                    yield directory, name


def place(row: ClipRow | None) -> str:
    """Which part of which video, for people."""
    if row is None:
        return ""
    if row.start is None and row.end is None:
        return row.video
    end = "end" if row.end is None else f"{row.end:g}"
    return f"{row.video}, {row.start or 0:g} to {end} s"
