"""``vt-evaluate``: metrics from files alone, ours or anyone's.

predictions.jsonl has one object per row: ``id`` and ``prediction`` (text, or the index of the
candidate; null where the clip could not be read), ``ranking`` (ids or classes, best first), or
``verb`` and ``noun``. references.jsonl: ``id`` and ``references`` (texts), ``label``, ``answer``
(index), ``target`` (id), or ``verb`` and ``noun``; with ``caption`` (the query of a ``target``) or
``candidates`` (of an ``answer``) equal ones are counted. Every reference is scored: one without a
prediction is wrong and counts as ``missing``. Rows whose ``references`` are an empty list are left
out and count as ``without_references``. Captions may also come as TVC's jsonl, COCO's json, or
text with one per line.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError
from vt_fairseq.visible_text import say

if TYPE_CHECKING:
    from vt_fairseq.evaluation.tasks import Evaluated
    from vt_fairseq.metrics.measure import Measure

PROG = "vt-evaluate"
EXAMPLE = (
    "vt-evaluate captions --predictions predictions.jsonl --references references.jsonl "
    "--out metrics.json"
)
TASKS = ("captions", "vqa", "retrieval", "classify")
BLANK_LEVEL = 0.95  # of the interval of --blank, where --confidence does not say another
BESIDE = ("low", "high", "other", "difference", "p", "blank", "gain")  # stand beside a number


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-evaluate``."""
    made = command.parser(PROG, "Metrics of predictions against references, from files.", EXAMPLE)
    add = made.add_argument
    add("task", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    add("--predictions", type=Path, required=True, metavar="FILE", help="jsonl (captions: also "
        "COCO's .json, or .txt with one per line)")  # fmt: skip
    add("--references", type=Path, required=True, nargs="+", metavar="FILE",
        help="in the same formats; several .txt files are several references")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="write the metrics as JSON")
    add("--coco", choices=("ptb", "none", "off"), default="ptb",
        help="captions: tokenizer of the COCO toolkit's metrics; ptb as in the toolkit, none as in "
        "nlg-eval; off leaves them out (default: ptb)")  # fmt: skip
    add("--ascii-only", action="store_true",
        help="captions: make every non-ASCII character a blank, as TVC's scorer does")  # fmt: skip
    add("--ties", choices=("pessimistic", "howto100m"), default="pessimistic",
        help="retrieval: how ties count: against the target (pessimistic), or as in HowTo100M's "
        "script (default: pessimistic)")  # fmt: skip
    add("--per-class", type=Path, metavar="FILE", help="classify: write each class's accuracy")
    add("--confidence", type=float, metavar="LEVEL",
        help="add bootstrap intervals of this level, for instance 0.95")  # fmt: skip
    add("--compare", type=Path, metavar="FILE",
        help="predictions of another system, for a paired test")  # fmt: skip
    add("--blank", type=Path, metavar="FILE",
        help="predictions of the same model on blank video (--blank-video): add the gain over "
        "them and its interval")  # fmt: skip
    add("--resamples", type=command.positive, default=1000, metavar="N",
        help="draws of --confidence, --compare and --blank (default: 1000)")  # fmt: skip
    add("--seed", type=command.seed, default=1, help="random seed of the draws (default: 1)")
    return made


def evaluate(args: argparse.Namespace, predictions: Path) -> "Evaluated":
    """``predictions`` against the references that ``args`` names."""
    from vt_fairseq.evaluation import caption_files, tasks
    from vt_fairseq.files import result_files
    from vt_fairseq.metrics.coco_java import JavaError

    if args.task == "captions":
        pairs = caption_files.read_pairs(predictions, args.references)
        try:
            return tasks.captions(pairs, args.coco, args.ascii_only)
        except JavaError as error:
            hint = "--coco off leaves the COCO toolkit's metrics out"
            raise UserError(f"{error}; {hint}") from error
    if len(args.references) > 1:
        raise UserError(f"{args.task} takes one --references, found {len(args.references)}")
    references = args.references[0]
    pairs = result_files.pair(
        result_files.read(predictions), result_files.read(references), str(references)
    )
    if args.task == "retrieval":
        return tasks.retrieval(pairs, args.ties)
    return {"vqa": tasks.vqa, "classify": tasks.classify}[args.task](pairs)


def metrics(args: argparse.Namespace, result: "Evaluated") -> tuple[dict[str, Any], list[str]]:
    """What metrics.json holds: values, intervals, comparisons, and how each was computed; and what
    the user should know of the comparisons, one line each.
    """
    from vt_fairseq.metrics import equal_texts, measure, variety
    from vt_fairseq.metrics.intervals import confidence_intervals, paired_gains, paired_test

    values = measure.values(result.measures) | {"n": result.n, "missing": result.missing}
    if result.unscored:
        values["without_references"] = result.unscored
    varied = result.variety.values() if result.variety else {}
    values |= result.equal | varied
    signatures = measure.signatures(result.measures) | result.left_out
    signatures |= {key: (equal_texts.HOW | variety.HOW)[key] for key in result.equal | varied}
    warnings: list[str] = []
    how = f"{args.resamples} resamples of rows|seed {args.seed}"
    if args.confidence is not None:
        values |= confidence_intervals(result.measures, args.confidence, args.resamples, args.seed)
        signatures["low, high"] = f"percentile bootstrap|level {args.confidence}|{how}"
    if args.compare:
        other = evaluate(args, args.compare)
        ours, theirs = _shared(result, other)
        values |= paired_test(ours, theirs, args.resamples, args.seed)
        warnings += _not_compared(result, other, args.compare)
        values["missing_other"] = other.missing
        signatures["other, difference, p"] = (
            f"{args.compare.name}|approximate randomization, two-sided|{how}"
        )
    if args.blank:
        blank = evaluate(args, args.blank)
        level = args.confidence or BLANK_LEVEL
        ours, theirs = _shared(result, blank)
        values |= {f"{key}_blank": value for key, value in measure.values(theirs).items()}
        values["missing_blank"] = blank.missing
        values |= paired_gains(ours, theirs, level, args.resamples, args.seed)
        warnings += _not_compared(result, blank, args.blank)
        signatures["blank, gain"] = (
            f"{args.blank.name}|paired percentile bootstrap|level {level}|{how}"
        )
    return values | {"signatures": signatures}, warnings


def _shared(result: "Evaluated", other: "Evaluated") -> tuple[list["Measure"], list["Measure"]]:
    """The measures that both have: top-5 needs rankings, which not every file has."""
    both = [
        (ours, theirs)
        for ours in result.measures
        for theirs in other.measures
        if ours.signatures.keys() == theirs.signatures.keys()
    ]
    return [ours for ours, _ in both], [theirs for _, theirs in both]


def _not_compared(result: "Evaluated", other: "Evaluated", path: Path) -> Iterator[str]:
    keys, others = ({k for m in one.measures for k in m.signatures} for one in (result, other))
    if alone := sorted(keys ^ others):
        yield f"{', '.join(alone)}: not compared, as the rows of one file have no rankings"
    if other.missing > result.missing:
        yield (
            f"{path}: {other.missing:,} of {other.n:,} rows have no prediction and count as wrong, "
            "so that it looks worse than the model is"
        )


def not_better(values: dict[str, float]) -> list[str]:
    """Numbers, but for zeros, whose gain over blank video may be none.

    The median rank is not looked at: there less is a gain.
    """
    keys = [key.removesuffix("_gain_low") for key in values if key.endswith("_gain_low")]
    return [
        key
        for key in keys
        if values[f"{key}_gain_low"] <= 0 < max(values[key], values[f"{key}_blank"])
        and key != "median_rank"
    ]


def _table(metrics: dict[str, Any]) -> Iterator[str]:
    """One line per number with its interval and comparison, then how they were computed."""
    values = {key: value for key, value in metrics.items() if key != "signatures"}
    for key, value in values.items():
        base, _, kind = key.rpartition("_")
        if base not in values or kind not in BESIDE:
            yield f"{key:12} {_shown(value):>10}{_beside(key, values)}"
    for signature in dict.fromkeys(metrics["signatures"].values()):
        if signature.startswith("left out: "):  # a warning says it
            continue
        keys = [key for key, text in metrics["signatures"].items() if text == signature]
        yield f"{', '.join(keys)}: {signature}"


def _beside(key: str, values: dict[str, Any]) -> str:
    text = ""
    if f"{key}_low" in values:
        text += f"  [{_shown(values[f'{key}_low'])}, {_shown(values[f'{key}_high'])}]"
    if f"{key}_other" in values:
        text += f"  other {_shown(values[f'{key}_other'])}"
    if f"{key}_blank" in values:
        text += f"  blank {_shown(values[f'{key}_blank'])}"
    if f"{key}_gain" in values:
        gain, low, high = (values[f"{key}_gain{end}"] for end in ("", "_low", "_high"))
        text += f"  gain {gain:+.2f} [{low:+.2f}, {high:+.2f}]"
    if f"{key}_p" in values:
        text += f"  difference {values[f'{key}_difference']:+.2f}  p {values[f'{key}_p']:.4f}"
    return text


def _keep_inputs(args: argparse.Namespace) -> None:
    """Raise UserError where an output would take the place of an input or of the other output."""
    outputs = [path for path in (args.out, args.per_class) if path]
    inputs = [args.predictions, *args.references, args.compare, args.blank]
    taken = {path.resolve() for path in inputs if path}
    for path in outputs:
        if path.resolve() in taken:
            raise UserError(f"{path} is read and would be overwritten: write to another file")
        taken.add(path.resolve())


def _shown(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"


@command.console_script(PROG)
def main() -> None:
    """The console script."""
    args = build_parser().parse_args()
    if args.confidence is not None and not 0 < args.confidence < 1:
        raise UserError(f"--confidence must lie between 0 and 1, found {args.confidence}")
    if args.per_class and args.task != "classify":
        raise UserError(f"--per-class goes with classify, found {args.task}")
    _keep_inputs(args)
    from vt_fairseq.files.atomic_files import write_file, write_json
    from vt_fairseq.scoring.records import as_line

    result = evaluate(args, args.predictions)
    values, warnings = metrics(args, result)
    if args.out:
        write_json(args.out, values)
    if args.per_class:
        write_file(args.per_class, b"".join(map(as_line, result.per_class())))
    for line in _table(values):
        say(line)
    if result.variety and (warning := result.variety.warning()):
        say(f"{PROG}: {warning}", sys.stderr)
    for warning in warnings:
        say(f"{PROG}: {warning}", sys.stderr)
    if args.blank and (same := not_better(values)):
        what = f"{', '.join(same)}: no better than on blank video"
        say(f"{PROG}: {what} (the interval of the gain reaches 0)", sys.stderr)
    if result.unscored:
        what = f"{result.unscored:,} of {result.unscored + result.n:,} rows have no references"
        say(f"{PROG}: {what} and are left out", sys.stderr)
    if result.left_out:
        reason = next(iter(result.left_out.values()))
        say(f"{PROG}: {', '.join(result.left_out)} {reason}", sys.stderr)


if __name__ == "__main__":
    main()
