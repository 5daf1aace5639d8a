"""A folder of results, read: its metrics and every row behind them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vt_fairseq.data.manifest import ClipRow, DataDirectory
from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import MAX_OBJECT, read_file
from vt_fairseq.files.result_files import is_numbers, objects, parse_object, read
from vt_fairseq.metrics.variety import Variety, variety
from vt_fairseq.report.numbers import computed
from vt_fairseq.report.readers import PREDICTIONS, READERS, REFERENCES, kind_of
from vt_fairseq.report.rows import MISSING, OPEN, ReportRow, failures_first


@dataclass(frozen=True)
class SplitRows:
    """The manifest's rows behind the ids of results.

    Attributes:
        split: its name, "" where it is not known.
        root: folder of the videos; None without a data directory, or where its folder of videos
            is somebody else's word.
        rows: by id; none without a data directory.
    """

    split: str = ""
    root: Path | None = None
    rows: Mapping[str, ClipRow] = field(default_factory=dict)


class SplitFinder:
    """Looks for the split that results are of; reads each split once."""

    def __init__(self, directories: Iterable[DataDirectory]):
        self.directories = list(directories)
        self._read: dict[tuple[Path, str], SplitRows] = {}

    def find(self, split: str, clip_id: str | None) -> SplitRows:
        """The rows of ``split``, or of any split if it is "", that has a row ``clip_id``.

        Raises UserError where a manifest is missing or damaged.
        """
        for directory in self.directories:
            for name in directory.splits if split == "" else {split} & set(directory.splits):
                key = (directory.path, name)
                if key not in self._read and clip_id in directory.manifest(name).column("id"):
                    rows = {row.id: row for row in directory.manifest(name)}
                    root = directory.video_root if directory.confirmed else None
                    self._read[key] = SplitRows(name, root, rows)
                if key in self._read and clip_id in self._read[key].rows:
                    return self._read[key]
        return SplitRows(split)


@dataclass(frozen=True)
class ResultFolder:
    """The results in one folder.

    Attributes:
        path: the folder.
        kind: a key of READERS.
        metrics, signatures: of metrics.json.
        rows: failures first.
        clips: the manifest's rows, where a data directory has them.
        notes: what is missing for a complete picture.
    """

    path: Path
    kind: str
    metrics: Mapping[str, float]
    signatures: Mapping[str, str]
    rows: list[ReportRow]
    clips: SplitRows
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each outcome."""
        return dict(Counter(row.outcome for row in self.rows))


def read_result(folder: Path, finder: SplitFinder, unread: Mapping[str, str]) -> ResultFolder:
    """Read ``folder``; ``unread`` has the reasons of clips that could not be read, by id.

    Raises UserError for files that are damaged or hold no results.
    """
    settings = read_object(folder / "settings.json")
    metrics = read_object(folder / "metrics.json")
    kind, path = kind_of(folder, settings), folder / REFERENCES
    references = read(path) if path.is_file() else {}  # then the manifest has them
    written = bool(metrics)
    metrics = metrics or computed(kind, folder / PREDICTIONS, references)
    first = next(iter(references), None) or next(objects(folder / PREDICTIONS), {}).get("id")
    clips = finder.find(str(settings.get("split") or _generated_split(folder)), first)
    rows = [
        replace(row, reason=unread.get(row.id, "no prediction; the logs do not say why"))
        if row.outcome == MISSING
        else row
        for row in READERS[kind](folder, references, clips.rows)
    ]
    if not rows:
        raise UserError(f"{folder / PREDICTIONS} has no rows")
    varied = _variety(rows) if kind in ("captions", "classify") else None
    return ResultFolder(
        path=folder,
        kind=kind,
        metrics=(varied.values() if varied else {})
        | {k: v for k, v in metrics.items() if is_numbers([v])},
        signatures={k: str(v) for k, v in object_in(metrics, "signatures").items()},
        rows=failures_first(rows),
        clips=clips,
        notes=list(_notes(kind, metrics, written, rows, clips, finder, varied)),
    )


def object_in(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """``values[key]``, {} where it is no object."""
    value = values.get(key)
    return value if isinstance(value, dict) else {}


def _generated_split(folder: Path) -> str:
    """The split of ``fairseq-generate``'s own output, "" without it."""
    names = sorted(path.stem for path in folder.glob("generate-*.txt"))
    return names[0].removeprefix("generate-") if len(names) == 1 else ""


def _variety(rows: Sequence[ReportRow]) -> Variety | None:
    predictions = (row.prediction for row in rows if row.outcome != MISSING)
    return variety(predictions, (row.references for row in rows))


def _notes(
    kind: str,
    metrics: dict[str, Any],
    written: bool,
    rows: list[ReportRow],
    clips: SplitRows,
    finder: SplitFinder,
    varied: Variety | None,
) -> Iterator[str]:
    if varied and (warning := varied.warning()):
        yield warning
    if not metrics:
        yield f"no metrics.json: vt-evaluate {kind} --out metrics.json makes it"
    elif not written and kind == "captions":
        yield "no metrics.json: METEOR, ROUGE-L and CIDEr are those of vt-evaluate captions"
    if all(row.outcome in (OPEN, MISSING) for row in rows):
        yield "nothing says what is right: neither references.jsonl nor a data directory"
    if not clips.rows and finder.directories:
        yield f"no data directory has the clip {rows[0].id} (split {clips.split or 'not known'})"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        return parse_object(read_file(path, MAX_OBJECT))
    except ValueError as error:
        raise UserError(f"{path} is damaged: expected a JSON object: {error}") from error
