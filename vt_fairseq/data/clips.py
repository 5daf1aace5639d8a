"""Manifest row to the frames that the model sees: decode, then crop."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.transforms import ClipTransform
from vt_fairseq.data.video import FrameSampling, read_clip

# Before normalisation: the mean of the IG65M statistics, so that a blank clip is near zero after.
BLANK_LEVEL = 105
# The paper's networks see 112 of 128 pixels of the short side (IG65M's input).
WORKING_TO_FRAME = 128 / 112


@dataclass(frozen=True)
class ClipLoader:
    """Loads (F, size, size, 3) uint8 frames of a row.

    Attributes:
        video_root: folder that the rows' paths are relative to.
        sampling: which frames of the segment.
        transform: crop and flip.
        window: how a segment longer than ``sampling.max_seconds`` is cut.
        blank: decode, then show a uniform grey instead: what the model knows without looking.
    """

    video_root: Path
    sampling: FrameSampling
    transform: ClipTransform
    window: str
    blank: bool = False

    def __call__(self, row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        """Frames of ``row``; raise VideoError when they cannot be had."""
        frames = read_clip(
            self.video_root / row.video,
            self.sampling,
            start=row.start,
            end=row.end,
            window=self.window,
            rng=rng,
            short_side=round(self.transform.size * WORKING_TO_FRAME),
        )
        frames = self.transform(frames, rng)
        return np.full_like(frames, BLANK_LEVEL) if self.blank else frames
