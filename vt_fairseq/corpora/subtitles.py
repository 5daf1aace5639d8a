"""Subtitles of the TVQA clips: the preprocessed ``.jsonl``, or a folder of ``.srt`` and others."""

import codecs
import contextlib
import html
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pysubs2

from vt_fairseq.corpora.files import as_published, expect, find_file, get, jsonl_records, number
from vt_fairseq.errors import FOLLOW_LINKS, UserError
from vt_fairseq.files.bounded_files import parse_json, read_file

FILES = ("tvqa_preprocessed_subtitles.jsonl", "tvqa_subtitles", "subtitles")
PUBLISHED_AT = "github.com/jayleicn/TVRetrieval (data) and tvqa.cs.unc.edu"
MAX_SRT = 1 << 22  # bytes; an hour has a tenth of a megabyte
SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
MARKED_BY_TAGS = ("srt", "vtt")
FORMATS = (*MARKED_BY_TAGS, "ass", "ssa")
_EMPTY_LINES = re.compile(r"\n\s*\n")
_TIMES_OF_WORDS = re.compile(r"<[\d:.]+>")  # two in a line are a cue of their own to pysubs2
# HTML's, and those of .ass, which players know in .srt, too.
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Subtitle:
    """What is said in [start, end) seconds of the clip."""

    text: str
    start: float
    end: float


class Subtitles:
    """The subtitles of all clips, parsed when they are asked for."""

    def __init__(self, path: Path, follow_links: bool = False):
        """``path``: a .jsonl with a clip per line, or a folder with a file (SUFFIXES) per clip.

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
            return parse_subtitles(file) if os.path.isfile(file) else []
        where = f"{self.path.name}, {clip}"
        return [
            Subtitle(
                get(expect(line, dict, where, "a subtitle"), "text", str, where),
                number(line.get("start"), where, "start"),
                number(line.get("end"), where, "end"),
            )
            for line in parse_json(self._lines.get(clip, b"[]"))
        ]

    def _file(self, clip: str) -> Path:
        if os.path.basename(clip) != clip or "\0" in clip:
            raise UserError(f"expected the name of a clip with subtitles, found {clip!r:.80}")
        files = [self.path / f"{clip}{suffix}" for suffix in SUFFIXES]
        file = next((file for file in files if os.path.isfile(file)), files[0])
        real = Path(os.path.realpath(file))
        if not self._follow_links and not real.is_relative_to(os.path.realpath(self.path)):
            raise UserError(f"{file}: a link leads out of {self.path}; {FOLLOW_LINKS}")
        return file

    def text(self, clip: str, start: float | None, end: float | None) -> str | None:
        """What is said in a clip, or in [start, end) of it; None when nothing is."""
        return said(self.of(clip), start, end)


def said(subtitles: Iterable[Subtitle], start: float | None, end: float | None) -> str | None:
    """The text of those that are shown in [start, end); None where there is none."""
    texts = (
        subtitle.text
        for subtitle in subtitles
        if (end is None or subtitle.start < end) and (start is None or subtitle.end > start)
    )
    return " ".join(" ".join(texts).split()) or None


def parse_subtitles(path: Path) -> list[Subtitle]:
    """What a .srt, .vtt, .ass or .ssa file shows, without markup; UserError where it is none.

    The files are UTF-8, UTF-16, Windows-1252 or ISO-8859-1; the last is tried last, because it
    never fails.
    """
    content = read_file(path, MAX_SRT)
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = ""
    for encoding in ("utf-16" if is_utf_16 else "utf-8-sig", "cp1252", "iso-8859-1"):
        with contextlib.suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            break
    if not text.strip():
        return []
    text = _TIMES_OF_WORDS.sub("", text)
    # The number is that of a next subtitle: pysubs2 would take the last line for one. Empty lines
    # in a row make it slow.
    text = _EMPTY_LINES.sub("\n\n", text.replace("\r\n", "\n").replace("\r", "\n")) + "\n\n0\n"
    try:
        shown = pysubs2.SSAFile.from_string(text, keep_html_tags=True)
    except (pysubs2.exceptions.Pysubs2Error, ValueError, OverflowError) as error:
        raise _no_subtitles(path) from error
    if shown.format not in FORMATS or not shown.events:
        raise _no_subtitles(path)
    return [
        Subtitle(_plain(event, shown.format), event.start / 1000, event.end / 1000)
        for event in shown
        if not (event.is_comment or event.is_drawing)
    ]


def _plain(event: pysubs2.SSAEvent, kind: str) -> str:
    if kind not in MARKED_BY_TAGS:
        return event.plaintext
    lines = event.text.replace(r"\N", "\n").split("\n\n")[0]  # what follows is the next one's name
    text = _TAG.sub("", lines)
    return html.unescape(text) if kind == "vtt" else text


def _no_subtitles(path: Path) -> UserError:
    return UserError(
        f"{path}: expected subtitles with HH:MM:SS,mmm --> HH:MM:SS,mmm lines, or .vtt or .ass"
    )
