"""Which files are videos by their names, and which one was meant by a name that is not there.

The suffix only tells which of a folder's files to read; what a file holds is told by its content.
"""

import os
from bisect import bisect_left
from functools import lru_cache

from vt_fairseq.video.boundary import Boundary, OutsideError

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".qt", ".3gp", ".3g2", ".mj2", ".f4v"),
    *(".mpg", ".mpeg", ".mpe", ".vob", ".m1v", ".m2v", ".mpv", ".ts", ".mts", ".m2ts", ".m2t"),
    *(".mod", ".tod", ".flv", ".wmv", ".asf", ".mxf", ".ogv", ".ogg", ".dv", ".ivf", ".divx"),
    *(".gif", ".apng"),
)
"""In lower case, most usual first; names may have them in upper case."""


def split_suffix(name: str) -> tuple[str, str]:
    """A file's name without and with its suffix of a video; the suffix is empty where it has none.

    Downloads that were converted have two: ``a.mp4.webm`` is ("a.mp4", ".webm").
    """
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if suffix.lower() in VIDEO_SUFFIXES else (name, "")


def is_video_name(name: str) -> bool:
    """Whether the name has the suffix of a video."""
    return bool(split_suffix(name)[1])


def similar_file(path: str | os.PathLike[str], boundary: Boundary | None = None) -> str | None:
    """A file or folder beside ``path`` that is named alike but for case and what follows a dot.

    For a path that does not exist. The names in its folder are held, sorted, until other folders
    are asked for. A folder outside of ``boundary`` is not looked into.
    """
    folder, name = os.path.split(os.path.abspath(path))
    try:
        if boundary is not None:
            boundary.check(folder)
    except (OutsideError, ValueError):  # a name with a NUL
        return None
    wanted = split_suffix(split_suffix(name)[0])[0].lower()
    try:
        names = _sorted_names(folder, os.stat(folder).st_mtime_ns)
    except (OSError, ValueError):
        return None
    for other in names[bisect_left(names, wanted, key=str.lower) :]:
        if not other.lower().startswith(wanted):
            return None
        if other.lower()[len(wanted) :][:1] in ("", "."):
            return other
    return None


@lru_cache(maxsize=4)
def _sorted_names(folder: str, modified: int) -> list[str]:
    return sorted(os.listdir(folder), key=str.lower)
