"""``vt-score`` from its options to the files of its results, in one process or under torchrun."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vt_fairseq.candidates.top_k import Top
from vt_fairseq.data.manifest import ClipRow, write_json
from vt_fairseq.errors import UserError
from vt_fairseq.inference.loading import usable_device
from vt_fairseq.scoring import records
from vt_fairseq.scoring.job import Job, prepare
from vt_fairseq.scoring.options import Options
from vt_fairseq.scoring.processes import Processes, joined_processes
from vt_fairseq.scoring.records import Record
from vt_fairseq.scoring.scorers import Found
from vt_fairseq.scoring.windows import Batch, WindowDataset, batches_of, read_windows

logger = logging.getLogger(__name__)

METRICS = "metrics.json"


def score(options: Options, say: Callable[[str], None] = logger.info) -> dict[str, Any] | None:
    """Score a split and write the results into ``options.out``; goes on where a run was stopped.

    ``say`` is told what there is to do and what was done. Returns the metrics, or None in a process
    that is not the first. Raises UserError for a mistake in the options or the data.
    """
    with joined_processes() as processes:
        job = prepare(options, _device(options, processes))
        pending = processes.from_first(_pending(options, job, say) if processes.first else None)
        _score_batches(options, job, processes, pending)
        processes.wait()
        if not processes.first:
            return None
        return _finish(options, job)


def _device(options: Options, processes: Processes) -> torch.device:
    gpu = torch.cuda.is_available() and not options.cpu
    return usable_device(f"cuda:{processes.local}" if gpu else "cpu")


def _pending(options: Options, job: Job, say: Callable[[str], None]) -> list[list[int]]:
    """Batches of rows of which some are not scored yet.

    Batches are the same ones however many processes there are and wherever a run was stopped, so
    that rounding is, too.
    """
    records.claim(options.out, job.settings, options.restart)
    done = {row_id for row_id, place in records.find(options.out).items() if place.scored}
    ids = list(job.rows.column("id"))
    batches = batches_of(len(ids), options.batch_size)
    pending = [rows for rows in batches if not all(ids[row] in done for row in rows)]
    say(f"{len(ids):,} clips of {options.split}, {len(ids) - sum(map(len, pending)):,} done before")
    for scorer in job.scorers:
        for line in scorer.plan():
            say(line)
    return pending


def _score_batches(
    options: Options, job: Job, processes: Processes, pending: Sequence[Sequence[int]]
) -> None:
    own = pending[processes.rank :: processes.count]
    if not own:
        return
    dataset = WindowDataset(job.rows, job.loaders, options.clips)
    on_gpu = torch.cuda.is_available() and not options.cpu
    found = read_windows(dataset, own, options.num_workers, on_gpu)
    progress = tqdm(
        zip(own, found, strict=True),
        total=len(own),
        desc=f"vt-score {options.kind}",
        disable=None if processes.first else True,
    )
    writer = records.PartWriter(options.out, processes.rank)
    for rows, windows in progress:
        writer.append(_records(job, rows, windows))
    writer.close()


def _records(job: Job, rows: Sequence[int], windows: Iterator[Batch]) -> list[Record]:
    """Of a batch of rows, in their order."""
    known = {row: job.rows[row] for row in rows}
    predictions: dict[int, list[list[Found]]] = {row: [[] for _ in job.scorers] for row in rows}
    unread: set[int] = set()
    for batch in windows:
        for row, reason in batch.unread:
            if row not in unread:
                logger.warning("cannot read clip %s: %s", known[row].id, reason)
            unread.add(row)
        for number, found in enumerate(_found(job, batch, known)):
            for row, one in zip(batch.rows, found, strict=True):
                predictions[row][number].append(_checked(one, known[row]))
    return [
        job.kind.missing(row) if number in unread else job.kind.record(row, predictions[number])
        for number, row in known.items()
    ]


def _found(job: Job, batch: Batch, known: dict[int, ClipRow]) -> Iterator[list[Found]]:
    """Of each model."""
    if not batch.rows:
        return
    rows = [known[row] for row in batch.rows]
    for scorer, loader in zip(job.scorers, job.loader_of, strict=True):
        yield scorer(rows, batch.frames[loader])


def _checked(found: Found, row: ClipRow) -> Found:
    """Raise UserError for a score that is no number, as half precision may give."""
    for value in found.values():
        numbers = value.scores if isinstance(value, Top) else value
        if isinstance(numbers, np.ndarray) and not np.isfinite(numbers).all():
            raise UserError(
                f"a score of clip {row.id} is not a finite number: the model has diverged, or "
                "its numbers pass fp16's range (--dtype bf16 or fp32)"
            )
    return found


def _finish(options: Options, job: Job) -> dict[str, Any]:
    folder: Path = options.out
    records.merge(folder, list(job.rows.column("id")))
    metrics = job.kind.finish(folder, job.rows, records.read(folder))
    metrics["signatures"] = job.signatures
    write_json(folder / METRICS, metrics)
    return metrics
