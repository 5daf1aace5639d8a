"""Classification: labels, or verbs, nouns and the actions that are pairs of them.

An action is right when its verb and its noun are. Where the decoder ranks pairs, a verb's
probability is the sum over its pairs; where verbs and nouns are ranked apart, a pair's is the
product, normalized over the pairs that can be an action. Scores are natural logarithms.

Shapes: K candidates, V verbs, N nouns, P pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vt_fairseq.candidates.probabilities import log_softmax, mean_prediction
from vt_fairseq.candidates.top_k import Top
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.metrics.classification import per_class_accuracy, rank_accuracy
from vt_fairseq.metrics.retrieval import target_ranks
from vt_fairseq.scoring.records import ScoreRecord, as_line
from vt_fairseq.scoring.scorers import Prediction

PREDICTIONS, CLASSES = "predictions.jsonl", "classes.jsonl"
SHOWN = 5  # of a ranking in predictions.jsonl
KEPT_ACTIONS = 100  # actions of a record; EPIC-Kitchens' server takes as many
IMPOSSIBLE = -1e6  # stands for the logarithm of 0, which JSON has none of
NO_RANK = np.iinfo(np.int64).max  # of a class that is none of the candidates


@dataclass(frozen=True)
class CorrectClass:
    """The correct class of a head.

    Attributes:
        name: None where the row does not say.
        index: among the candidates; None where it is none of them.
    """

    name: str | None
    index: int | None

    def rank(self, scores: np.ndarray) -> int | None:
        """Rank among the (K,) ``scores``, from 1; it loses every tie. None without an index."""
        return None if self.index is None else int(target_ranks(scores[None], [self.index])[0])

    def rank_in(self, top: Top) -> int | None:
        """As ``rank``, among the best candidates; None when it is none of them."""
        at = np.flatnonzero(top.candidates == self.index)
        return int((top.scores >= top.scores[at[0]]).sum()) if len(at) else None


class LabelClassification:
    """Records and results of ``--targets label``.

    Args:
        labels: the candidates.
        top_k: the scores of so many are known; None: of all.
    """

    def __init__(self, labels: Sequence[str], top_k: int | None = None):
        self.top_k = top_k
        self.candidates: Sequence[str] = list(labels)
        self.index: dict[str | None, int] = {name: k for k, name in enumerate(labels)}

    def check(self, rows: Sequence[ClipRow]) -> None:
        """Raise UserError when rows have labels that are no candidates."""
        unknown = sorted({r.label for r in rows if r.label is not None} - self.index.keys())
        if unknown:
            raise UserError(
                f"{len(unknown)} labels of the split are no candidates, for instance {unknown[0]!r}"
            )

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Prediction]]) -> ScoreRecord:
        """``scores`` of all labels, or ``top``: [label, score] of the best; ``ranks``."""
        first, targets = predictions[0][0], self.targets(row)
        target = targets["label"]
        if first.top is not None:
            scores = zip(first.top.candidates, first.top.scores.tolist(), strict=True)
            top = [[self.candidates[k], score] for k, score in scores]
            known: ScoreRecord = {"top": top}
            rank = target.rank_in(first.top)
        else:
            mean = mean_prediction(
                [mean_prediction([one.scores["scores"] for one in model]) for model in predictions]
            )
            known, rank = {"scores": mean.tolist()}, target.rank(mean)
        ranks = _known_ranks(targets, {"label": rank})
        return {"id": row.id} | known | ranks | _captions(predictions)

    def missing(self, row: ClipRow) -> ScoreRecord:
        """The record of a row whose clip could not be read."""
        ranks = _known_ranks(self.targets(row), {"label": None})
        return {"id": row.id, "scores": None} | ranks

    def finish(
        self, folder: Path, rows: Sequence[ClipRow], records: Iterable[ScoreRecord]
    ) -> dict[str, Any]:
        """Write predictions.jsonl and classes.jsonl; return the metrics."""
        metrics = _write_results(self, {"label": ""}, folder, rows, records)
        return ({"accuracy": metrics["top1"]} if "top1" in metrics else {}) | metrics

    def targets(self, row: ClipRow) -> dict[str, CorrectClass]:
        """The right label."""
        return {"label": CorrectClass(row.label, self.index.get(row.label))}

    def prediction(self, record: ScoreRecord) -> dict[str, Any]:
        """What predictions.jsonl says of a row."""
        if "top" in record:
            ranking = [label for label, _ in record["top"]][:SHOWN]
        else:
            ranking = _best(self.candidates, record["scores"])
        return {"prediction": ranking[0] if ranking else None, "ranking": ranking}


@dataclass(frozen=True)
class VerbNounPairs:
    """Verb-noun pairs that can be an action.

    Attributes:
        verbs, nouns: (V,) and (N,) names of the classes.
        verb_of, noun_of: (P,) int64 class indices of each pair; all pairs are different.
    """

    verbs: Sequence[str]
    nouns: Sequence[str]
    verb_of: np.ndarray
    noun_of: np.ndarray

    @classmethod
    def every(cls, verbs: Sequence[str], nouns: Sequence[str]) -> "VerbNounPairs":
        """All V * N."""
        verb_of, noun_of = np.divmod(np.arange(len(verbs) * len(nouns)), max(1, len(nouns)))
        return cls(verbs, nouns, verb_of, noun_of)

    @classmethod
    def of_rows(
        cls,
        verbs: Sequence[str],
        nouns: Sequence[str],
        rows: Iterable[tuple[str | None, str | None]],
    ) -> "VerbNounPairs":
        """Those that ``rows``, pairs of names, have, once each in the order of the classes."""
        verb, noun = ({name: k for k, name in enumerate(names)} for names in (verbs, nouns))
        pairs = sorted({(verb[v], noun[n]) for v, n in rows if v in verb and n in noun})
        verb_of, noun_of = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(verbs, nouns, verb_of, noun_of)

    def __len__(self) -> int:
        return len(self.verb_of)

    def names(self, pair: int) -> tuple[str, str]:
        """Verb and noun of one pair."""
        return self.verbs[self.verb_of[pair]], self.nouns[self.noun_of[pair]]

    def texts(self) -> list[str]:
        """Each pair as a candidate: the verb, then the noun."""
        return [" ".join(self.names(pair)) for pair in range(len(self))]

    def verb_scores(self, scores: np.ndarray) -> np.ndarray:
        """(P,) -> (V,): log of the sum of exp over each verb's pairs; -inf where it has none."""
        return _grouped_sums(scores, self.verb_of, len(self.verbs))

    def noun_scores(self, scores: np.ndarray) -> np.ndarray:
        """(P,) -> (N,), as ``verb_scores``."""
        return _grouped_sums(scores, self.noun_of, len(self.nouns))

    def product(self, verb_scores: np.ndarray, noun_scores: np.ndarray) -> np.ndarray:
        """(V,), (N,) -> (P,): log of p(verb) p(noun), normalized over these pairs."""
        verbs, nouns = log_softmax(verb_scores), log_softmax(noun_scores)
        return log_softmax(verbs[self.verb_of] + nouns[self.noun_of])


class VerbNounClassification:
    """Records and results of verbs, nouns and actions.

    Args:
        pairs: the classes, and which of their pairs can be an action.
        parts: which of "verb" and "noun" are wanted; with both there are actions.
        top_k: the scores of so many actions are known, and nothing else; None: all scores.
    """

    def __init__(self, pairs: VerbNounPairs, parts: Sequence[str], top_k: int | None = None):
        self.top_k = top_k
        self.pairs = pairs
        self.candidates: Sequence[str] = pairs.texts()
        self.names = {"verb": list(pairs.verbs), "noun": list(pairs.nouns)}
        self.parts = list(parts)
        self.heads = [*self.parts, *(["action"] if len(self.parts) == 2 else [])]
        self.index: dict[str, dict[str | None, int]] = {
            part: {name: k for k, name in enumerate(names)} for part, names in self.names.items()
        }
        both = zip(pairs.verb_of.tolist(), pairs.noun_of.tolist(), strict=True)
        self.pair_index = {pair: k for k, pair in enumerate(both)}

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Prediction]]) -> ScoreRecord:
        """``verb`` and ``noun``: scores of all classes in their order; ``action``: [verb, noun,
        score] of the best ``KEPT_ACTIONS``; ``ranks`` of the right ones, null for no candidate."""
        targets, top = self.targets(row), predictions[0][0].top
        if top is not None:
            ranks = _known_ranks(targets, {"action": targets["action"].rank_in(top)})
            best = self._actions(top.candidates, top.scores)
            return {"id": row.id, "action": best} | ranks | _captions(predictions)
        by_model = [
            self.distributions(
                {k: mean_prediction([one.scores[k] for one in model]) for k in model[0].scores}
            )
            for model in predictions
        ]
        scores = {head: mean_prediction([own[head] for own in by_model]) for head in self.heads}
        record: ScoreRecord = {"id": row.id}
        for part in self.parts:
            record[part] = np.maximum(scores[part], IMPOSSIBLE).tolist()
        if "action" in scores:
            order = np.argsort(-scores["action"], kind="stable")[:KEPT_ACTIONS]
            record["action"] = self._actions(order, scores["action"][order])
        ranks = {head: targets[head].rank(scores[head]) for head in self.heads}
        return record | _known_ranks(targets, ranks) | _captions(predictions)

    def distributions(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Scores of verbs, nouns and actions from those of pairs, or of verbs and nouns."""
        if "action" in scores:
            action = scores["action"]
            verbs, nouns = self.pairs.verb_scores(action), self.pairs.noun_scores(action)
            return {"verb": verbs, "noun": nouns, "action": action}
        wanted = {part: scores[part] for part in self.parts}
        if len(wanted) == 2:
            wanted["action"] = self.pairs.product(wanted["verb"], wanted["noun"])
        return wanted

    def missing(self, row: ClipRow) -> ScoreRecord:
        """The record of a row whose clip could not be read."""
        heads = self.heads if self.top_k is None else ["action"]
        nothing: dict[str, None] = dict.fromkeys(heads)
        return {"id": row.id, **nothing} | _known_ranks(self.targets(row), nothing)

    def finish(
        self, folder: Path, rows: Sequence[ClipRow], records: Iterable[ScoreRecord]
    ) -> dict[str, Any]:
        """Write predictions.jsonl and classes.jsonl; return the metrics."""
        prefixes = {head: f"{head}_" for head in self.heads}
        return _write_results(self, prefixes, folder, rows, records)

    def prediction(self, record: ScoreRecord) -> dict[str, Any]:
        """What predictions.jsonl says of a row."""
        actions = [[verb, noun] for verb, noun, _ in record.get("action") or []]
        prediction: dict[str, Any] = {}
        for column, part in enumerate(self.parts):
            if part in record:
                ranking = _best(self.names[part], record[part])
                prediction |= {part: ranking[0] if ranking else None, f"{part}_ranking": ranking}
            else:  # the best actions alone are known
                prediction[part] = actions[0][column] if actions else None
        return prediction | ({"action_ranking": actions[:SHOWN]} if "action" in self.heads else {})

    def targets(self, row: ClipRow) -> dict[str, CorrectClass]:
        """The correct verb, noun and action."""
        verb = CorrectClass(row.verb, self.index["verb"].get(row.verb))
        noun = CorrectClass(row.noun, self.index["noun"].get(row.noun))
        known = row.verb is not None and row.noun is not None
        pair = self.pair_index.get((verb.index, noun.index))
        action = CorrectClass(f"{row.verb} {row.noun}" if known else None, pair)
        return {"verb": verb, "noun": noun, "action": action}

    def _actions(self, pairs: Iterable[int], scores: Iterable[float]) -> list[list]:
        return [
            [*self.pairs.names(pair), float(score)]
            for pair, score in zip(pairs, scores, strict=True)
        ]


def _write_results(
    task: LabelClassification | VerbNounClassification,
    prefixes: Mapping[str, str],
    folder: Path,
    rows: Sequence[ClipRow],
    records: Iterable[ScoreRecord],
) -> dict[str, Any]:
    """Write predictions.jsonl, and classes.jsonl with the accuracy of each class.

    Returns the metrics; ``prefixes`` are those of each head's keys.
    """
    # Of each head: the right class, its rank, and whether the clip could not be read.
    ranked: dict[str, list[tuple[CorrectClass, int | None, bool]]] = {head: [] for head in prefixes}
    with atomic_file(folder / PREDICTIONS) as file:
        for row, record in zip(rows, records, strict=True):
            targets = task.targets(row)
            for head, rank in record["ranks"].items():
                ranked[head].append((targets[head], rank, None in record.values()))
            file.write(as_line({"id": row.id} | task.prediction(record)))
    metrics: dict[str, Any] = {}
    totals: dict[str, int] = {}
    with atomic_file(folder / CLASSES) as file:
        for head, of_head in ranked.items():
            if not of_head:
                continue
            classes = [str(target.name) for target, _, _ in of_head]
            ranks = np.array([NO_RANK if rank is None else rank for _, rank, _ in of_head])
            file.writelines(map(as_line, per_class_accuracy(head, ranks == 1, classes)))
            prefix, accuracies = prefixes[head], rank_accuracy(ranks, classes)
            if task.top_k is not None and task.top_k < 5:
                del accuracies["top5"]
            metrics |= {prefix + key: value for key, value in accuracies.items()}
            if unknown := sum(target.index is None for target, _, _ in of_head):
                metrics[f"{prefix}not_a_candidate"] = unknown
            totals = {"n": len(of_head), "missing": sum(unread for _, _, unread in of_head)}
    return metrics | totals


def _known_ranks(
    targets: Mapping[str, CorrectClass], ranks: Mapping[str, int | None]
) -> ScoreRecord:
    known = {head: rank for head, rank in ranks.items() if targets[head].name is not None}
    return {"ranks": known}


def _captions(predictions: Sequence[Sequence[Prediction]]) -> ScoreRecord:
    captions = [one.caption for one in predictions[0] if one.caption is not None]
    return {"captions": captions} if captions else {}


def _best(names: Sequence[str], scores: Sequence[float] | None) -> list[str]:
    if scores is None:
        return []
    return [names[k] for k in np.argsort(-np.array(scores), kind="stable")[:SHOWN]]


def _grouped_sums(scores: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    sums = np.full(count, -np.inf)
    np.logaddexp.at(sums, group, scores)
    return sums
