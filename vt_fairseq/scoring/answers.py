"""Multiple choice: each row's own candidates."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vt_fairseq.candidates.probabilities import mean_prediction
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.metrics.captions import word_f1
from vt_fairseq.metrics.equal_texts import equal_candidates
from vt_fairseq.metrics.measure import per_cent
from vt_fairseq.scoring.records import ScoreRecord, as_line
from vt_fairseq.scoring.scorers import Prediction

PREDICTIONS = "predictions.jsonl"
MATCHES = ("exact", "overlap", "likelihood")


class MultipleChoice:
    """Records and results of ``vt-score vqa``."""

    candidates: Sequence[str] = ()

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Prediction]]) -> ScoreRecord:
        """``scores`` of the candidates; with generated answers also ``generated``, ``prediction``
        (index) and how it was matched, ``match``."""
        scores = mean_prediction(
            [mean_prediction([one.scores["scores"] for one in model]) for model in predictions]
        )
        record: ScoreRecord = {"id": row.id, "scores": scores.tolist()}
        generated = predictions[0][0].generated
        if generated is not None and len(scores):
            index, how = match(generated, row.candidates, scores)
            record |= {"generated": generated, "prediction": index, "match": how}
        return record

    def missing(self, row: ClipRow) -> ScoreRecord:
        """The record of a row whose clip could not be read."""
        return {"id": row.id, "scores": None}

    def finish(
        self, folder: Path, rows: Sequence[ClipRow], records: Iterable[ScoreRecord]
    ) -> dict[str, Any]:
        """Write predictions.jsonl; return the accuracy of the rows whose answer is known."""
        answered: list[tuple[int | None, int]] = []
        matches: Counter[str] = Counter()
        with atomic_file(folder / PREDICTIONS) as file:
            for row, record in zip(rows, records, strict=True):
                scores = record["scores"] or []
                best = record.get("prediction", int(np.argmax(scores)) if scores else None)
                file.write(as_line({"id": row.id, "prediction": best, "scores": scores}))
                if row.answer is not None:
                    answered.append((best, row.answer))
                if "match" in record:
                    matches[record["match"]] += 1
        metrics: dict[str, Any] = {}
        if answered:
            metrics["accuracy"] = per_cent([best == answer for best, answer in answered])
            missing = sum(best is None for best, _ in answered)
            metrics |= {"n": len(answered), "missing": missing}
        metrics |= equal_candidates(row.candidates for row in rows)
        if matches:
            metrics |= {f"matched_{how}": 100.0 * matches[how] / len(rows) for how in MATCHES}
        return metrics


def match(generated: str, candidates: Sequence[str], scores: np.ndarray) -> tuple[int, str]:
    """The index of the candidate that a generated answer stands for, and one of MATCHES.

    ``exact``: equal up to case, white space and punctuation at the ends of words. ``overlap``: else
    the one with the highest F1 of common words. ``likelihood``: no word in common with any. Among
    equals the likeliest by ``scores``, then the first.
    """
    words = _words(generated)
    overlaps = [word_f1(words, _words(text)) for text in candidates]
    equal = [k for k, text in enumerate(candidates) if _words(text) == words]
    highest = max(overlaps)
    how = "exact" if equal else "overlap" if highest > 0 else "likelihood"
    among = equal or [k for k, overlap in enumerate(overlaps) if overlap == highest]
    return max(among, key=lambda k: (scores[k], -k)), how


def _words(text: str) -> list[str]:
    stripped = (word.strip(".,;:!?'\"()") for word in text.casefold().split())
    return [word for word in stripped if word]
