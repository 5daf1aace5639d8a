"""What TVQA and TVC share: the clips of six television shows, their frames and their times.

Videos are distributed as frames at 3 per second, one folder per clip:
``{bbt,friends,grey,met,castle,house}_frames/<vid_name>/*.jpg``. Names of clips from The Big Bang
Theory have no show in front (``s03e21_seg02_clip_08``). Video files of those names will do, too.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.files import (
    VideoFinder,
    find_files,
    none_of,
    number,
    text,
)
from vt_fairseq.corpora.rows import Entry, Rejected, Source, unique
from vt_fairseq.corpora.subtitles import Subtitles
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import JsonRow

MARGIN = 1.0  # seconds that the official loader adds on both sides of a span
_CLIP = re.compile(r"(?:(friends|grey|met|castle|house)_)?s\d+e[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Release:
    """What a corpus's official files are.

    Attributes:
        files: split -> name.
        published: split -> rows.
        published_at: where.
        optional: ``published`` of splits that not everybody wants.
    """

    files: Mapping[str, str]
    published: Mapping[str, int]
    published_at: str
    optional: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ShowClips:
    """Rows' fields from their ``vid_name`` and ``ts``; counts the odd ones.

    Attributes:
        videos: the directory of frames or videos.
        subtitles: where the contexts come from; None for rows without.
        whole: a row's context is the subtitles of the whole clip, not of its span.
        odd: (split, what was done) -> rows.
    """

    videos: VideoFinder
    subtitles: Subtitles | None
    whole: bool
    odd: Counter = field(default_factory=Counter)

    def fields(self, split: str, record: JsonRow, where: str) -> dict[str, Any]:
        """``video``, ``start``, ``end``, ``context`` and ``group`` of a row."""
        name = text(record, "vid_name", where)
        start, end = self._span(split, record.get("ts"), where)
        context = None
        if self.subtitles is not None:
            context = self.subtitles.text(name, *(None, None) if self.whole else (start, end))
        video = clip_path(self.videos, name, where)
        return {"video": video, "start": start, "end": end, "context": context, "group": name}

    def _span(self, split: str, ts: Any, where: str) -> tuple[float | None, float | None]:
        times = ts.split("-") if isinstance(ts, str) else ts
        if not isinstance(times, list) or len(times) != 2:
            raise UserError(f"{where}: expected ts as START-END or [START, END], found {ts!r:.60}")
        if any(str(time).strip().lower() == "nan" for time in times):
            self.odd[split, "no times ('nan'), so the whole clip is taken"] += 1
            return None, None
        start, end = (number(time, where, "ts") for time in times)
        if start == end:
            self.odd[split, f"an empty span, taken {MARGIN:.0f} s longer on both sides"] += 1
            return max(0.0, start - MARGIN), end + MARGIN
        return start, end


ReadSplit = Callable[[str, Path, ShowClips], Iterator[Entry | Rejected]]


def open_shows(
    release: Release,
    read: ReadSplit,
    annotations: Path,
    videos: Path,
    subtitles: str,
    follow_links: bool,
) -> Source:
    """A corpus over the clips in its official files; raise UserError for a missing or wrong one.

    Args:
        read: (split, file, clips) -> its rows.
        subtitles: none, span or whole.
        follow_links: read files of subtitles that links outside of their folder lead to.
    """
    files = find_files(annotations, release.files)
    if not files:
        raise none_of(release.files.values(), annotations, release.published_at)
    finder = VideoFinder(videos, default="", frames=True)
    clips = ShowClips(
        finder, Subtitles.find(annotations, subtitles, follow_links), subtitles == "whole"
    )
    notes: list[str] = []

    def rows() -> Iterator[Entry | Rejected]:
        for split, path in files.items():
            yield from read(split, path, clips)
        notes.extend(f"{split}: {what} (rows: {n})" for (split, what), n in clips.odd.items())

    optional = {split: n for split, n in release.optional.items() if split in files}
    return Source(
        rows=unique(rows()),
        videos=videos,
        settings={"subtitles": subtitles},
        published={**release.published, **optional},
        published_at=release.published_at,
        context=subtitles != "none",
        notes=notes,
    )


def clip_path(videos: VideoFinder, name: str, where: str) -> str:
    """Folder of frames or video file of a clip, relative to ``videos``."""
    match = _CLIP.fullmatch(name)
    if match is None:
        raise UserError(f"{where}: {name!r:.80} is no clip of TVQA's six shows")
    folder = f"{match[1] or 'bbt'}_frames/{name}"
    stems = (folder, name, f"frames_hq/{folder}", f"{match[1] or 'bbt'}/{name}")
    return videos.find(*stems)
