"""Submissions of EPIC-Kitchens-55, action recognition (the starter kit's page "Submission")."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vt_fairseq.candidates.probabilities import log_softmax
from vt_fairseq.corpora import epic_kitchens
from vt_fairseq.corpora.files import csv_records, require_file
from vt_fairseq.errors import UserError
from vt_fairseq.evaluation.submissions.files import SubmissionFile, known
from vt_fairseq.files.result_files import JsonRow, by_id, field, is_numbers, objects

TOP_ACTIONS = 100  # the server takes exactly so many action scores per clip
Classes = dict[str, dict[str, int]]  # "verb" and "noun": {readable name: class id}
ScoredActions = list[tuple[int, int, float]]  # verb id, noun id, score; best first


def epic_scores(annotations: Path, split: str, path: Path) -> SubmissionFile:
    """Scores of all verbs and nouns and of 100 actions for each segment; 0 for an unscored one.

    Actions are the row's own, or the pairs with the highest p(verb) p(noun).
    """
    classes = {
        kind: {name: k for k, name in enumerate(epic_kitchens.read_classes(annotations, kind))}
        for kind in epic_kitchens.CLASSES
    }
    source = epic_kitchens.PUBLISHED_AT
    test = require_file(annotations, epic_kitchens.TEST_FILES[split], source=source)
    ids = [record["uid"] for _, record in csv_records(test, ("uid",))]
    # Scores become arrays line by line: as Python numbers those of a split take 400 MB.
    rows = known(by_id(_scored(row, classes) for row in objects(path)), ids, split)
    missing = sum(uid not in rows or rows[uid]["unscored"] for uid in ids)
    return SubmissionFile(ids, missing, _pieces(ids, rows, classes))


def _pieces(ids: list[str], rows: dict[str, JsonRow], classes: Classes) -> Iterator[str]:
    nothing = {kind: np.zeros(len(names)) for kind, names in classes.items()}
    yield '{"version": "0.1", "challenge": "action_recognition", "results": {'
    for number, uid in enumerate(ids):
        row = rows.get(uid, nothing)
        actions = row.get("action") or _top_actions(row["verb"], row["noun"])
        result = {
            kind: {str(k): _rounded(score) for k, score in enumerate(row[kind])} for kind in classes
        }
        result["action"] = {f"{verb},{noun}": _rounded(score) for verb, noun, score in actions}
        scores = json.dumps(result, allow_nan=False)
        yield f"{', ' if number else ''}{json.dumps(uid, allow_nan=False)}: {scores}"
    yield "}}\n"


def _rounded(score: float) -> float:
    return round(float(score), 6)


def _top_actions(verbs: np.ndarray, nouns: np.ndarray) -> ScoredActions:
    """The likeliest pairs with log p(verb) + log p(noun), as the server itself would rank them."""
    scores = (log_softmax(verbs)[:, None] + log_softmax(nouns)).ravel()
    best = np.argpartition(-scores, min(TOP_ACTIONS, len(scores)) - 1)[:TOP_ACTIONS]
    best = best[np.argsort(-scores[best], kind="stable")]
    return [(int(k) // len(nouns), int(k) % len(nouns), scores[k]) for k in best]


# --- reading -------------------------------------------------------------------------------------


def _scored(row: JsonRow, classes: Classes) -> JsonRow:
    """``row`` with arrays of scores in the order of the class ids, and actions by class ids."""
    unscored = any(kind in row and row[kind] is None for kind in classes)
    scored = {key: row[key] for key in ("id", "_where") if key in row} | {"unscored": unscored}
    for kind, names in classes.items():
        scored[kind] = np.zeros(len(names)) if unscored else _scores(row, kind, names)
    if row.get("action") is not None:
        scored["action"] = _actions(row, classes)
    return scored


def _scores(row: JsonRow, kind: str, names: dict[str, int]) -> np.ndarray:
    value = row.get(kind)
    if isinstance(value, dict):
        if unknown := value.keys() - names.keys():
            raise UserError(f"{row['_where']}: {min(unknown)!r} is no {kind} class")
        row = {**row, kind: [value.get(name) for name in names]}
    what = f"a finite score for each of the {len(names)} {kind} classes"
    scores = field(row, kind, lambda v: _are_scores(v) and len(v) == len(names), what)
    return np.array(scores, dtype=np.float64)


def _actions(row: JsonRow, classes: Classes) -> ScoredActions:
    verbs, nouns = classes["verb"], classes["noun"]
    least = min(TOP_ACTIONS, len(verbs) * len(nouns))

    def is_action(value: Any) -> bool:
        match value:
            case [str(verb), str(noun), score]:
                return verb in verbs and noun in nouns and _are_scores([score])
        return False

    def valid(value: Any) -> bool:
        whole = isinstance(value, list) and all(map(is_action, value))
        return whole and len({(v, n) for v, n, _ in value}) == len(value) >= least

    what = f"at least {least} distinct lists of a verb class, a noun class and a score"
    best = sorted(field(row, "action", valid, what), key=lambda v: -v[2])[:TOP_ACTIONS]
    return [(verbs[verb], nouns[noun], score) for verb, noun, score in best]


def _are_scores(value: Any) -> bool:
    return is_numbers(value) and all(map(math.isfinite, value))
