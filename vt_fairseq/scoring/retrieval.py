"""Retrieval: the likelihood of every row's first caption under every row's clip.

Shapes: N rows; the matrix (N, N) has one row per clip and one column per caption.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vt_fairseq.candidates.probabilities import mean_likelihood
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.metrics.equal_texts import equal_captions
from vt_fairseq.metrics.measure import values
from vt_fairseq.metrics.retrieval import rank_statistics, recall_measure
from vt_fairseq.scoring.records import ScoreRecord, as_line
from vt_fairseq.scoring.scorers import Prediction

PREDICTIONS, V2T_PREDICTIONS = "predictions.jsonl", "v2t_predictions.jsonl"
BLOCK_ENTRIES = 1 << 22  # of the matrix, in memory: 32 MiB


class Retrieval:
    """Records and results of ``vt-score retrieval``."""

    candidates: Sequence[str] = ()

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Prediction]]) -> ScoreRecord:
        """``scores``: every caption's under this clip. Of several windows the likelihoods are
        averaged, not normalized over the captions: clips are compared with one another."""
        windows = [one.scores["scores"] for one in predictions[0]]
        scores = windows[0] if len(windows) == 1 else mean_likelihood(windows)
        return {"id": row.id, "scores": scores.tolist()}

    def missing(self, row: ClipRow) -> ScoreRecord:
        """The record of a row whose clip could not be read."""
        return {"id": row.id, "scores": None}

    def finish(
        self, folder: Path, rows: Sequence[ClipRow], records: Iterable[ScoreRecord]
    ) -> dict[str, Any]:
        """Write the rankings of clips for each caption (predictions.jsonl) and of captions for each
        clip (v2t_predictions.jsonl); return recall both ways.

        The matrix lies in a temporary file; a clip that could not be read comes last.
        """
        ids = [row.id for row in rows]
        equal = equal_captions(text for row in rows for text in row.captions[:1])
        missing = 0
        with tempfile.TemporaryFile(dir=folder) as file:
            matrix = np.memmap(file, dtype=np.float64, shape=(len(ids), len(ids)))
            for index, record in enumerate(records):
                missing += record["scores"] is None
                matrix[index] = -np.inf if record["scores"] is None else record["scores"]
            metrics = _write_rankings(folder / PREDICTIONS, matrix.T, ids) | {"n": len(ids)}
            v2t = _write_rankings(folder / V2T_PREDICTIONS, matrix, ids)
        metrics |= {f"v2t_{k}": value for k, value in v2t.items()} | {"missing": missing}
        return metrics | equal


def _write_rankings(path: Path, scores: np.ndarray, ids: Sequence[str]) -> dict[str, float]:
    """Write for each row of (N, N) ``scores`` the ids of its columns, best first; its recall.

    The target of row q is column q and comes last among equals.
    """
    columns = np.arange(len(ids))
    step = max(1, BLOCK_ENTRIES // len(ids))
    blocks = []
    with atomic_file(path) as file:
        for start in range(0, len(ids), step):
            block, targets = np.array(scores[start : start + step]), columns[start : start + step]
            blocks.append(rank_statistics(block, targets))
            for row, target in zip(block, targets, strict=True):
                order = np.lexsort((columns == target, -row))
                file.write(as_line({"id": ids[target], "ranking": [ids[k] for k in order]}))
    return values([recall_measure(np.concatenate(blocks))])
