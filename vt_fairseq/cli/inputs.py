"""What a user names on the command line: videos, folders, patterns and lists."""

import contextlib
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vt_fairseq.errors import FOLLOW_LINKS, UserError, VideoError
from vt_fairseq.files.bounded_files import MAX_DOCUMENT, parse_json, read_file
from vt_fairseq.video.names import VIDEO_SUFFIXES, is_video_name

STDIN = "-"
SHOWN = 5  # names of files that are left out


def find_videos(
    names: Sequence[str], follow_links: bool = False, note: Callable[[str], None] | None = None
) -> list[str]:
    """Paths of the videos that ``names`` stand for, in their order; a folder's sorted.

    A name is a file, a folder of jpg or png frames (one video), a folder that is searched with
    all folders in it, a pattern (``**`` is any number of folders), or ``-``: more names on stdin,
    one per line. A file that does not exist is a path like any other, and fails when it is read.
    A file that is named may be a link; one that is found in a folder may not lead out of it,
    unless ``follow_links``.

    Args:
        note: called, for every folder with files that are left out, with a line that says which.

    Raises UserError where a folder or pattern holds no video, or a folder such a link, and when
    there is none at all.
    """
    lines = [line for name in names for line in _lines(name)]
    paths = [path for line in lines for path in _expanded(line, follow_links, note)]
    if not paths:
        raise UserError("no videos were named")
    return paths


def read_labels(name: str | Path) -> list[str]:
    """The class names in a file, one per line; blank lines and repeated names are left out.

    UTF-8, with or without a byte order mark; white space around a name is not part of it. Raises
    UserError where there is no such file, where it is not UTF-8 or is JSON, and where it has no
    names.
    """
    path = Path(name)
    try:
        text = read_file(path, MAX_DOCUMENT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}") from error
    lines = text.replace("\r", "\n").split("\n")
    labels = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not labels:
        raise UserError(f"{path} is empty, expected one class name per line")
    if labels[0][0] in "[{" and any(map(_is_json, (labels[0], text))):
        raise UserError(f"{path}: expected one class name per line, found JSON: {labels[0]!r:.60}")
    return labels


def _is_json(text: str) -> bool:
    """Whether it is a JSON array or object."""
    with contextlib.suppress(ValueError):
        return isinstance(parse_json(text), list | dict)
    return False


def _lines(name: str) -> list[str]:
    """The name itself, or those on stdin."""
    if name != STDIN:
        return [name]
    lines = (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    return [os.fsdecode(line) for line in lines if line]


def _expanded(name: str, follow_links: bool, note: Callable[[str], None] | None) -> Iterator[str]:
    if os.path.isdir(name):
        yield from _in_folder(name, follow_links, note)
    elif os.path.exists(name) or not glob.has_magic(name):
        yield name
    else:
        matches = sorted(glob.glob(name, recursive=True))
        if not matches:
            raise UserError(f"nothing matches {name}")
        for match in matches:
            yield from _in_folder(match, follow_links, note) if os.path.isdir(match) else [match]


def _in_folder(folder: str, follow_links: bool, note: Callable[[str], None] | None) -> list[str]:
    from vt_fairseq.video.boundary import Boundary
    from vt_fairseq.video.images import IMAGE_SUFFIXES

    videos: list[str] = []
    others: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        shown = sorted(name for name in names if not name.startswith("."))
        here = [name for name in shown if is_video_name(name)]
        images = [] if here else [n for n in shown if n.lower().endswith(IMAGE_SUFFIXES)]
        videos += [os.path.join(parent, name) for name in here] or [parent] * bool(images)
        read = {*here, *images}
        others += [os.path.relpath(os.path.join(parent, n), folder) for n in shown if n not in read]
    if not videos:
        kinds = ", ".join(suffix[1:] for suffix in VIDEO_SUFFIXES)
        raise UserError(f"folder {folder} holds no videos ({kinds}) and no jpg or png frames")
    if not follow_links:
        boundary = Boundary(Path(folder), FOLLOW_LINKS)
        for video in videos:
            try:
                boundary.check(video)
            except VideoError as error:
                raise UserError(f"folder {folder}: {error}") from error
    if others and note is not None:
        more = f" and {len(others) - SHOWN:,} more" if len(others) > SHOWN else ""
        note(f"left out of {folder}, by their names: {', '.join(others[:SHOWN])}{more}")
    return videos
