"""Contact sheets: a few small frames of a clip, as JPEG.

A page has room for some clips only. Which ones: in each of the results two failures and one
success in turn, the worst first, one result after the other; a clip that several results have is
decoded once. What is drawn ends at ``most`` clips, at MOST_BYTES, or after MOST_SECONDS.
"""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vt_fairseq.errors import FOLLOW_LINKS, VideoError
from vt_fairseq.report.results import ResultFolder
from vt_fairseq.report.rows import RIGHT
from vt_fairseq.video.boundary import Boundary, inside
from vt_fairseq.video.decoding import read_clip
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.images import encode_jpeg

FRAMES = 4
SHORT_SIDE = 96  # pixels
QUALITY = 6  # FFmpeg's scale of JPEG: 2 is best, 31 worst
MOST_BYTES = 4 << 20  # of all JPEGs; a page holds them as base64, which is a third longer
MOST_SECONDS = 8.0
SAMPLING = FrameSampling(num_frames=FRAMES, max_seconds=None)


@dataclass(frozen=True)
class ClipLocation:
    """A part of a video below ``root``; None: from the beginning, to the end."""

    root: Path
    video: str
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Picture:
    """JPEGs of FRAMES moments, or why there are none."""

    frames: tuple[bytes, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Pictures:
    """What was drawn, and why not more: "" if nothing was left out."""

    of: dict[ClipLocation, Picture]
    limit: str = ""

    @property
    def limit_note(self) -> str:
        """The limit in words, "" without one."""
        count = f"{len(self.of):,}"
        return f"Pictures of {count} clips; the limit was {self.limit}." if self.limit else ""


def locate(result: ResultFolder, name: str) -> ClipLocation | None:
    """The clip behind a row's id; None without a data directory."""
    row = result.clips.rows.get(name)
    if row is None or result.clips.root is None:
        return None
    return ClipLocation(result.clips.root, row.video, row.start, row.end)


def draw_all(results: Sequence[ResultFolder], most: int, follow_links: bool = False) -> Pictures:
    """Pictures of up to ``most`` clips, as the module says."""
    turns = itertools.zip_longest(*map(_clips, results))
    clips = dict.fromkeys(clip for turn in turns for clip in turn if clip is not None)
    chosen = list(clips)[:most]
    limit = f"--clips {most}" if len(clips) > most else ""
    drawn: dict[ClipLocation, Picture] = {}
    size, ends = 0, time.monotonic() + MOST_SECONDS
    workers = os.cpu_count() or 1
    draw_one = partial(draw, follow_links=follow_links)
    with ThreadPoolExecutor(workers) as pool:
        while group := chosen[len(drawn) : len(drawn) + 2 * workers]:
            if size > MOST_BYTES or time.monotonic() > ends:
                limit = "their size" if size > MOST_BYTES else f"{MOST_SECONDS:.0f} s of decoding"
                break
            drawn |= zip(group, pool.map(draw_one, group), strict=True)
            size += sum(len(frame) for clip in group for frame in drawn[clip].frames)
    return Pictures(drawn, limit)


def _clips(result: ResultFolder) -> Iterator[ClipLocation]:
    """Those of a result, in the order in which they are wanted."""
    wrong = iter([row for row in result.rows if row.outcome != RIGHT])
    correct = iter([row for row in result.rows if row.outcome == RIGHT])
    while turn := [*itertools.islice(wrong, 2), *itertools.islice(correct, 1)]:
        for name in (name for row in turn for name in (row.target or row.id, *row.top)):
            if (clip := locate(result, name)) is not None:
                yield clip


def draw(clip: ClipLocation, follow_links: bool = False) -> Picture:
    """The frames in the middle of FRAMES equal parts of the clip, or why there are none."""
    try:
        frames = read_clip(
            inside(clip.root, clip.video),
            SAMPLING,
            start=clip.start,
            end=clip.end,
            window="whole",
            short_side=SHORT_SIDE,
            boundary=None if follow_links else Boundary(clip.root, FOLLOW_LINKS),
        )
        return Picture(tuple(encode_jpeg(frame, QUALITY) for frame in frames))
    except VideoError as error:
        return Picture(reason=str(error))
