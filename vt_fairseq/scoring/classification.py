"""Classification: labels, or verbs, nouns and the actions that are pairs of them.

An action is right when its verb and its noun are. Where the decoder ranks pairs, a verb's
probability is the sum over its pairs; where verbs and nouns are ranked apart, a pair's is the
product, normalized over the pairs that can be an action.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vt_fairseq.candidates.top_k import Top
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.metrics.classification import per_class_accuracy, rank_accuracy
from vt_fairseq.metrics.retrieval import target_ranks
from vt_fairseq.scoring.distributions import Pairs, averaged
from vt_fairseq.scoring.records import Record, write_lines
from vt_fairseq.scoring.scorers import Found

PREDICTIONS, CLASSES = "predictions.jsonl", "classes.jsonl"
SHOWN = 5  # of a ranking in predictions.jsonl
KEPT_ACTIONS = 100  # actions of a record; EPIC-Kitchens' server takes as many
IMPOSSIBLE = -1e6  # stands for the logarithm of 0, which JSON has none of
NO_RANK = np.iinfo(np.int64).max  # of a class that is none of the candidates


class Labels:
    """Records and results of ``--targets label``; ``labels`` are the candidates."""

    def __init__(self, labels: Sequence[str], top_k: int | None = None):
        """``top_k``: the scores of so many are known, or of all."""
        self.top_k = top_k
        self.labels = list(labels)
        self.candidates = self.labels
        self.number = {label: k for k, label in enumerate(self.labels)}

    def check(self, rows: Sequence[ClipRow]) -> None:
        """Raise UserError when rows have labels that are no candidates."""
        unknown = sorted({r.label for r in rows if r.label is not None} - self.number.keys())
        if unknown:
            raise UserError(
                f"{len(unknown)} labels of the split are no candidates, for instance {unknown[0]!r}"
            )

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Found]]) -> Record:
        """``scores`` of all labels, or ``top``: [label, score] of the best; ``ranks``."""
        first = predictions[0][0]["scores"]
        target = self.number.get(row.label)
        if isinstance(first, Top):
            names = [self.labels[k] for k in first.candidates]
            record = {"id": row.id, "top": _listed(names, first.scores)}
            rank = rank_in_top(first, target)
        else:
            scores = averaged([averaged([f["scores"] for f in windows]) for windows in predictions])
            record = {"id": row.id, "scores": scores.tolist()}
            rank = rank_of(scores, target)
        return record | _ranks({"label": (row.label, rank)}) | _captions(predictions)

    def missing(self, row: ClipRow) -> Record:
        """The record of a row whose clip could not be read."""
        return {"id": row.id, "scores": None} | _ranks({"label": (row.label, None)})

    def finish(self, folder: Path, rows: Sequence[ClipRow], records: Iterable[Record]) -> dict:
        """Write predictions.jsonl and classes.jsonl; return the metrics."""
        results = Results({"label": ""}, self.top_k)

        def predictions() -> Iterator[Record]:
            for row, record in zip(rows, records, strict=True):
                results.add({"label": (row.label, self.number.get(row.label))}, record)
                ranking = self._ranking(record)
                best = ranking[0] if ranking else None
                yield {"id": row.id, "prediction": best, "ranking": ranking[:SHOWN]}

        write_lines(folder / PREDICTIONS, predictions())
        metrics = results.finish(folder)
        return ({"accuracy": metrics["top1"]} if "top1" in metrics else {}) | metrics

    def _ranking(self, record: Record) -> list[str]:
        if "top" in record:
            return [label for label, _ in record["top"]]
        return _best(self.labels, record["scores"])


class Actions:
    """Records and results of verbs, nouns and actions.

    Args:
        pairs: the classes, and which of their pairs can be an action.
        parts: which of "verb" and "noun" are wanted; with both there are actions.
        top_k: the scores of so many actions are known, and nothing else, or all scores.
    """

    def __init__(self, pairs: Pairs, parts: Sequence[str], top_k: int | None = None):
        self.top_k = top_k
        self.pairs = pairs
        self.candidates = pairs.texts()
        self.names = {"verb": list(pairs.verbs), "noun": list(pairs.nouns)}
        self.parts = list(parts)
        self.heads = [*self.parts, *(["action"] if len(self.parts) == 2 else [])]
        self.number = {p: {n: k for k, n in enumerate(self.names[p])} for p in self.names}
        self.pair = {
            pair: k
            for k, pair in enumerate(
                zip(pairs.verb_of.tolist(), pairs.noun_of.tolist(), strict=True)
            )
        }

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Found]]) -> Record:
        """``verb`` and ``noun``: scores of all classes in their order; ``action``: [verb, noun,
        score] of the best ``KEPT_ACTIONS``; ``ranks`` of the right ones, null for no candidate."""
        first = predictions[0][0].get("action")
        if isinstance(first, Top):
            return self._top_record(row, first)
        by_model = [
            self.distributions({key: averaged([f[key] for f in windows]) for key in _keys(windows)})
            for windows in predictions
        ]
        scores = {head: averaged([found[head] for found in by_model]) for head in self.heads}
        targets = self._targets(row)
        ranks = {
            head: (targets[head][0], rank_of(scores[head], targets[head][1])) for head in scores
        }
        record: Record = {"id": row.id}
        for part in self.parts:
            record[part] = np.maximum(scores[part], IMPOSSIBLE).tolist()
        if "action" in scores:
            best = np.argsort(-scores["action"], kind="stable")[:KEPT_ACTIONS]
            record["action"] = self._actions(best, scores["action"][best])
        return record | _ranks(ranks) | _captions(predictions)

    def distributions(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Scores of verbs, nouns and actions from those of pairs, or of verbs and nouns."""
        if "action" in scores:
            of_pairs = scores["action"]
            return {
                "verb": self.pairs.verb_scores(of_pairs),
                "noun": self.pairs.noun_scores(of_pairs),
                "action": of_pairs,
            }
        found = {part: scores[part] for part in self.parts}
        if len(found) == 2:
            found["action"] = self.pairs.product(found["verb"], found["noun"])
        return found

    def missing(self, row: ClipRow) -> Record:
        """The record of a row whose clip could not be read."""
        targets = self._targets(row)
        known = self.heads if self.top_k is None else ["action"]
        return {
            "id": row.id,
            **dict.fromkeys(known),
            **_ranks({head: (targets[head][0], None) for head in known}),
        }

    def finish(self, folder: Path, rows: Sequence[ClipRow], records: Iterable[Record]) -> dict:
        """Write predictions.jsonl and classes.jsonl; return the metrics."""
        results = Results({head: f"{head}_" for head in self.heads}, self.top_k)

        def predictions() -> Iterator[Record]:
            for row, record in zip(rows, records, strict=True):
                results.add(self._targets(row), record)
                yield {"id": row.id} | self._prediction(record)

        write_lines(folder / PREDICTIONS, predictions())
        return results.finish(folder)

    def _top_record(self, row: ClipRow, top: Top) -> Record:
        name, target = self._targets(row)["action"]
        rank = rank_in_top(top, target)
        return {
            "id": row.id,
            "action": self._actions(top.candidates, top.scores),
            **_ranks({"action": (name, rank)}),
        }

    def _prediction(self, record: Record) -> Record:
        actions = [[verb, noun] for verb, noun, _ in record.get("action") or []]
        found: Record = {}
        for place, part in enumerate(self.parts):
            if part in record:
                ranking = _best(self.names[part], record[part])
                found |= {part: ranking[0] if ranking else None, f"{part}_ranking": ranking}
            else:  # the best actions alone are known
                found[part] = actions[0][place] if actions else None
        return found | ({"action_ranking": actions[:SHOWN]} if "action" in self.heads else {})

    def _targets(self, row: ClipRow) -> dict[str, tuple[str | None, int | None]]:
        """Name and number of each head's right class; (None, None) where it is not known."""
        found: dict[str, tuple[str | None, int | None]] = {}
        for part, name in (("verb", row.verb), ("noun", row.noun)):
            found[part] = name, None if name is None else self.number[part].get(name)
        numbers = found["verb"][1], found["noun"][1]
        known = row.verb is not None and row.noun is not None
        found["action"] = f"{row.verb} {row.noun}" if known else None, self.pair.get(numbers)
        return found

    def _actions(self, pairs: Sequence[int], scores: Sequence[float]) -> list[list]:
        return [
            [*self.pairs.names(pair), float(score)]
            for pair, score in zip(pairs, scores, strict=True)
        ]


class Results:
    """Ranks of the right classes, head by head, to metrics.

    Args:
        prefixes: of each head's keys in metrics.json.
        top_k: ranks beyond it are not known; None: all are.
    """

    def __init__(self, prefixes: Mapping[str, str], top_k: int | None = None):
        self.prefixes = dict(prefixes)
        self.top_k = top_k
        self.ranks: dict[str, list[int]] = {head: [] for head in prefixes}
        self.classes: dict[str, list[str]] = {head: [] for head in prefixes}
        self.unread = dict.fromkeys(prefixes, 0)
        self.no_candidates = dict.fromkeys(prefixes, 0)

    def add(self, targets: Mapping[str, tuple[str | None, int | None]], record: Record) -> None:
        """Take in one row: of each head the right class's name and its number among the candidates.

        Heads whose right class is not known (no name) are left out.
        """
        for head, rank in record["ranks"].items():
            name, number = targets[head]
            self.ranks[head].append(NO_RANK if rank is None else rank)
            self.classes[head].append(name)
            self.unread[head] += None in record.values()
            self.no_candidates[head] += number is None

    def finish(self, folder: Path) -> dict[str, Any]:
        """Write classes.jsonl, the accuracy of each class; return all metrics."""
        known = [head for head, ranks in self.ranks.items() if ranks]
        write_lines(folder / CLASSES, (line for head in known for line in self._of_classes(head)))
        metrics: dict[str, Any] = {}
        for head in known:
            found = rank_accuracy(np.array(self.ranks[head]), self.classes[head])
            if self.top_k is not None and self.top_k < 5:
                del found["top5"]
            metrics |= {self.prefixes[head] + key: value for key, value in found.items()}
            if self.no_candidates[head]:
                metrics[f"{self.prefixes[head]}not_a_candidate"] = self.no_candidates[head]
        if known:
            metrics |= {"n": len(self.ranks[known[-1]]), "missing": self.unread[known[-1]]}
        return metrics

    def _of_classes(self, head: str) -> Iterator[Record]:
        right = [rank == 1 for rank in self.ranks[head]]
        for name, (accuracy, n) in per_class_accuracy(right, self.classes[head]).items():
            yield {"of": head, "class": name, "accuracy": accuracy, "n": n}


def rank_of(scores: np.ndarray, target: int | None) -> int | None:
    """Rank of the target, from 1; it loses every tie. None without one."""
    return None if target is None else int(target_ranks(scores[None], [target])[0])


def rank_in_top(top: Top, target: int | None) -> int | None:
    """As ``rank_of``, of those in ``top``; None when it is not among them."""
    place = np.flatnonzero(top.candidates == target)
    return int((top.scores >= top.scores[place[0]]).sum()) if len(place) else None


def _ranks(ranks: Mapping[str, tuple[str | None, int | None]]) -> Record:
    return {"ranks": {head: rank for head, (name, rank) in ranks.items() if name is not None}}


def _captions(predictions: Sequence[Sequence[Found]]) -> Record:
    captions = [found["caption"] for found in predictions[0] if "caption" in found]
    return {"captions": captions} if captions else {}


def _keys(windows: Sequence[Found]) -> list[str]:
    return [key for key, value in windows[0].items() if isinstance(value, np.ndarray)]


def _listed(names: Sequence[str], scores: np.ndarray) -> list[list]:
    return [[name, score] for name, score in zip(names, scores.tolist(), strict=True)]


def _best(names: Sequence[str], scores: Sequence[float] | None) -> list[str]:
    if scores is None:
        return []
    return [names[k] for k in np.argsort(-np.array(scores), kind="stable")[:SHOWN]]
