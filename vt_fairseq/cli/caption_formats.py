"""What ``vt-caption`` writes: text, jsonl, parquet, and subtitles that players open.

One line per text whatever a text holds. Files keep all other characters; on stdout those that would
act on a terminal are spelled out, but in jsonl, whose escapes keep the true text there, too.
"""

import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vt_fairseq.visible_text import json_text

if TYPE_CHECKING:
    from vt_fairseq.inference.outputs import Caption, Choice


@dataclass
class SegmentResult:
    """One segment of a video and what the model says of it.

    Attributes:
        video: path as the user named it.
        start, end: seconds.
        parts: how many segments the video was cut into; 0: it was not cut.
        question: that was asked.
        context: what the model read beside the video, of its subtitles.
        seen: start and end in seconds of what the model saw of a video that was not cut.
        result: None before it is known and when the segment could not be read.
        scores: in place of a result, those of the ranking's queries under this segment.
        error: why the segment could not be read.
    """

    video: str
    start: float
    end: float
    parts: int = 0
    question: str | None = None
    context: str | None = None
    seen: tuple[float, float] | None = None
    result: "Caption | Choice | None" = None
    scores: Sequence[float] = ()
    error: str | None = None

    @property
    def name(self) -> str:
        """The path, and the times of a segment."""
        if not self.parts:
            return self.video
        return f"{self.video} [{clock(self.start, '.')} - {clock(self.end, '.')}]"

    def candidates(self, top_k: int) -> list[dict[str, Any]]:
        """The ``top_k`` best texts with their scores; given texts also with probabilities."""
        from vt_fairseq.inference.outputs import Caption

        if isinstance(self.result, Caption):
            return [{"text": c.text, "score": c.score} for c in self.result.candidates[:top_k]]
        if self.result is None:
            return []
        given, probabilities = self.result, self.result.probabilities
        return [
            {"text": given.texts[k], "score": given.scores[k], "probability": probabilities[k]}
            for k in given.order[:top_k]
        ]


def clock(seconds: float, point: str) -> str:
    """HH:MM:SS and three digits after ``point``."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def one_line(text: str) -> str:
    """Without line breaks, which would end a subtitle, and without its arrow."""
    return " ".join(text.split()).replace("-->", "->")


def as_text(segments: Sequence[SegmentResult], top_k: int) -> str:
    """``video: text``, followed by a line for each candidate where there are several."""
    lines = []
    for one in segments:
        if one.result is None:
            continue
        candidates = one.candidates(top_k)
        lines.append(f"{one_line(one.name)}: {one_line(candidates[0]['text'])}")
        if len(candidates) > 1:
            lines += [f"  {_weight(c)}  {one_line(c['text'])}" for c in candidates]
    return "".join(f"{line}\n" for line in lines)


def _weight(candidate: dict[str, Any]) -> str:
    if "probability" in candidate:
        return f"{100 * candidate['probability']:5.1f} %"
    return f"{candidate['score']:8.2f}"


def as_jsonl(segments: Sequence[SegmentResult], top_k: int) -> str:
    """One object per segment: ``video start end text score candidates``, or ``error``."""
    return "".join(f"{json_text(record(one, top_k))}\n" for one in segments)


def record(segment: SegmentResult, top_k: int) -> dict[str, Any]:
    """What jsonl says of a segment; what it does not have is left out."""
    found: dict[str, Any] = {"video": segment.video, "start": segment.start, "end": segment.end}
    if segment.question is not None:
        found["question"] = segment.question
    if segment.context is not None:
        found["context"] = segment.context
    if segment.result is None:
        return {**found, "error": segment.error}
    candidates = segment.candidates(top_k)
    best = {"text": candidates[0]["text"], "score": candidates[0]["score"]}
    return {**found, **best, "candidates": candidates}


def as_parquet(segments: Sequence[SegmentResult], top_k: int) -> bytes:
    """The fields of jsonl as columns, null where there is none; all files have the same."""
    import pyarrow as pa
    import pyarrow.parquet

    text, number = pa.string(), pa.float64()
    candidate = pa.struct([("text", text), ("score", number), ("probability", number)])
    kinds = {"video": text, "start": number, "end": number, "question": text, "context": text}
    kinds |= {"text": text, "score": number, "candidates": pa.list_(candidate), "error": text}
    file = io.BytesIO()
    rows = [spelled(record(one, top_k)) for one in segments]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def spelled(value: Any) -> Any:
    """JSON whose texts have no halves of a character: they are spelled out."""
    if isinstance(value, dict):
        return {key: spelled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [spelled(one) for one in value]
    return as_utf8(value).decode() if isinstance(value, str) else value


def as_utf8(text: str) -> bytes:
    """``text`` for a file; halves of a character are spelled out."""
    return text.encode("utf-8", "backslashreplace")


def as_srt(segments: Sequence[SegmentResult], top_k: int) -> str:
    """SubRip: numbered cues, a comma before the milliseconds."""
    cues = [f"{n}\n{times}\n{text}\n" for n, (times, text) in enumerate(_cues(segments, ","), 1)]
    return "\n".join(cues)


def as_vtt(segments: Sequence[SegmentResult], top_k: int) -> str:
    """WebVTT (W3C): ``&``, ``<`` and ``>`` are markup there."""
    cues = []
    for times, text in _cues(segments, "."):
        cues.append(f"\n{times}\n{html.escape(text, quote=False)}\n")
    return "WEBVTT\n" + "".join(cues)


def _cues(segments: Sequence[SegmentResult], point: str) -> list[tuple[str, str]]:
    """Times and text of every segment that has some: a cue without text is not one."""
    texts = [(one, one_line(one.result.text)) for one in segments if one.result is not None]
    return [
        (f"{clock(one.start, point)} --> {clock(one.end, point)}", text)
        for one, text in texts
        if text
    ]


# The format's function and the suffix of its files.
FORMATS: dict[str, tuple[Callable[[Sequence[SegmentResult], int], str | bytes], str]] = {
    "text": (as_text, ".txt"),
    "jsonl": (as_jsonl, ".jsonl"),
    "srt": (as_srt, ".srt"),
    "vtt": (as_vtt, ".vtt"),
    "parquet": (as_parquet, ".parquet"),
}
PARQUET = "parquet"
SUBTITLES = ("srt", "vtt")
