"""Which files a library lets out, and small pictures of its segments.

A file is sent only by the number of a segment, as long as it is the one that was indexed, and only
if it is a video: a stranger's library may name any file of this machine.
"""

import mimetypes
import os
import threading
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from vt_fairseq.errors import VideoError
from vt_fairseq.library.indexing import file_state
from vt_fairseq.library.store import Segment, Store, StoredFile
from vt_fairseq.video.boundary import Boundary
from vt_fairseq.video.containers import opened
from vt_fairseq.video.decoding import read_clip
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.images import encode_jpeg
from vt_fairseq.video.members import member_of

SHORT_SIDE = 120  # pixels of each of the four frames
QUALITY = 5  # FFmpeg's scale of JPEG: 2 is best, 31 worst
SAMPLING = FrameSampling(num_frames=4, max_seconds=None)
KEPT = 512  # pictures, of some 20 kB
OTHER = "application/octet-stream"


class Media:
    """Rows, files and pictures of a library; threads may share one.

    It reads by a connection of its own, so that nobody waits for the model here.
    """

    def __init__(self, library: str | os.PathLike[str], follow_links: bool = False):
        """Raises UserError where there is no library."""
        self._store, self._turn = Store(library), threading.Lock()
        self._follow_links = follow_links

    def close(self) -> None:
        """Close the library."""
        self._store.close()

    def counts(self) -> dict[str, int]:
        """How many videos, segments, and segments that could not be read."""
        with self._turn:
            return {
                "videos": self._store.count_files(),
                "segments": self._store.count(),
                "unread": self._store.count(readable=False),
            }

    def segments(self, offset: int, count: int) -> list[Segment]:
        """``count`` segments by path and time, after the first ``offset``."""
        with self._turn:
            return list(islice(self._store.segments(), offset, offset + count))

    def segment(self, number: int) -> Segment:
        """One segment; raise UserError where there is none."""
        with self._turn:
            return self._store.segment(number)

    def file(self, number: int) -> tuple[str, str]:
        """Path and media type of a segment's video file.

        Raises UserError for an unknown number, VideoError where the file is no longer the one that
        was indexed, or none that is played.
        """
        path, stored = self._current(number)
        if os.path.isdir(path):
            raise VideoError("a folder of frames cannot be played")
        if member_of(path) is not None:
            raise VideoError("a video inside a tar file cannot be played")
        check_is_video(path, stored.size, stored.modified)
        kind = mimetypes.guess_type(path)[0] or OTHER
        return path, kind if kind.startswith("video/") else OTHER

    def picture(self, number: int) -> bytes:
        """Four moments of a segment as one JPEG, in two rows.

        Raises as ``file`` does.
        """
        path, stored = self._current(number)
        boundary = None if self._follow_links else Boundary(Path(path))
        start, end = self.segment(number).asked
        return four_frames(path, stored.size, stored.modified, start, end, boundary)

    def _current(self, number: int) -> tuple[str, StoredFile]:
        """The file behind a segment, if it is still as it was indexed."""
        path = self.segment(number).path
        with self._turn:
            stored = self._store.file(path)
        try:
            state = file_state(path)
        except OSError as error:
            raise VideoError(error.strerror or "it cannot be opened") from error
        if stored is None or (state.size, state.modified) != (stored.size, stored.modified):
            raise VideoError("it has changed since it was indexed: index it again")
        return path, stored


@lru_cache(maxsize=KEPT)
def check_is_video(path: str, size: int, modified: int) -> None:
    """Raise VideoError where a file is no video of a kind that is indexed."""
    with opened(path):
        pass


@lru_cache(maxsize=KEPT)
def four_frames(
    path: str,
    size: int,
    modified: int,
    start: float | None,
    end: float | None,
    boundary: Boundary | None,
) -> bytes:
    """A JPEG of the middles of four equal parts of [start, end); raise VideoError for none."""
    frames = read_clip(
        path,
        SAMPLING,
        start=start,
        end=end,
        window="whole",
        short_side=SHORT_SIDE,
        boundary=boundary,
    )
    return encode_jpeg(in_two_rows(frames), QUALITY)


def in_two_rows(frames: Iterable[np.ndarray]) -> np.ndarray:
    """Four frames (H, W, 3) as one picture (2 H, 2 W, 3)."""
    first, second, third, fourth = frames
    return np.vstack([np.hstack([first, second]), np.hstack([third, fourth])])
