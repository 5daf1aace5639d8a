"""A folder of results, read: what its numbers are and every row behind them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError
from vt_fairseq.report.clips import ClipFinder, Clips
from vt_fairseq.report.folders import PREDICTIONS
from vt_fairseq.report.readers import READERS, kind_of, read_object, read_references
from vt_fairseq.report.rows import MISSING, OPEN, Row, failures_first
from vt_fairseq.result_files import is_numbers, objects

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
)


@dataclass(frozen=True)
class Result:
    """One folder.

    Attributes:
        path: the folder.
        kind: a key of TASKS.
        numbers, signatures: of metrics.json.
        rows: failures first.
        clips: the manifest's rows, where a data directory has them.
        notes: what is missing for a complete picture.
    """

    path: Path
    kind: str
    numbers: Mapping[str, float]
    signatures: Mapping[str, str]
    rows: list[Row]
    clips: Clips
    notes: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """What was asked, in words."""
        return TASKS[self.kind]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each outcome."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.outcome] = found.get(row.outcome, 0) + 1
        return found

    @property
    def main_numbers(self) -> dict[str, float]:
        """Those that stand in the summary."""
        return {key: self.numbers[key] for key in MAIN_NUMBERS if key in self.numbers}


def read_result(folder: Path, finder: ClipFinder, unread: Mapping[str, str]) -> Result:
    """Read ``folder``; ``unread`` has the reasons of clips that could not be read, by id.

    Raises UserError for files that are damaged or no results.
    """
    settings = read_object(folder / "settings.json")
    metrics = read_object(folder / "metrics.json")
    kind, right = kind_of(folder, settings), read_references(folder)
    first = next(iter(right), None) or next(objects(folder / PREDICTIONS), {}).get("id")
    clips = finder.find(str(settings.get("split") or _generated_split(folder)), first)
    rows = [_explained(row, unread) for row in READERS[kind](folder, right, clips)]
    if not rows:
        raise UserError(f"{folder / PREDICTIONS} has no rows")
    return Result(
        path=folder,
        kind=kind,
        numbers={k: v for k, v in metrics.items() if is_numbers([v])},
        signatures={k: str(v) for k, v in dict(metrics.get("signatures") or {}).items()},
        rows=failures_first(rows),
        clips=clips,
        notes=list(_notes(kind, metrics, rows, clips, finder)),
    )


def _generated_split(folder: Path) -> str:
    """The split of ``fairseq-generate``'s own output, "" without it."""
    names = sorted(path.stem for path in folder.glob("generate-*.txt"))
    return names[0].removeprefix("generate-") if len(names) == 1 else ""


def _explained(row: Row, unread: Mapping[str, str]) -> Row:
    if row.outcome != MISSING:
        return row
    return replace(row, reason=unread.get(row.id, "no prediction; the logs do not say why"))


def _notes(
    kind: str, metrics: dict[str, Any], rows: list[Row], clips: Clips, finder: ClipFinder
) -> Iterator[str]:
    if not metrics:
        yield f"no metrics.json: vt-evaluate {kind} --out metrics.json makes it"
    if all(row.outcome in (OPEN, MISSING) for row in rows):
        yield "nothing says what is right: neither references.jsonl nor a data directory"
    if clips.root is None and finder.data:
        yield f"no data directory has the clip {rows[0].id} (split {clips.split or 'not known'})"
