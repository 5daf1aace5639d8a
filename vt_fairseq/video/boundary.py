"""Where the files of a video may lie: below one folder, wherever links on the way lead."""

import os
from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.errors import VideoError
from vt_fairseq.video.members import file_of

OUTSIDE = "outside of the folder of videos"


class OutsideError(VideoError):
    """A path or a link leads out of the folder of videos."""


@dataclass(frozen=True)
class Boundary:
    """A folder that no file may lie outside of once all links are followed.

    Attributes:
        folder: of a manifest its video root; of one's own folder of frames that folder.
        suggestion: how a user who trusts the links allows them, for the message; "" for none.
    """

    folder: Path
    suggestion: str = ""

    def check(self, path: str | os.PathLike[str]) -> None:
        """Raise OutsideError where ``path``, with all links followed, is not in the folder."""
        folder = os.path.realpath(self.folder)
        opened = {os.path.realpath(name) for name in (path, file_of(path))}
        if not all(Path(name).is_relative_to(folder) for name in opened):
            advice = f"; {self.suggestion}" if self.suggestion else ""
            name = os.path.basename(path)
            raise OutsideError(f"{OUTSIDE}: a link on the way to {name} leads there{advice}")


def inside(root: Path, video: str) -> Path:
    """The path of a manifest's ``video`` below ``root``, without ``..``; links are not looked at.

    Raises:
        OutsideError: the path leads out of the root.
    """
    # Normalized: "link/.." would otherwise be the parent of wherever the link leads.
    path = Path(os.path.normpath(root / video))
    if not path.is_relative_to(os.path.normpath(root)):
        raise OutsideError(f"{OUTSIDE}: the manifest's path leads out of it")
    return path
