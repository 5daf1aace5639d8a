"""Rows to decoded clips, batch by batch: one decoding a row and window.

Shapes: V clips that could be read, F frames, H W pixels.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError
from vt_fairseq.training.data_workers import WatchedDataLoader

Item = tuple[int, int]  # row and window


def windows_of(row: ClipRow, loaders: Sequence[ClipLoader], clips: int) -> int:
    """How many of ``clips`` uniformly spaced windows of a row differ: 1 for a short segment."""
    shortest = min(loader.sampling.window_seconds for loader in loaders)
    length = math.inf if row.end is None else row.end - (row.start or 0.0)
    return clips if shortest < length else 1


@dataclass(frozen=True)
class Batch:
    """Decoded clips of one window.

    Attributes:
        rows: numbers of the V rows that could be read.
        frames: for each of the loaders (V, F, H, W, 3) uint8.
        unread: (number, reason) of the others.
    """

    rows: list[int]
    frames: list[torch.Tensor]
    unread: list[tuple[int, str]]


class WindowDataset(Dataset):
    """(row, window) -> frames of each loader, or the reason why there are none.

    Args:
        rows: the split's.
        loaders: all different; models may see the same row in different ways.
        clips: windows of a row; with one, the loaders' own.
    """

    def __init__(self, rows: Sequence[ClipRow], loaders: Sequence[ClipLoader], clips: int):
        self.rows = rows
        self.loaders = list(loaders)
        self.clips = clips

    def __getitem__(self, item: Item) -> tuple[int, list[np.ndarray] | str]:
        row, window = item
        loaders = self.loaders
        if self.clips > 1:
            name = f"{window + 1}/{self.clips}"
            loaders = [replace(loader, window=name) for loader in loaders]
        try:
            return row, [loader(self.rows[row], None) for loader in loaders]
        except VideoError as error:
            return row, str(error)


def collate(found: list[tuple[int, list[np.ndarray] | str]]) -> Batch:
    """A batch of what ``WindowDataset`` gives."""
    read = [(row, frames) for row, frames in found if not isinstance(frames, str)]
    by_loader = zip(*(frames for _, frames in read), strict=True)
    return Batch(
        rows=[row for row, _ in read],
        frames=[torch.from_numpy(np.stack(frames)) for frames in by_loader],
        unread=[(row, reason) for row, reason in found if isinstance(reason, str)],
    )


def batches_of(count: int, size: int) -> list[list[int]]:
    """0 ... ``count`` - 1 in lists of ``size``, the last shorter."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def read_windows(
    dataset: WindowDataset, batches: Sequence[Sequence[int]], num_workers: int, pin_memory: bool
) -> Iterator[list[Iterator[Batch]]]:
    """For each batch of rows its windows one after the other, to be consumed in turn."""
    items = [list(_items(dataset, rows)) for rows in batches]
    loader = WatchedDataLoader(
        dataset,
        batch_sampler=[step for steps in items for step in steps],
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
    found = iter(loader)
    for steps in items:
        yield (next(found) for _ in steps)


def _items(dataset: WindowDataset, rows: Sequence[int]) -> Iterator[list[Item]]:
    counts = {row: windows_of(dataset.rows[row], dataset.loaders, dataset.clips) for row in rows}
    for window in range(max(counts.values())):
        yield [(row, window) for row in rows if counts[row] > window]
