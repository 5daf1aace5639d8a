"""Subtitles of one's own videos, as the text that the model reads beside them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vt_fairseq.errors import FOLLOW_LINKS, UserError, VideoError

if TYPE_CHECKING:
    from vt_fairseq.corpora.subtitles import Subtitle

AUTO = "auto"


class OwnSubtitles:
    """Those of one file, or of the files beside the videos."""

    def __init__(self, given: str, videos: int, follow_links: bool = False):
        """Read the file, unless ``given`` is AUTO.

        Args:
            videos: how many there are.
            follow_links: files beside the videos may be links out of their folder.

        Raises UserError where the file cannot be read, or is to be that of several videos.
        """
        from vt_fairseq.corpora.subtitles import parse_subtitles

        self._follow_links = follow_links
        self.without: list[str] = []
        self._file = None if given == AUTO else Path(given)
        self._lines: list[Subtitle] = []
        if self._file is not None:
            if videos > 1:
                raise UserError(
                    f"{given} has the subtitles of one video, found {videos}: {AUTO} takes the "
                    "files beside them"
                )
            self._lines = parse_subtitles(self._file)

    def file(self, video: str) -> Path | None:
        """The file of a video: ``film.srt``, or ``film.en.srt`` where that is the only one.

        Raises VideoError where there are several.
        """
        from vt_fairseq.corpora.subtitles import SUFFIXES

        if self._file is not None:
            return self._file
        path = Path(os.path.abspath(video))
        for suffix in SUFFIXES:
            if os.path.isfile(own := path.parent / f"{path.stem}{suffix}"):
                return own
        try:
            names = sorted(os.listdir(path.parent))
        except OSError:  # the video is not there either, which is told elsewhere
            return None
        found = [
            file
            for file in map(path.parent.joinpath, names)
            if file.suffix.lower() in SUFFIXES and file.stem.rpartition(".")[0] == path.stem
        ]
        if len(found) > 1:
            raise VideoError(
                f"has several subtitles, {' and '.join(f.name for f in found[:3])}: name one of "
                f"them, or rename it to {path.stem}{found[0].suffix}"
            )
        return found[0] if found else None

    def of(self, video: str) -> "list[Subtitle]":
        """What is said in a video; nothing where it has no subtitles, which ``without`` lists.

        Raises VideoError where its file cannot be read.
        """
        from vt_fairseq.corpora.subtitles import parse_subtitles
        from vt_fairseq.video.boundary import Boundary

        if self._file is not None:
            return self._lines
        file = self.file(video)
        if file is None:
            self.without.append(video)
            return []
        if not self._follow_links:
            Boundary(file.parent, FOLLOW_LINKS).check(file)
        try:
            return parse_subtitles(file)
        except UserError as error:
            raise VideoError(f"its subtitles: {error}") from error
