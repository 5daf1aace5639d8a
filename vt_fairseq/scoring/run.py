"""A ``Job`` to the files of its results, in one process or under torchrun in several."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from typing import Any

import numpy as np
import torch.distributed as dist
from tqdm import tqdm

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.files.atomic_files import DirectoryLock, write_json
from vt_fairseq.files.result_files import check_finite, refuse_nothing
from vt_fairseq.metrics.equal_texts import HOW
from vt_fairseq.scoring.job import Job
from vt_fairseq.scoring.records import (
    PartWriter,
    ScoreRecord,
    locate_records,
    merge_records,
    prepare_folder,
    read_records,
)
from vt_fairseq.scoring.scorers import Prediction
from vt_fairseq.scoring.windows import WindowBatch, WindowDataset, decode_windows

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
# One process may have much more left to do than the others, who wait for it.
LONGEST_WAIT = timedelta(days=7)


def score(job: Job, report: Callable[[str], None] = logger.info) -> dict[str, Any] | None:
    """Score a split and write the results into ``job.out``; goes on where a run was stopped.

    ``report`` gets lines about what there is to do. Returns the metrics, or None in a process that
    is not the first. Raises UserError where another run scores into ``job.out``, for scores of
    other settings in it, and for a score that is not a finite number; RunFailure where no clip can
    be read.
    """
    with joined_processes() as processes, contextlib.ExitStack() as held:
        if processes.first:
            job.options.out.mkdir(parents=True, exist_ok=True)
            held.callback(DirectoryLock(job.options.out, "--out").release)
        return _score(job, processes, report)


def _score(
    job: Job, processes: "Processes", report: Callable[[str], None]
) -> dict[str, Any] | None:
    pending = processes.from_first(_pending(job, report) if processes.first else None)
    _score_batches(job, processes, pending)
    processes.wait()
    if not processes.first:
        return None
    out = job.options.out
    merge_records(out, list(job.rows.column("id")))
    scored = sum(location.scored for location in locate_records(out).values())
    refuse_nothing(len(job.rows) - scored, len(job.rows))
    metrics = job.task.finish(out, job.rows, read_records(out))
    metrics["signatures"] = job.signatures | {k: HOW[k] for k in HOW.keys() & metrics.keys()}
    write_json(out / METRICS, metrics)
    return metrics


def _pending(job: Job, report: Callable[[str], None]) -> list[list[int]]:
    """Batches of rows of which some are not scored yet.

    Batches are the same ones however many processes there are and wherever a run was stopped, so
    that rounding is, too.
    """
    prepare_folder(job.options.out, job.settings, job.options.restart)
    done = {
        row_id for row_id, location in locate_records(job.options.out).items() if location.scored
    }
    ids = list(job.rows.column("id"))
    rows, size = range(len(ids)), job.options.batch_size
    batches = [list(rows[start : start + size]) for start in rows[::size]]
    pending = [rows for rows in batches if not all(ids[row] in done for row in rows)]
    left = sum(map(len, pending))
    report(f"{len(ids):,} clips of {job.options.split}, {len(ids) - left:,} done before")
    for scorer in job.scorers:
        for line in scorer.describe():
            report(line)
    return pending


def _score_batches(job: Job, processes: "Processes", pending: Sequence[Sequence[int]]) -> None:
    own = pending[processes.rank :: processes.count]
    if not own:
        return
    dataset = WindowDataset(job.rows, job.loaders, job.options.windows)
    steps = [dataset.steps(rows) for rows in own]
    decoded = decode_windows(
        dataset, list(chain.from_iterable(steps)), job.options.num_workers, job.pin_memory
    )
    progress = tqdm(
        zip(own, steps, strict=True),
        total=len(own),
        desc=f"vt-score {job.options.kind}",
        disable=None if processes.first else True,
    )
    with contextlib.closing(PartWriter(job.options.out, processes.rank)) as writer:
        for rows, of_rows in progress:
            writer.append(_records(job, rows, islice(decoded, len(of_rows))))


def _records(job: Job, rows: Sequence[int], windows: Iterable[WindowBatch]) -> list[ScoreRecord]:
    """The records of a batch of rows, in their order."""
    known = {row: job.rows[row] for row in rows}
    # For each row one list per model, with one prediction per window.
    predictions: dict[int, list[list[Prediction]]] = {
        row: [[] for _ in job.scorers] for row in rows
    }
    unread: set[int] = set()
    for batch in windows:
        for row, reason in batch.unread:
            if row not in unread:
                logger.warning("cannot read clip %s: %s", known[row].id, reason)
            unread.add(row)
        if not batch.rows:
            continue
        read = [known[row] for row in batch.rows]
        for index, scorer in enumerate(job.scorers):
            batch_predictions = scorer(read, batch.frames[job.loader_of[index]])
            for row, prediction in zip(batch.rows, batch_predictions, strict=True):
                _check_finite(prediction, known[row])
                predictions[row][index].append(prediction)
    return [
        job.task.missing(row) if index in unread else job.task.record(row, predictions[index])
        for index, row in known.items()
    ]


def _check_finite(prediction: Prediction, row: ClipRow) -> None:
    """Raise UserError for a score that is not a finite number, as half precision may give."""
    scores = [*prediction.scores.values()]
    if prediction.top is not None:
        scores.append(prediction.top.scores)
    check_finite((float(np.abs(values).max(initial=0.0)) for values in scores), row.id)


@dataclass(frozen=True)
class Processes:
    """This process's number ``rank`` among the ``count`` that share the rows."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.rank == 0

    def from_first(self, value: Any) -> Any:
        """The first process's ``value`` (picklable); all wait for it."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def joined_processes() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone."""
    processes = Processes(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if processes.count == 1:
        yield processes
        return
    # Only small objects are exchanged, so this does for GPUs, too.
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield processes
    finally:
        dist.destroy_process_group()
