"""Multiple choice: each row's own candidates."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.metrics.classification import accuracy
from vt_fairseq.scoring.distributions import averaged
from vt_fairseq.scoring.records import Record, write_lines
from vt_fairseq.scoring.scorers import Found

PREDICTIONS = "predictions.jsonl"


class Answers:
    """Records and results of ``vt-score vqa``."""

    candidates: Sequence[str] = ()

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Found]]) -> Record:
        """``scores`` of the candidates; with generated answers also ``generated``, ``prediction``
        (index) and how it was found, ``match``.

        ``predictions`` has for each model what it found in each window.
        """
        by_model = [averaged([found["scores"] for found in windows]) for windows in predictions]
        scores = averaged(by_model)
        record: Record = {"id": row.id, "scores": scores.tolist()}
        first = predictions[0][0]
        if "generated" in first and len(scores):
            chosen, how = match(first["generated"], row.candidates, scores)
            record |= {"generated": first["generated"], "prediction": chosen, "match": how}
        return record

    def missing(self, row: ClipRow) -> Record:
        """The record of a row whose clip could not be read."""
        return {"id": row.id, "scores": None}

    def finish(self, folder: Path, rows: Sequence[ClipRow], records: Iterable[Record]) -> dict:
        """Write predictions.jsonl; return the accuracy of the rows whose answer is known."""
        chosen: list[int | None] = []
        answers: list[int | None] = []
        how: Counter = Counter()

        def predictions():
            for row, record in zip(rows, records, strict=True):
                scores = record["scores"]
                best = int(np.argmax(scores)) if scores else None
                chosen.append(record.get("prediction", best))
                answers.append(row.answer)
                how[record.get("match")] += 1
                yield {"id": row.id, "prediction": chosen[-1], "scores": scores or []}

        write_lines(folder / PREDICTIONS, predictions())
        known = [(c, a) for c, a in zip(chosen, answers, strict=True) if a is not None]
        metrics: dict[str, Any] = accuracy(*zip(*known, strict=True)) if known else {}
        if how["exact"] or how["overlap"] or how["likelihood"]:
            metrics |= {f"matched_{k}": 100.0 * how[k] / len(rows) for k in MATCHES}
        return metrics


MATCHES = ("exact", "overlap", "likelihood")


def match(generated: str, candidates: Sequence[str], scores: np.ndarray) -> tuple[int, str]:
    """The candidate that a generated answer stands for, and how that was seen.

    ``exact``: equal up to case, white space and punctuation at the ends of words. ``overlap``: else
    the one with the highest F1 of common words. ``likelihood``: no word in common with any. Among
    equals the likeliest by ``scores``, then the first.
    """
    words = _words(generated)
    overlaps = [_f1(words, _words(text)) for text in candidates]
    equal = [k for k, text in enumerate(candidates) if _words(text) == words]
    best = max(overlaps)
    how = "exact" if equal else "overlap" if best > 0 else "likelihood"
    among = equal or [k for k, overlap in enumerate(overlaps) if overlap == best]
    return max(among, key=lambda k: (scores[k], -k)), how


def _words(text: str) -> list[str]:
    stripped = (word.strip(".,;:!?'\"()") for word in text.casefold().split())
    return [word for word in stripped if word]


def _f1(one: list[str], other: list[str]) -> float:
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / max(1, len(one) + len(other))
