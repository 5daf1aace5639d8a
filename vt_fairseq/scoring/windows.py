"""Rows to decoded clips, batch by batch: each window of a row is decoded once.

Shapes: V clips that could be read, F frames, H W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.data_workers import WatchedDataLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError

RowWindow = tuple[int, int]  # index of a row, index of a window


@dataclass(frozen=True)
class WindowBatch:
    """Decoded clips of one window.

    Attributes:
        rows: indices of the V rows that could be read.
        frames: for each of the loaders (V, F, H, W, 3) uint8.
        unread: (index, reason) of the others.
    """

    rows: list[int]
    frames: list[torch.Tensor]
    unread: list[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class WindowDataset(Dataset):
    """(row, window) -> frames of each loader, or the reason why there are none.

    Attributes:
        rows: of the split.
        loaders: all different; models may see the same row in different ways.
        num_windows: uniformly spaced windows per row, which differ in a short segment, too; with 1,
            the loaders' own window.
    """

    rows: Sequence[ClipRow]
    loaders: Sequence[ClipLoader]
    num_windows: int

    def __getitem__(self, item: RowWindow) -> tuple[int, list[np.ndarray] | str]:
        row, window = item
        loaders = self.loaders
        if self.num_windows > 1:
            name = f"{window + 1}/{self.num_windows}"
            loaders = [replace(loader, window=name) for loader in loaders]
        try:
            return row, [loader(self.rows[row], None) for loader in loaders]
        except VideoError as error:
            return row, str(error)

    def steps(self, rows: Sequence[int]) -> list[list[RowWindow]]:
        """What is decoded for a batch of rows, window by window."""
        return [[(row, window) for row in rows] for window in range(self.num_windows)]


def decode_windows(
    dataset: WindowDataset,
    steps: Sequence[list[RowWindow]],
    num_workers: int,
    pin_memory: bool,
) -> Iterator[WindowBatch]:
    """The clips of each step, decoded ahead by ``num_workers`` processes."""
    loader = WatchedDataLoader(
        dataset,
        batch_sampler=steps,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
    return iter(loader)


def collate(clips: list[tuple[int, list[np.ndarray] | str]]) -> WindowBatch:
    """A batch of what ``WindowDataset`` gives."""
    read = [(row, frames) for row, frames in clips if not isinstance(frames, str)]
    by_loader = zip(*(frames for _, frames in read), strict=True)
    return WindowBatch(
        rows=[row for row, _ in read],
        frames=[torch.from_numpy(np.stack(frames)) for frames in by_loader],
        unread=[(row, reason) for row, reason in clips if isinstance(reason, str)],
    )
