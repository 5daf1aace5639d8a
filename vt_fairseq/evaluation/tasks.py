"""Predictions paired with references to measures: what ``vt-evaluate`` computes for each task.

A reference without a prediction, or with null for one, is wrong (an empty caption, the last rank)
and counts as missing. A row with an empty list of references (a clip without captions) has nothing
that a prediction could be compared with: it is left out, and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vt_fairseq.errors import UserError
from vt_fairseq.evaluation.caption_files import plain_ascii
from vt_fairseq.metrics import coco
from vt_fairseq.metrics.captions import caption_measures
from vt_fairseq.metrics.classification import mean_class_measure, per_class_accuracy
from vt_fairseq.metrics.measure import Measure, mean_measure
from vt_fairseq.metrics.retrieval import ranking_places, recall_measure
from vt_fairseq.result_files import (
    JsonRow,
    PairedRows,
    field,
    is_index,
    is_numbers,
    is_ranking,
    is_text,
    is_texts,
    predicted,
)

_CLASS = "same text|case and outer white space ignored|missing is wrong"


@dataclass(frozen=True)
class Evaluated:
    """One prediction file against the references.

    Attributes:
        measures: what the numbers are computed from, a row a reference in the references' order.
        missing: references without a prediction.
        left_out: {metric: reason} of those that cannot be computed on this machine.
        right: of classes: {what: [(class, is it right)]} a row; "label", or "verb", "noun" and
            "action".
        unscored: rows left out, as their list of references is empty.
    """

    measures: list[Measure]
    missing: int
    left_out: dict[str, str]
    right: dict[str, list[tuple[str, bool]]]
    unscored: int = 0

    @property
    def n(self) -> int:
        """References that are scored."""
        return len(self.measures[0].rows)

    def per_class(self) -> list[dict]:
        """Rows ``of`` (label, verb, noun, action), ``class``, ``accuracy`` in per cent, ``n``."""
        return [
            {"of": of, "class": name, "accuracy": accuracy, "n": n}
            for of, rows in self.right.items()
            for name, (accuracy, n) in per_class_accuracy(
                [hit for _, hit in rows], [name for name, _ in rows]
            ).items()
        ]


def referenced(pairs: PairedRows) -> PairedRows:
    """Those whose row does not say that it has no references; UserError when none is left."""
    found = [(row, given) for row, given in pairs if row.get("references") != []]
    if not found:
        raise UserError(
            f"{pairs[0][0]['_where']}: expected 'references': a list of texts, found [], as in all "
            f"{len(pairs)} rows: the split has none for this action, so there is nothing to measure"
        )
    return found


def captions(pairs: PairedRows, tokenizer: str = "ptb", ascii_only: bool = False) -> Evaluated:
    """BLEU, exact match and the COCO toolkit's metrics of ``prediction`` against ``references``.

    Args:
        tokenizer: of the COCO toolkit's metrics, ``ptb`` or ``none``; "off" leaves them out.
        ascii_only: a blank for every other character, in all of the metrics.
    """
    total, pairs = len(pairs), referenced(pairs)
    texts = [predicted(row, "prediction", is_text, "a text") for _, row in pairs]
    right = [field(row, "references", is_texts, "a list of texts") for row, _ in pairs]
    clean = plain_ascii if ascii_only else str
    given = [clean(text or "") for text in texts]
    right = [[clean(text) for text in row] for row in right]
    measures, left_out = caption_measures(given, right), {}
    if tokenizer != "off":
        measures += coco.coco_measures(given, right, tokenizer)
        left_out = coco.left_out(tokenizer)
    if ascii_only:
        measures = [_signed(measure, "non-ASCII:blank") for measure in measures]
    missing = sum(text is None for text in texts)
    return Evaluated(measures, missing, left_out, {}, total - len(pairs))


def _signed(measure: Measure, more: str) -> Measure:
    signatures = {key: f"{text}|{more}" for key, text in measure.signatures.items()}
    return Measure(measure.rows, measure.compute, signatures)


def vqa(pairs: PairedRows) -> Evaluated:
    """Accuracy of ``prediction`` against ``answer``, both the index of a candidate."""
    what = "the index of a candidate, from 0"
    chosen = [predicted(row, "prediction", is_index, what) for _, row in pairs]
    answers = [field(row, "answer", is_index, what) for row, _ in pairs]
    hits = [c is not None and c == a for c, a in zip(chosen, answers, strict=True)]
    measure = mean_measure("accuracy", hits, "same candidate index|missing is wrong")
    return Evaluated([measure], sum(c is None for c in chosen), {}, {})


def retrieval(pairs: PairedRows, ties: str = "pessimistic") -> Evaluated:
    """R@1, 5, 10 and median rank of ``target`` in ``ranking``; ``scores`` of it show the ties."""
    what = "distinct ids, best first"
    rankings = [predicted(row, "ranking", is_ranking, what) for _, row in pairs]
    scores = [
        field(row, "scores", _fits(ranking), "a number for each id of the ranking")
        if ranking and "scores" in row
        else None
        for ranking, (_, row) in zip(rankings, pairs, strict=True)
    ]
    targets = [field(row, "target", is_text, "an id") for row, _ in pairs]
    measure = recall_measure(ranking_places(rankings, targets, scores), ties)
    measure = _signed(measure, "a target absent from its ranking or missing is last of the gallery")
    return Evaluated([measure], sum(ranking is None for ranking in rankings), {}, {})


def _fits(ranking: Sequence[str]) -> Callable[[Any], bool]:
    return lambda value: is_numbers(value) and len(value) == len(ranking)


# --- classes -------------------------------------------------------------------------------------


def classify(pairs: PairedRows) -> Evaluated:
    """Top-1, top-5 (where there are rankings) and mean-class accuracy.

    References with ``verb`` and ``noun`` take predictions with ``verb`` and ``noun``, and with
    ``verb_ranking``, ``noun_ranking`` (classes) and ``action_ranking`` ([verb, noun] pairs). Others
    have ``label``, or several right names as ``references``, and take ``prediction`` and
    ``ranking``.
    """
    total, pairs = len(pairs), referenced(pairs)
    if all(part in row for row, _ in pairs for part in ("verb", "noun")):
        heads = _action_heads(pairs)
    else:
        heads = [_label_head(pairs)]
    missing = sum(name is None for name in heads[-1].given)
    right = {head.name: list(zip(head.classes(), head.hits(), strict=True)) for head in heads}
    measures = [measure for head in heads for measure in head.measures()]
    return Evaluated(measures, missing, {}, right, total - len(pairs))


@dataclass(frozen=True)
class _Head:
    """One set of classes: ``given`` and ``rankings`` are predicted, any of ``right`` is right.

    A class is a tuple of names: one, or verb and noun.
    """

    name: str
    keys: tuple[str, str, str]  # top-1, top-5, mean-class accuracy
    given: list[tuple[str, ...] | None]
    rankings: list[list[tuple[str, ...]]] | None
    right: list[list[tuple[str, ...]]]

    def classes(self) -> list[str]:
        return [" ".join(names[0]) for names in self.right]

    def hits(self) -> list[bool]:
        return _hits([[] if name is None else [name] for name in self.given], self.right)

    def measures(self) -> list[Measure]:
        top1, top5, mean = self.keys
        hits = self.hits()
        measures = [
            mean_measure(top1, hits, _CLASS),
            mean_class_measure(mean, hits, self.classes()),
        ]
        if self.rankings is not None:
            tops = _hits([ranking[:5] for ranking in self.rankings], self.right)
            measures.append(mean_measure(top5, tops, f"first 5 of the ranking|{_CLASS}"))
        return measures


def _hits(given: list[list[tuple[str, ...]]], right: list[list[tuple[str, ...]]]) -> list[bool]:
    def plain(classes: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
        return {tuple(name.strip().casefold() for name in names) for names in classes}

    return [bool(plain(g) & plain(r)) for g, r in zip(given, right, strict=True)]


def _label_head(pairs: PairedRows) -> _Head:
    keys = ("accuracy", "top5", "mean_class_accuracy")
    right = [[(name,) for name in _names(row)] for row, _ in pairs]
    return _Head("label", keys, _given(pairs, "prediction"), _ranked(pairs, "ranking"), right)


def _names(row: JsonRow) -> list[str]:
    if "label" in row:
        return [field(row, "label", is_text, "the name of a class")]
    return field(row, "references", is_texts, "a list of names of the class, or a label")


def _action_heads(pairs: PairedRows) -> list[_Head]:
    given = {part: _given(pairs, part) for part in ("verb", "noun")}
    right = {
        part: [field(row, part, is_text, "the name of a class") for row, _ in pairs]
        for part in given
    }
    heads = [
        _Head(
            part,
            _keys(part),
            given[part],
            _ranked(pairs, f"{part}_ranking"),
            [[(n,)] for n in right[part]],
        )
        for part in given
    ]
    actions = [v and n and v + n for v, n in zip(given["verb"], given["noun"], strict=True)]
    rankings = _ranked_actions(pairs)
    if rankings is not None:  # the best pair need not be the best verb and the best noun
        actions = [r[0] if r else a for a, r in zip(actions, rankings, strict=True)]
    both = [[pair] for pair in zip(right["verb"], right["noun"], strict=True)]
    return [*heads, _Head("action", _keys("action"), actions, rankings, both)]


def _keys(name: str) -> tuple[str, str, str]:
    return f"{name}_top1", f"{name}_top5", f"{name}_mean_class_accuracy"


def _given(pairs: PairedRows, key: str) -> list[tuple[str, ...] | None]:
    texts = [predicted(row, key, is_text, "the name of a class") for _, row in pairs]
    return [None if text is None else (text,) for text in texts]


def _ranked(pairs: PairedRows, key: str) -> list[list[tuple[str, ...]]] | None:
    """The classes of every row's ranking; None when no row has one."""
    if not any(row and key in row for _, row in pairs):
        return None
    what = "distinct classes, best first"
    rankings = [predicted(row, key, is_ranking, what) for _, row in pairs]
    return [[(name,) for name in ranking or ()] for ranking in rankings]


def _ranked_actions(pairs: PairedRows) -> list[list[tuple[str, ...]]] | None:
    key = "action_ranking"
    if not any(row and key in row for _, row in pairs):
        return None
    rankings = [predicted(row, key, _is_actions, "[verb, noun] pairs") for _, row in pairs]
    return [[tuple(names) for names in ranking or ()] for ranking in rankings]


def _is_actions(value: Any) -> bool:
    return isinstance(value, list) and all(is_texts(v) and len(v) == 2 for v in value)
