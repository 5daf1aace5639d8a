"""Retrieval: the likelihood of every row's first caption under every row's clip.

Shapes: N rows; the matrix (N, N) has a row a clip and a column a caption.
"""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.metrics.measure import numbers
from vt_fairseq.metrics.retrieval import rank_statistics, recall_measure
from vt_fairseq.scoring.distributions import mean_likelihood
from vt_fairseq.scoring.records import Record, write_lines
from vt_fairseq.scoring.scorers import Found

PREDICTIONS, V2T_PREDICTIONS = "predictions.jsonl", "v2t_predictions.jsonl"
ENTRIES_AT_ONCE = 1 << 22  # of the matrix, in memory: 32 MiB


class Retrieval:
    """Records and results of ``vt-score retrieval``."""

    candidates: Sequence[str] = ()

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Found]]) -> Record:
        """``scores``: every caption's under this clip. Of several windows the likelihoods are
        averaged, not normalized over the captions: clips are compared with one another."""
        windows = [found["scores"] for found in predictions[0]]
        scores = windows[0] if len(windows) == 1 else mean_likelihood(windows)
        return {"id": row.id, "scores": scores.tolist()}

    def missing(self, row: ClipRow) -> Record:
        """The record of a row whose clip could not be read."""
        return {"id": row.id, "scores": None}

    def finish(self, folder: Path, rows: Sequence[ClipRow], records: Iterable[Record]) -> dict:
        """Write the rankings of clips for each caption (predictions.jsonl) and of captions for each
        clip (v2t_predictions.jsonl); return recall both ways.

        The matrix lies in a temporary file; a clip that could not be read comes last.
        """
        ids = [row.id for row in rows]
        with tempfile.TemporaryFile(dir=folder) as file:
            matrix = np.memmap(file, dtype=np.float64, shape=(len(ids), len(ids)))
            missing = 0
            for number, record in enumerate(records):
                missing += record["scores"] is None
                matrix[number] = -np.inf if record["scores"] is None else record["scores"]
            metrics = _both_ways(matrix, ids, folder)
        return metrics | {"missing": missing}


def _both_ways(matrix: np.ndarray, ids: Sequence[str], folder: Path) -> dict:
    texts = _ranked(folder / PREDICTIONS, matrix.T, ids)
    videos = _ranked(folder / V2T_PREDICTIONS, matrix, ids)
    return texts | {"n": len(ids)} | {f"v2t_{key}": value for key, value in videos.items()}


def _ranked(path: Path, scores: np.ndarray, ids: Sequence[str]) -> dict:
    """Write for each row of (N, N) ``scores`` the ids of its columns, best first; its recall.

    The target of row q is column q and comes last of equals.
    """
    places = []

    def rankings() -> Iterator[Record]:
        step = max(1, ENTRIES_AT_ONCE // len(ids))
        for start in range(0, len(ids), step):
            block = np.array(scores[start : start + step])
            targets = np.arange(start, start + len(block))
            places.append(rank_statistics(block, targets))
            for row, target in zip(block, targets, strict=True):
                order = np.lexsort((np.arange(len(ids)) == target, -row))
                yield {"id": ids[target], "ranking": [ids[k] for k in order]}

    write_lines(path, rankings())
    return numbers([recall_measure(np.concatenate(places))])
