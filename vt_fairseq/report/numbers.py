"""Numbers of results that have no metrics.json: those that take no toolkit and no options."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError
from vt_fairseq.evaluation import tasks
from vt_fairseq.evaluation.tasks import Evaluated
from vt_fairseq.files.result_files import JsonRow, PairedRows, pair, read
from vt_fairseq.metrics import measure

# Not of retrieval: its rankings name every clip, and may be more than memory holds.
EVALUATE: dict[str, Callable[[PairedRows], Evaluated]] = {
    "captions": partial(tasks.captions, tokenizer="off"),
    "vqa": tasks.vqa,
    "classify": tasks.classify,
}


def computed(kind: str, predictions: Path, references: dict[str, JsonRow]) -> dict[str, Any]:
    """What ``vt-evaluate --coco off`` writes; {} where the files do not go together.

    Args:
        kind: of the results.
        predictions: the file.
        references: of references.jsonl, by id; none where there is no such file.
    """
    if not references or kind not in EVALUATE:
        return {}
    try:
        evaluated = EVALUATE[kind](pair(read(predictions), references, "references.jsonl"))
    except UserError:  # what is wrong with them, the reader of the rows says
        return {}
    values = measure.values(evaluated.measures) | {"n": evaluated.n, "missing": evaluated.missing}
    return values | {"signatures": measure.signatures(evaluated.measures)}
