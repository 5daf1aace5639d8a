"""Manifest row to the frames that the model sees: decode, then crop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.video.decoding import FrameSampling, inside, read_clip
from vt_fairseq.video.frame_sampling import pick_frames
from vt_fairseq.video.transforms import ClipTransform, scale_short_side

# Before normalization: the mean of the IG65M statistics, so that a blank clip is near zero after.
BLANK_LEVEL = 105
# The paper's networks see 112 of 128 pixels of the short side (IG65M's input).
WORKING_TO_FRAME = 128 / 112

# (row, random generator or None) -> (F, H, W, 3) uint8; raises VideoError.
FrameLoader = Callable[[ClipRow, np.random.Generator | None], np.ndarray]


@dataclass(frozen=True)
class ClipLoader:
    """Loads (F, size, size, 3) uint8 frames of a row.

    Attributes:
        video_root: folder that the rows' paths are relative to and may not lead out of; None for
            rows that the user made, whose paths may be anywhere.
        sampling: which frames of the segment.
        transform: crop and flip.
        window: how a segment longer than ``sampling.max_seconds`` is cut.
        blank: decode, then give uniform gray instead: what the model knows without the video.
    """

    video_root: Path | None
    sampling: FrameSampling
    transform: ClipTransform
    window: str
    blank: bool = False

    def __call__(self, row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        """Frames of ``row``; raise VideoError where the root has none that can be read."""
        root = self.video_root
        frames = read_clip(
            Path(row.video) if root is None else inside(root, row.video),
            self.sampling,
            start=row.start,
            end=row.end,
            window=self.window,
            rng=rng,
            short_side=self.short_side,
        )
        return self._shown(frames, rng)

    def from_array(self, frames: np.ndarray) -> np.ndarray:
        """Frames of a clip from all its (N, H, W, 3) uint8 RGB frames, N >= 1."""
        picked = frames[pick_frames(self.sampling, len(frames))]
        return self._shown(scale_short_side(picked, self.short_side), None)

    @property
    def short_side(self) -> int:
        """Pixels of the short side before the crop."""
        return round(self.transform.size * WORKING_TO_FRAME)

    def _shown(self, frames: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        frames = self.transform(frames, rng)
        return np.full_like(frames, BLANK_LEVEL) if self.blank else frames
