"""Predictions paired with references to measures: what ``vt-evaluate`` computes for each task.

A reference without a prediction, or with null for one, is wrong (an empty caption, the last rank)
and counts as missing. A row with an empty list of references (a clip without captions) has nothing
that a prediction could be compared with: it is left out, and counted.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any

from vt_fairseq.errors import UserError
from vt_fairseq.evaluation.caption_files import plain_ascii
from vt_fairseq.files.result_files import (
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
from vt_fairseq.metrics import coco
from vt_fairseq.metrics.captions import caption_measures
from vt_fairseq.metrics.classification import mean_class_measure, per_class_accuracy
from vt_fairseq.metrics.equal_texts import equal_candidates, equal_captions
from vt_fairseq.metrics.measure import Measure, mean_measure
from vt_fairseq.metrics.retrieval import ranking_statistics, recall_measure
from vt_fairseq.metrics.variety import Variety, variety

_CLASS = "same text|case and outer white space ignored|missing is wrong"


@dataclass(frozen=True)
class Evaluated:
    """One prediction file against the references.

    Attributes:
        measures: what the numbers are computed from, one row per reference in their order.
        missing: references without a prediction.
        left_out: {metric: reason} of those that cannot be computed on this machine.
        correct: of classes, {"label", or "verb", "noun" and "action": [(right class, is the
            prediction right) of each row]}.
        unscored: rows left out, as their list of references is empty.
        equal: counts of equal captions or candidates, as ``metrics.equal_texts`` has them.
        variety: of captions or classes; None without any.
    """

    measures: list[Measure]
    missing: int
    left_out: dict[str, str]
    correct: dict[str, list[tuple[str, bool]]]
    unscored: int = 0
    equal: dict[str, int] = attribute(default_factory=dict)
    variety: Variety | None = None

    @property
    def n(self) -> int:
        """References that are scored."""
        return len(self.measures[0].rows)

    def per_class(self) -> list[dict]:
        """Rows ``of`` (label, verb, noun, action), ``class``, ``accuracy`` in per cent, ``n``."""
        return [
            line
            for of, rows in self.correct.items()
            for line in per_class_accuracy(of, [hit for _, hit in rows], [name for name, _ in rows])
        ]


def with_references(pairs: PairedRows) -> PairedRows:
    """Those whose row does not say that it has no references; UserError when none is left."""
    kept = [(row, prediction) for row, prediction in pairs if row.get("references") != []]
    if not kept:
        raise UserError(
            f"{pairs[0][0]['_where']}: expected 'references': a list of texts, found [], as in all "
            f"{len(pairs)} rows: the split has none for this action, so there is nothing to measure"
        )
    return kept


def captions(pairs: PairedRows, tokenizer: str = "ptb", ascii_only: bool = False) -> Evaluated:
    """BLEU, exact match and the COCO toolkit's metrics of ``prediction`` against ``references``.

    Args:
        tokenizer: of the COCO toolkit's metrics, ``ptb`` or ``none``; "off" leaves them out.
        ascii_only: a blank for every other character, in all of the metrics.
    """
    total, pairs = len(pairs), with_references(pairs)
    texts = [predicted(row, "prediction", is_text, "a text") for _, row in pairs]
    clean = plain_ascii if ascii_only else str
    predictions = [clean(text or "") for text in texts]
    references = [
        [clean(text) for text in field(row, "references", is_texts, "a list of texts")]
        for row, _ in pairs
    ]
    measures, left_out = caption_measures(predictions, references), {}
    if tokenizer != "off":
        measures += coco.coco_measures(predictions, references, tokenizer)
        left_out = coco.left_out(tokenizer)
    if ascii_only:
        measures = [_signed(measure, "non-ASCII:blank") for measure in measures]
    missing = sum(text is None for text in texts)
    varied = variety(texts, references)
    return Evaluated(measures, missing, left_out, {}, total - len(pairs), variety=varied)


def _signed(measure: Measure, more: str) -> Measure:
    signatures = {key: f"{text}|{more}" for key, text in measure.signatures.items()}
    return Measure(measure.rows, measure.compute, signatures)


def vqa(pairs: PairedRows) -> Evaluated:
    """Accuracy of ``prediction`` against ``answer``, both the index of a candidate.

    Where references have ``candidates``, an index beyond them is refused (was it counted from 1?),
    and rows with equal ones are counted.
    """
    what = "the index of a candidate, from 0"
    predictions, answers = [], []
    valid: Callable[[Any], bool]
    for row, predicting in pairs:
        valid, expected = is_index, what
        if row.get("candidates"):
            last = len(field(row, "candidates", is_texts, "a list of texts")) - 1
            valid, expected = _up_to(last), f"{what} to {last}"
        predictions.append(predicted(predicting, "prediction", valid, expected))
        answers.append(field(row, "answer", valid, expected))
    hits = [p is not None and p == a for p, a in zip(predictions, answers, strict=True)]
    measure = mean_measure("accuracy", hits, "same candidate index|missing is wrong")
    equal = equal_candidates(_given(pairs, "candidates", is_texts, "a list of texts"))
    return Evaluated([measure], sum(p is None for p in predictions), {}, {}, equal=equal)


def _up_to(last: int) -> Callable[[Any], bool]:
    return lambda value: is_index(value) and value <= last


def _given(pairs: PairedRows, key: str, valid: Callable[[Any], bool], what: str) -> Iterator[Any]:
    """``key`` of the references that have it."""
    return (field(row, key, valid, what) for row, _ in pairs if row.get(key))


def retrieval(pairs: PairedRows, ties: str = "pessimistic") -> Evaluated:
    """R@1, 5, 10 and median rank of ``target`` in ``ranking``; ``scores`` of it show the ties.

    Where references have ``caption``, the text of the query, rows with equal ones are counted.
    """
    what = "distinct ids, best first"
    rankings = [predicted(row, "ranking", is_ranking, what) for _, row in pairs]
    scores = [
        field(row, "scores", _fits(ranking), "a number for each id of the ranking")
        if ranking and row and "scores" in row
        else None
        for ranking, (_, row) in zip(rankings, pairs, strict=True)
    ]
    if ties != "pessimistic":
        _require_scores(pairs, rankings, scores, ties)
    targets = [field(row, "target", is_text, "an id") for row, _ in pairs]
    measure = recall_measure(ranking_statistics(rankings, targets, scores), ties)
    measure = _signed(measure, "a target absent from its ranking or missing is last of the gallery")
    equal = equal_captions(_given(pairs, "caption", is_text, "the text of the query"))
    missing = sum(ranking is None for ranking in rankings)
    return Evaluated([measure], missing, {}, {}, equal=equal)


def _require_scores(
    pairs: PairedRows,
    rankings: Sequence[list[str] | None],
    scores: Sequence[list[float] | None],
    ties: str,
) -> None:
    """Raise UserError at a ranking that does not show its ties."""
    for (_, row), ranking, own in zip(pairs, rankings, scores, strict=True):
        if row and ranking and own is None:
            raise UserError(
                f"{row['_where']}: expected 'scores', a number for each id of the ranking, which "
                f"show the ties that {ties} counts; found none: a ranking alone, as vt-score "
                "writes, has broken its ties already, against the target"
            )


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
    total, pairs = len(pairs), with_references(pairs)
    if all(part in row for row, _ in pairs for part in ("verb", "noun")):
        kinds = _actions(pairs)
    else:
        kinds = [_labels(pairs)]
    missing = sum(name is None for name in kinds[-1].predictions)
    correct = {kind.name: list(zip(kind.classes(), kind.hits(), strict=True)) for kind in kinds}
    measures = [measure for kind in kinds for measure in kind.measures()]
    names = [name if name is None else " ".join(name) for name in kinds[-1].predictions]
    right = [[" ".join(name) for name in row] for row in kinds[-1].references]
    varied = variety(names, right)
    return Evaluated(measures, missing, {}, correct, total - len(pairs), variety=varied)


Class = tuple[str, ...]
"""The name of a label, a verb or a noun; of an action, its verb and its noun."""


@dataclass(frozen=True)
class _ClassResults:
    """Predictions of one kind of classes, in the order of the references; any reference is right.

    Without ``rankings`` there is no top-5.
    """

    name: str
    keys: tuple[str, str, str]  # top-1, top-5, mean-class accuracy
    predictions: list[Class | None]
    rankings: list[list[Class]] | None
    references: list[list[Class]]

    def classes(self) -> list[str]:
        return [" ".join(names[0]) for names in self.references]

    def hits(self) -> list[bool]:
        return self._hits([[] if name is None else [name] for name in self.predictions])

    def _hits(self, candidates: list[list[Class]]) -> list[bool]:
        def plain(classes: list[Class]) -> set[Class]:
            return {tuple(name.strip().casefold() for name in names) for names in classes}

        return [bool(plain(c) & plain(r)) for c, r in zip(candidates, self.references, strict=True)]

    def measures(self) -> list[Measure]:
        top1, top5, mean = self.keys
        hits = self.hits()
        measures = [
            mean_measure(top1, hits, _CLASS),
            mean_class_measure(mean, hits, self.classes()),
        ]
        if self.rankings is not None:
            tops = self._hits([ranking[:5] for ranking in self.rankings])
            measures.append(mean_measure(top5, tops, f"first 5 of the ranking|{_CLASS}"))
        return measures


def _labels(pairs: PairedRows) -> _ClassResults:
    references: list[list[Class]] = [[(name,) for name in _label_names(row)] for row, _ in pairs]
    keys = ("accuracy", "top5", "mean_class_accuracy")
    rankings = _rankings(pairs, "ranking")
    return _ClassResults("label", keys, _predictions(pairs, "prediction"), rankings, references)


def _label_names(row: JsonRow) -> list[str]:
    if "label" in row:
        return [field(row, "label", is_text, "the name of a class")]
    return field(row, "references", is_texts, "a list of names of the class, or a label")


def _actions(pairs: PairedRows) -> list[_ClassResults]:
    """The results of verbs, of nouns and of the actions that are pairs of them."""
    given = {part: _predictions(pairs, part) for part in ("verb", "noun")}
    references: dict[str, list[Class]] = {
        part: [(field(row, part, is_text, "the name of a class"),) for row, _ in pairs]
        for part in given
    }
    rankings = {name: _rankings(pairs, f"{name}_ranking") for name in ("verb", "noun", "action")}
    actions = [v and n and v + n for v, n in zip(given["verb"], given["noun"], strict=True)]
    if rankings["action"] is not None:  # the best pair need not be the best verb and the best noun
        actions = [r[0] if r else a for r, a in zip(rankings["action"], actions, strict=True)]
    given["action"] = actions
    references["action"] = [
        v + n for v, n in zip(references["verb"], references["noun"], strict=True)
    ]
    return [
        _ClassResults(
            name,
            (f"{name}_top1", f"{name}_top5", f"{name}_mean_class_accuracy"),
            given[name],
            rankings[name],
            [[reference] for reference in references[name]],
        )
        for name in rankings
    ]


def _predictions(pairs: PairedRows, key: str) -> list[Class | None]:
    texts = [predicted(row, key, is_text, "the name of a class") for _, row in pairs]
    return [None if text is None else (text,) for text in texts]


def _rankings(pairs: PairedRows, key: str) -> list[list[Class]] | None:
    """The classes of every row's ranking; None when no row has one."""
    if not any(row and key in row for _, row in pairs):
        return None
    if key == "action_ranking":
        actions = [predicted(row, key, _are_actions, "[verb, noun] pairs") for _, row in pairs]
        return [[tuple(names) for names in ranking or ()] for ranking in actions]
    classes = [predicted(row, key, is_ranking, "distinct classes, best first") for _, row in pairs]
    return [[(name,) for name in ranking or ()] for ranking in classes]


def _are_actions(value: Any) -> bool:
    return isinstance(value, list) and all(is_texts(v) and len(v) == 2 for v in value)
