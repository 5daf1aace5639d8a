"""Subtitles of the TVQA clips, from the preprocessed ``.jsonl`` or a folder of ``.srt`` files."""

import itertools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.bounded_files import read_file
from vt_fairseq.corpora.files import as_published, expect, find_file, get, jsonl_records, number
from vt_fairseq.errors import FOLLOW_LINKS, UserError

FILES = ("tvqa_preprocessed_subtitles.jsonl", "tvqa_subtitles", "subtitles")
PUBLISHED_AT = "github.com/jayleicn/TVRetrieval (data) and tvqa.cs.unc.edu"
MAX_SRT = 1 << 22  # bytes; an hour has a tenth of a megabyte
_TIME = r"(\d{1,4}):(\d\d):(\d\d)[,.](\d{1,3})"
_TIMES = re.compile(rf"[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}")


@dataclass(frozen=True)
class Subtitle:
    """What is said in [start, end) seconds of the clip."""

    text: str
    start: float
    end: float


class Subtitles:
    """The subtitles of all clips, parsed when they are asked for."""

    def __init__(self, path: Path, follow_links: bool = False):
        """``path``: a .jsonl with a clip per line, or a folder with a .srt per clip.

        The folder's files may be links out of it where ``follow_links``.
        """
        self.path = path
        self._follow_links = follow_links
        self._lines: dict[str, bytes] = {}
        if not path.is_dir():
            for where, record in jsonl_records(path):
                name = get(record, "vid_name", str, where)
                lines = get(record, "sub", list, where)
                with as_published(path):
                    self._lines[name] = json.dumps(lines, allow_nan=False).encode()

    @classmethod
    def find(cls, annotations: Path, mode: str, follow_links: bool = False) -> "Subtitles | None":
        """Those in ``annotations``, None for mode "none"; raise UserError when there are none."""
        if mode == "none":
            return None
        path = find_file(annotations, *FILES)
        if path is None:
            raise UserError(
                f"no subtitles in {annotations}: expected {FILES[0]} or a folder {FILES[1]} of "
                f".srt files, published at {PUBLISHED_AT}; or give --subtitles none"
            )
        return cls(path, follow_links)

    def of(self, clip: str) -> list[Subtitle]:
        """The subtitles of a clip in their order; empty when it has none.

        Raises UserError for damage, and for a file outside of the folder.
        """
        if self.path.is_dir():
            file = self._file(clip)
            # os.path: False, no error, for a name that is too long.
            return parse_srt(file) if os.path.isfile(file) else []
        where = f"{self.path.name}, {clip}"
        return [
            Subtitle(
                get(expect(line, dict, where, "a subtitle"), "text", str, where),
                number(line.get("start"), where, "start"),
                number(line.get("end"), where, "end"),
            )
            for line in json.loads(self._lines.get(clip, b"[]"))
        ]

    def _file(self, clip: str) -> Path:
        name = f"{clip}.srt"
        if os.path.basename(name) != name or "\0" in name:
            raise UserError(f"expected the name of a clip with subtitles, found {clip!r:.80}")
        file = self.path / name
        real = Path(os.path.realpath(file))
        if not self._follow_links and not real.is_relative_to(os.path.realpath(self.path)):
            raise UserError(f"{file}: a link leads out of {self.path}; {FOLLOW_LINKS}")
        return file

    def text(self, clip: str, start: float | None, end: float | None) -> str | None:
        """What is said in a clip, or in [start, end) of it; None when nothing is."""
        texts = (
            subtitle.text
            for subtitle in self.of(clip)
            if (end is None or subtitle.start < end) and (start is None or subtitle.end > start)
        )
        return " ".join(" ".join(texts).split()) or None


def parse_srt(path: Path) -> list[Subtitle]:
    """The subtitles of one .srt file; raise UserError when it has text but no times.

    The files are UTF-8 or ISO-8859-1. UTF-8 is tried first, because ISO-8859-1 never fails.
    """
    content = read_file(path, MAX_SRT)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("iso-8859-1")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    subtitles = []
    lines = iter(text.split("\n"))
    for line in lines:
        if match := _TIMES.match(line):
            said = itertools.takewhile(str.strip, lines)  # up to an empty line
            begin, end = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
            subtitles.append(Subtitle("\n".join(said), begin, end))
    if text.strip() and not subtitles:
        raise UserError(f"{path}: expected subtitles with HH:MM:SS,mmm --> HH:MM:SS,mmm lines")
    return subtitles


def _seconds(parts: tuple[str, ...]) -> float:
    hours, minutes, seconds, fraction = parts
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")
