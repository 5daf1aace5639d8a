"""What ``vt-search`` and ``vt-ask`` write: text, jsonl, a page, a playlist that players open.

Paths, captions and queries are texts of others: each stays on its line, and is no markup.
"""

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vt_fairseq.cli.caption_formats import one_line
from vt_fairseq.cli.libraries import clocked
from vt_fairseq.visible_text import json_text, visible

if TYPE_CHECKING:
    from vt_fairseq.library.library import Answered, Found
    from vt_fairseq.library.store import Segment

Results = Sequence[tuple[str, Sequence["Found"]]]  # of each query

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; media-src file:; style-src \
'unsafe-inline'">
<meta name="viewport" content="width=device-width"><title>vt-search</title>
<style>:root {{ color-scheme: light dark; font-family: sans-serif }}
table {{ border-spacing: 1em 0.3em }} td {{ vertical-align: top }}</style></head><body>
{body}</body></html>
"""


def record(segment: "Segment") -> dict[str, Any]:
    """What jsonl says of a segment."""
    times = {"start": segment.start, "end": segment.end}
    return {"video": segment.path, **times, "caption": segment.caption}


def as_text(results: Results) -> str:
    """Rank, log-likelihood, video with times, and caption; several queries with their names."""
    lines = []
    for query, found in results:
        lines += [one_line(query)] if len(results) > 1 else []
        for rank, one in enumerate(found, 1):
            name = one_line(clocked(one.segment))
            lines.append(
                f"{rank:4d}  {one.score:9.3f}  {name}: {one_line(one.segment.caption or '')}"
            )
    return "".join(f"{line}\n" for line in lines)


def as_jsonl(results: Results) -> str:
    """One object per segment: ``query rank video start end caption score``."""
    lines = [
        json_text({"query": query, "rank": rank, **record(one.segment), "score": one.score})
        for query, found in results
        for rank, one in enumerate(found, 1)
    ]
    return "".join(f"{line}\n" for line in lines)


def as_html(results: Results) -> str:
    """A page with a table per query, whose links play the segment from its start."""
    body = []
    for query, found in results:
        body.append(f"<h1>{html.escape(visible(query))}</h1>\n<table>\n")
        for rank, one in enumerate(found, 1):
            cells = (
                str(rank),
                f"{one.score:.3f}",
                f'<a href="{html.escape(moment(one.segment))}">'
                f"{html.escape(visible(clocked(one.segment)))}</a>",
                html.escape(visible(one.segment.caption or "")),
            )
            body.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n")
        body.append("</table>\n")
    return PAGE.format(body="".join(body))


def as_m3u(results: Results) -> str:
    """A playlist of all segments, with times as VLC reads them."""
    lines = ["#EXTM3U"]
    for _, found in results:
        for one in found:
            segment = one.segment
            length = -1 if segment.end is None else round(segment.end - segment.start)
            lines.append(f"#EXTINF:{length},{visible(one_line(segment.caption or ''))}")
            if segment.asked != (None, None):
                lines.append(f"#EXTVLCOPT:start-time={segment.start:.3f}")
                lines.append(f"#EXTVLCOPT:stop-time={segment.end or segment.start:.3f}")
            lines.append(Path(segment.path).as_uri())
    return "".join(f"{line}\n" for line in lines)


def moment(segment: "Segment") -> str:
    """The address of a segment in its file, by the W3C's media fragments."""
    end = "" if segment.end is None else f",{segment.end:.3f}"
    return f"{Path(segment.path).as_uri()}#t={segment.start:.3f}{end}"


FORMATS: dict[str, Callable[[Results], str]] = {
    "text": as_text,
    "jsonl": as_jsonl,
    "html": as_html,
    "m3u": as_m3u,
}


def answers_as_text(question: str, answers: Sequence["Answered"]) -> str:
    """Video with times, and the answer; of several candidates the probability of each."""
    lines = []
    for one in answers:
        lines.append(f"{one_line(clocked(one.segment))}: {one_line(one.texts[0])}")
        if len(one.texts) > 1:
            pairs = zip(one.texts, one.probabilities, strict=True)
            lines += [f"  {100 * weight:5.1f} %  {one_line(text)}" for text, weight in pairs]
    return "".join(f"{line}\n" for line in lines)


def answers_as_jsonl(question: str, answers: Sequence["Answered"]) -> str:
    """One object per segment: ``question video start end caption text score candidates``."""
    lines = []
    for one in answers:
        columns = zip(one.texts, one.scores, one.probabilities, strict=True)
        candidates = [{"text": t, "score": s, "probability": p} for t, s, p in columns]
        answer = {"text": one.texts[0], "score": one.scores[0], "candidates": candidates}
        lines.append(json_text({"question": question, **record(one.segment), **answer}))
    return "".join(f"{line}\n" for line in lines)


ANSWER_FORMATS: dict[str, Callable[[str, Sequence["Answered"]], str]] = {
    "text": answers_as_text,
    "jsonl": answers_as_jsonl,
}
