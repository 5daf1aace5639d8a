"""Everything that was read, as one HTML file that loads nothing but videos one asks it to play.

Captions, ids and paths are anybody's. Jinja2 escapes them in the page; in the data of the script
``<``, ``>`` and ``&`` are written as \\u escapes, and the script sets text alone. A
Content-Security-Policy lets this page's own script and style run, by their hashes, and no others.
"""

import base64
import datetime
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from vt_fairseq.report import charts
from vt_fairseq.report.confusion import confusions
from vt_fairseq.report.content import ReportContent
from vt_fairseq.report.pictures import ClipLocation, Picture, Pictures, locate
from vt_fairseq.report.results import ResultFolder
from vt_fairseq.report.rows import MISSING
from vt_fairseq.version import __version__

MOST_TEXT = 12 << 20  # bytes of all rows together
MOST_MISSING = 200  # rows of a list
HIGHEST = 2  # folders above the page's, in which videos may lie that it plays
TASKS = {
    "captions": "captions",
    "vqa": "questions",
    "classify": "classes",
    "retrieval": "text to video",
}
MAIN_NUMBERS = (
    *("bleu4", "coco_bleu4", "coco_meteor", "coco_rouge_l", "coco_cider", "exact_match"),
    *("accuracy", "top5", "mean_class_accuracy"),
    *("action_top1", "action_top5", "verb_top1", "noun_top1"),
    *("r1", "r5", "r10", "median_rank"),
    *("distinct_predictions", "most_frequent_prediction"),
)
LABELS = {
    **{f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)},
    **{f"coco_bleu{n}": f"COCO BLEU-{n}" for n in range(1, 5)},
    **{"coco_meteor": "METEOR", "coco_rouge_l": "ROUGE-L", "coco_cider": "CIDEr"},
    **{"exact_match": "exact", "top1": "top-1", "top5": "top-5", "median_rank": "median rank"},
    **{f"{p}_top{n}": f"{p} top-{n}" for p in ("verb", "noun", "action") for n in (1, 5)},
    **{"mean_class_accuracy": "mean class accuracy", "r1": "R@1", "r5": "R@5", "r10": "R@10"},
    **{"distinct_predictions": "distinct", "most_frequent_prediction": "% most frequent"},
    **{"most_frequent_reference": "% most frequent reference"},
}


def render(content: ReportContent, folder: Path | None = None) -> bytes:
    """The page in UTF-8; what is no character (half of a pair) becomes a question mark.

    Args:
        folder: where the page is to lie; clips of videos that lie beside it can be played.
    """
    base = _base(content.folders)
    style, script = (_resource(name) for name in ("report.css", "report.js"))
    environment = Environment(
        loader=PackageLoader("vt_fairseq.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"name": lambda path: _name(path, base), "TASKS": TASKS}
    environment.filters |= {"labeled": _labeled, "signatures": _signatures}
    text = environment.get_template("report.html.jinja").render(
        title=" + ".join(dict.fromkeys(_name(path, path.parent) for path in content.folders)),
        made=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        policy=_policy(style, script),
        style=style,
        script=script,
        content=content,
        drawings=[[charts.draw(c) for c in charts.charts_of(log)] for log in content.trainings],
        confused=[(r, tables) for r in content.results if (tables := confusions(r.rows))],
        missing=list(_missing(content)),
        most_missing=MOST_MISSING,
        blocks=list(_blocks(content, folder)) if content.results else [],
        width=charts.WIDTH,
        height=charts.HEIGHT,
        left=charts.LEFT,
        right=charts.RIGHT,
    )
    return text.encode("utf-8", "replace")


def _resource(name: str) -> Markup:
    return Markup((resources.files("vt_fairseq.report") / name).read_text("utf-8"))


def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        digest = hashlib.sha256(text.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; "
        "img-src data:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


# --- parts ---------------------------------------------------------------------------------------


def _base(names: Sequence[Path]) -> Path:
    """What names on the page are relative to."""
    paths = [os.path.abspath(name) for name in names]
    return Path(os.path.commonpath(paths)) if len(paths) > 1 else Path(paths[0])


def _name(path: Path, base: Path) -> str:
    path, base = Path(os.path.abspath(path)), Path(os.path.abspath(base))
    return str(path.relative_to(base)) if path != base and path.is_relative_to(base) else path.name


def _signatures(signatures: Mapping[str, str]) -> list[tuple[str, str]]:
    """(labels of metrics, how they are computed)."""
    labels: dict[str, list[str]] = {}
    for key, signature in signatures.items():
        labels.setdefault(signature, []).append(LABELS.get(key, key))
    return [(", ".join(names), signature) for signature, names in labels.items()]


def _labeled(metrics: Mapping[str, float], main: bool = False) -> list[tuple[str, str]]:
    """(label, value) of all metrics, or of those that stand in the summary."""
    keys = [key for key in MAIN_NUMBERS if key in metrics] if main else metrics
    shown = [
        (LABELS.get(k, k), f"{n:,}" if isinstance(n := metrics[k], int) else f"{n:,.1f}")
        for k in keys
    ]
    return shown + [
        (f"{LABELS.get(k, k)} over blank video, {low:+,.1f} to {high:+,.1f}", f"{gain:+,.1f}")
        for k in (keys if main else ())
        if (gain := metrics.get(f"{k}_gain")) is not None
        and (low := metrics.get(f"{k}_gain_low")) is not None
        and (high := metrics.get(f"{k}_gain_high")) is not None
    ]


def _missing(content: ReportContent) -> Iterator[tuple[str, Path, list[tuple[str, str]]]]:
    """(what, of which results or log, [(id, reason)]) where there are any."""
    for result in content.results:
        if rows := [(row.id, row.reason) for row in result.rows if row.outcome == MISSING]:
            yield "Without a prediction", result.path, rows
    for log in content.trainings:
        if log.unread:
            yield "Not read in training", log.path, [*log.unread.items()]


# --- data of the script --------------------------------------------------------------------------


def _blocks(content: ReportContent, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Elements with JSON: the pictures, and the rows of each result."""
    indices = {clip: index for index, clip in enumerate(content.pictures.of)}
    drawn = [_picture(clip, picture, folder) for clip, picture in content.pictures.of.items()]
    yield {"id": "pictures", "json": safe_json(drawn)}
    lines = [[safe_json(row.shown()) for row in result.rows] for result in content.results]
    rooms = share([sum(map(size, rows)) for rows in lines], MOST_TEXT)
    for number, (result, rows, room) in enumerate(zip(content.results, lines, rooms, strict=True)):
        names = dict.fromkeys(n for row in result.rows for n in (row.id, row.target, *row.top))
        head = {
            "kind": result.kind,
            "notes": result.notes,
            "total": len(result.rows),
            "counts": result.counts,
            "pictures": {n: indices[c] for n in names if (c := locate(result, n)) in indices},
            "no_picture": _no_picture(result, content.pictures),
        }
        shown = Markup(",").join(fitting(rows, room))
        block = Markup('{{"rows":[{}],{}').format(shown, safe_json(head)[1:])
        yield {"id": f"result-{number}", "json": block}


def _no_picture(result: ResultFolder, pictures: Pictures) -> str:
    """What stands in the place of a picture that is not there; nothing if there are none at all."""
    if result.clips.root is None:
        return ""
    return f"no picture: left out ({pictures.limit})" if pictures.limit else "no picture"


def _picture(clip: ClipLocation, picture: Picture, folder: Path | None) -> dict[str, Any]:
    if picture.reason:
        return {"reason": picture.reason}
    shown: dict[str, Any] = {"frames": [base64.b64encode(f).decode() for f in picture.frames]}
    if folder is not None and (url := video_url(clip, folder)):
        shown["video"] = url
    return shown


def video_url(clip: ClipLocation, folder: Path) -> str:
    """The clip as a page in ``folder`` may name it, relative; "" where it does not lie beside it.

    That is in the folder, or at most HIGHEST folders above it: of others the page would tell where
    on the machine they are, and it could not be passed on with them.
    """
    path = Path(os.path.abspath(clip.root / clip.video))
    relative = os.path.relpath(path, os.path.abspath(folder))
    if relative.startswith("../" * (HIGHEST + 1)) or not path.is_file():
        return ""
    # Fragments as a browser reads them (Media Fragments URI); a scheme cannot stand after "./".
    times = f"#t={clip.start or 0:g}{'' if clip.end is None else f',{clip.end:g}'}"
    part = clip.start is not None or clip.end is not None
    return f"./{quote(os.fsencode(relative))}{times if part else ''}"


def safe_json(value: Any) -> Markup:
    """JSON that may stand inside of a script element."""
    return htmlsafe_json_dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def share(sizes: Sequence[int], room: int) -> list[int]:
    """How much each may take so that all fit into ``room``: small ones all, the others the same."""
    rooms = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda k: sizes[k])
    for done, k in enumerate(order):
        rooms[k] = min(sizes[k], room // (len(order) - done))
        room -= rooms[k]
    return rooms


def size(text: str) -> int:
    """Bytes of ``text`` in the file."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def fitting(texts: Iterable[Markup], room: int) -> Iterator[Markup]:
    """The first ones that fit into ``room`` bytes."""
    for text in texts:
        room -= size(text)
        if room < 0:
            return
        yield text
