"""One's own videos, files or decoded frames, as the rows that a dataset is made of."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError

# A file, a folder of jpg or png frames, or a whole clip's frames (F, H, W, 3) uint8 RGB.
VideoInput = str | os.PathLike[str] | np.ndarray | torch.Tensor
Seconds = float | Sequence[float | None] | None


@dataclass(frozen=True)
class OwnVideos:
    """Rows of some videos; a row's id is its index in ``rows``.

    Attributes:
        single: one video was given, not a list.
        rows: ``video`` is an absolute path, or empty where frames were given.
        frames: these frames, by row id.
    """

    single: bool
    rows: list[ClipRow]
    frames: dict[str, np.ndarray]

    def name(self, row_id: str) -> str:
        """What messages call a row's video."""
        return self.rows[int(row_id)].video or f"the frames of video {row_id}"

    def names(self, sample: dict[str, Any]) -> list[str]:
        """Those of the rows of a batch."""
        return [self.name(str(index)) for index in sample["id"].tolist()]

    def shaped(self, results: list) -> Any:
        """The results as the videos were given: one, or a list."""
        return results[0] if self.single else results


def own_videos(
    videos: VideoInput | Sequence[VideoInput],
    start: Seconds = None,
    end: Seconds = None,
    question: str | Sequence[str] | None = None,
    context: str | Sequence[str | None] | None = None,
) -> OwnVideos:
    """One video or several, with one value of the rest for all of them or a list with one for each.

    Raises UserError for a list of another length, for frames of another shape or type, and for
    times that go with frames.
    """
    single = not isinstance(videos, list | tuple)
    listed: list[Any] = [videos] if single else list(cast(Sequence, videos))
    values = {"start": start, "end": end, "question": question, "context": context}
    columns = {name: each(value, len(listed), name) for name, value in values.items()}
    rows: list[ClipRow] = []
    frames: dict[str, np.ndarray] = {}
    for index, video in enumerate(listed):
        own: dict[str, Any] = {name: column[index] for name, column in columns.items()}
        row = ClipRow(str(index), "", **own)
        if isinstance(video, str | os.PathLike):
            row = replace(row, video=os.path.abspath(video))
        else:
            frames[row.id] = checked_frames(video)
            if row.start is not None or row.end is not None:
                raise UserError("start and end go with files; cut the frames yourself")
        rows.append(row)
    return OwnVideos(single, rows, frames)


def each(value: Any, count: int, name: str) -> list:
    """A list as it is, any other value ``count`` times; raise UserError for another length."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise UserError(f"{name}: expected one value, or {count} for {count} videos: {len(value)}")
    return list(value)


def checked_frames(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """(F, H, W, 3) uint8 on the CPU; raise UserError for anything else."""
    array = frames.cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or not array.size:
        raise UserError(
            "expected a path or RGB frames (F, H, W, 3) of type uint8, found "
            f"{type(frames).__name__} of shape {array.shape} and type {array.dtype}"
        )
    return array


@dataclass(frozen=True)
class OwnLoader:
    """Frames that the model sees of a row: given ones, or those that ``files`` decodes."""

    files: ClipLoader
    frames: dict[str, np.ndarray]

    def __call__(self, row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        """(F, size, size, 3) uint8; raise VideoError when a file cannot be read."""
        if row.id in self.frames:
            return self.files.from_array(self.frames[row.id])
        return self.files(row, rng)
