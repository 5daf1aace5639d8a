"""Manifest row to the frames that the model sees: decode, then crop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.video.boundary import Boundary, inside
from vt_fairseq.video.decoding import FrameSampling, read_clip
from vt_fairseq.video.frame_sampling import pick_frames
from vt_fairseq.video.transforms import ClipTransform, scale_short_side

# Before normalization: the mean of the IG65M statistics, so that a blank clip is near zero after.
BLANK_LEVEL = 105
# The paper's networks see 112 of 128 pixels of the short side (IG65M's input).
WORKING_TO_FRAME = 128 / 112

# (row, random generator or None) -> (F, H, W, 3) uint8; raises VideoError.
FrameLoader = Callable[[ClipRow, np.random.Generator | None], np.ndarray]


@dataclass(frozen=True)
class BlankFrames:
    """Loads (``num_frames``, ``size``, ``size``, 3) uint8 of uniform gray, and decodes nothing."""

    num_frames: int
    size: int

    def __call__(self, row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        """The same for every row."""
        shape = self.num_frames, self.size, self.size, 3
        return np.full(shape, BLANK_LEVEL, dtype=np.uint8)


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
        follow_links: links may lead out of the root, or out of the user's own folder of frames.
        link_suggestion: how a user allows them, for the reason why a clip cannot be read.
    """

    video_root: Path | None
    sampling: FrameSampling
    transform: ClipTransform
    window: str
    blank: bool = False
    follow_links: bool = False
    link_suggestion: str = ""

    def __call__(self, row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        """Frames of ``row``; raise VideoError where the root has none that can be read."""
        root = self.video_root
        path = Path(row.video) if root is None else inside(root, row.video)
        # A file that the user named may be a link; the frames of a folder must be in it.
        boundary = Boundary(path if root is None else root, self.link_suggestion)
        frames = read_clip(
            path,
            self.sampling,
            start=row.start,
            end=row.end,
            window=self.window,
            rng=rng,
            short_side=self.short_side,
            boundary=None if self.follow_links else boundary,
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
