"""``vt-evaluate``: metrics from files alone, ours or anyone's.

predictions.jsonl has one object a row: ``id`` and ``prediction`` (text, or the index of the
candidate; null where the clip could not be read) or ``ranking`` (ids or classes, best first).
references.jsonl: ``id`` and ``references`` (texts) or ``label``, ``answer`` (index), or ``target``
(id). Every reference is scored: one without a prediction is wrong and counts as ``missing``.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError

PROG = "vt-evaluate"
EXAMPLE = (
    "vt-evaluate captions --predictions predictions.jsonl --references references.jsonl "
    "--out metrics.json"
)
Row = dict[str, Any]  # one line's object, with "_where" for error messages
Pairs = list[tuple[Row, Row | None]]  # each reference with its prediction


def _rows(path: Path) -> dict[str, Row]:
    """The objects of a jsonl file by id; every mistake in it raises UserError with its line."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    found: dict[str, Row] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = _parse(line, f"{path} line {number}")
            if row["id"] in found:
                first = found[row["id"]]["_where"]
                raise UserError(f"{row['_where']}: duplicate id {row['id']!r}, first on {first}")
            found[row["id"]] = row
    return found


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected a JSON object a line: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise UserError(f"{where}: expected an object with an id that is text, found {row!r:.60}")
    scores = row.get("scores")
    if isinstance(scores, list) and any(isinstance(s, float) and math.isnan(s) for s in scores):
        raise UserError(f"{where}: NaN among the scores; a prediction made from it means nothing")
    return row | {"_where": where}


def _pairs(predictions: Path, references: Path) -> Pairs:
    """Every reference with its prediction or None; raise UserError on ids without a reference."""
    predicted, right = _rows(predictions), _rows(references)
    if not right:
        raise UserError(f"{references} has no rows")
    for name, row in predicted.items():
        if name not in right:
            raise UserError(
                f"{row['_where']}: id {name!r} is not in {references}; "
                "are predictions and references of the same split?"
            )
    return [(row, predicted.get(name)) for name, row in right.items()]


def _field(row: Row, key: str, valid: Callable[[Any], bool], what: str) -> Any:
    if not valid(row.get(key)):
        raise UserError(f"{row['_where']}: expected {key!r}: {what}, found {row.get(key)!r:.60}")
    return row[key]


def _predicted(row: Row | None, key: str, valid: Callable[[Any], bool], what: str) -> Any:
    """``row[key]``; None when there is no row or it says null (a clip that could not be read)."""
    if row is None or (key in row and row[key] is None):
        return None
    return _field(row, key, valid, what)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _is_ranking(value: Any) -> bool:
    return _is_texts(value) and len(set(value)) == len(value)


def captions(pairs: Pairs) -> dict[str, Any]:
    """BLEU-4 and exact match of ``prediction`` against ``references``; a missing one is ""."""
    from vt_fairseq.metrics import caption_metrics

    texts = [_predicted(row, "prediction", _is_text, "a text") for _, row in pairs]
    right = [_field(row, "references", _is_texts, "a list of texts") for row, _ in pairs]
    missing = sum(text is None for text in texts)
    return caption_metrics([text or "" for text in texts], right) | {"missing": missing}


def vqa(pairs: Pairs) -> dict[str, Any]:
    """Accuracy of ``prediction`` against ``answer``, both the index of a candidate."""
    from vt_fairseq.metrics import accuracy

    what = "the index of a candidate, from 0"
    found = accuracy(
        [_predicted(row, "prediction", _is_index, what) for _, row in pairs],
        [_field(row, "answer", _is_index, what) for row, _ in pairs],
    )
    return found | {"signatures": {"accuracy": "same candidate index|missing is wrong"}}


def retrieval(pairs: Pairs) -> dict[str, Any]:
    """R@1, 5, 10 and median rank of ``target`` in ``ranking``."""
    from vt_fairseq.metrics import rank_metrics

    what = "distinct ids, best first"
    found = rank_metrics(
        [_predicted(row, "ranking", _is_ranking, what) for _, row in pairs],
        [_field(row, "target", _is_text, "an id") for row, _ in pairs],
    )
    how = "rank in the file's ranking|absent or missing is last of the gallery"
    return found | {"signatures": dict.fromkeys(("r1", "r5", "r10", "median_rank"), how)}


def classify(pairs: Pairs) -> dict[str, Any]:
    """Accuracy of ``prediction`` against ``label`` or ``references``, and top-5 of ``ranking``."""
    from vt_fairseq.metrics import accuracy

    right = [_labels(row) for row, _ in pairs]
    texts = [_predicted(row, "prediction", _is_text, "the name of a class") for _, row in pairs]
    # A class may have several right names; any of them is the answer then.
    hits = [_hit([t], r) if t is not None else None for t, r in zip(texts, right, strict=True)]
    signature = "same text|case and outer white space ignored|missing is wrong"
    found = accuracy(hits, [True] * len(hits)) | {"signatures": {"accuracy": signature}}
    if not any(row and "ranking" in row for _, row in pairs):
        return found
    what = "distinct classes, best first"
    tops = [_predicted(row, "ranking", _is_ranking, what) for _, row in pairs]
    top5 = accuracy(
        [_hit((t or [])[:5], r) for t, r in zip(tops, right, strict=True)], [True] * len(tops)
    )
    found["signatures"]["top5"] = f"first 5 of the ranking|{signature}"
    return found | {"top5": top5["accuracy"]}


def _labels(row: Row) -> list[str]:
    if "label" in row:
        return [_field(row, "label", _is_text, "the name of a class")]
    return _field(row, "references", _is_texts, "a list of names of the class, or a label")


def _hit(names: list[str], right: list[str]) -> bool:
    def plain(texts: list[str]) -> set[str]:
        return {text.strip().casefold() for text in texts}

    return bool(plain(names) & plain(right))


TASKS = {"captions": captions, "vqa": vqa, "retrieval": retrieval, "classify": classify}


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-evaluate``."""
    made = command.parser(PROG, "Metrics of predictions against references, from files.", EXAMPLE)
    made.add_argument("task", choices=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    made.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="jsonl")
    made.add_argument("--references", type=Path, required=True, metavar="FILE", help="jsonl")
    made.add_argument("--out", type=Path, metavar="FILE", help="write the metrics as JSON")
    return made


def _table(metrics: dict[str, Any]) -> Iterator[str]:
    numbers = {key: value for key, value in metrics.items() if key != "signatures"}
    for key, value in numbers.items():
        shown = f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
        yield f"{key:12} {shown:>10}"
    for key, signature in metrics["signatures"].items():
        yield f"{key}: {signature}"


def _main() -> None:
    args = build_parser().parse_args()
    metrics = TASKS[args.task](_pairs(args.predictions, args.references))
    if args.out:
        from vt_fairseq.data.manifest import atomic_file

        with atomic_file(args.out) as file:
            file.write((json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode())
    print("\n".join(_table(metrics)))


def main() -> None:
    """The console script."""
    command.run(PROG, _main)


if __name__ == "__main__":
    main()
