"""What fairseq-generate leaves in ``--results-path`` for vt-evaluate and vt-report."""

import json
from collections.abc import Sequence
from pathlib import Path


class PredictionFiles:
    """predictions.jsonl and references.jsonl of a folder, one object a row in each."""

    def __init__(self, folder: Path):
        # Line-buffered: what is done is on disk when the run is interrupted.
        self._predictions, self._references = (
            open(folder / name, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
            for name in ("predictions.jsonl", "references.jsonl")
        )

    def write(
        self,
        clip_ids: Sequence[str],
        references: Sequence[Sequence[str]],
        texts: Sequence[str | None],
        scores: Sequence[float | None],
    ) -> None:
        """Append the rows of a batch; a text is None where the clip could not be read."""
        for clip_id, right, text, score in zip(clip_ids, references, texts, scores, strict=True):
            found = {"prediction": "", "missing": True}
            if text is not None:
                found = {"prediction": text, "score": score}
            self._write(self._predictions, {"id": clip_id, **found})
            self._write(self._references, {"id": clip_id, "references": right})

    @staticmethod
    def _write(file, record: dict) -> None:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
