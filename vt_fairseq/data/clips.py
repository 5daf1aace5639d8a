"""Manifest row to the frames that the model sees: decode, then crop."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.video.augmentation import FRAMES_PER_SHOWN, jittered
from vt_fairseq.video.boundary import Boundary, inside
from vt_fairseq.video.decoding import FrameSampling, probe, read_clip
from vt_fairseq.video.frame_sampling import pick_frames, window_position
from vt_fairseq.video.transforms import ClipTransform, scale_short_side

# Before normalization: the mean of the IG65M statistics, so that a blank clip is near zero after.
BLANK_LEVEL = 105
# The paper's networks see 112 of 128 pixels of the short side (IG65M's input).
WORKING_TO_FRAME = 128 / 112

# (row, random generator or None) -> (F, H, W, 3) uint8; raises VideoError.
FrameLoader = Callable[[ClipRow, np.random.Generator | None], np.ndarray]

# File, start, end, and number of frames.
Segment = tuple[str, float | None, float | None, int]


class ClipCache:
    """Decoded clips of one process, kept until ``max_bytes`` are full; what comes after is not.

    Training passes over all clips again and again, so that the last one used is the last one
    needed: to make room for it would only drop what is needed sooner.
    """

    def __init__(self, max_bytes: float):
        self.free = max_bytes
        self._clips: dict[Segment, np.ndarray] = {}

    def get(self, segment: Segment) -> np.ndarray | None:
        """The (F, H, W, 3) uint8 frames as they were decoded, which nobody may write to."""
        return self._clips.get(segment)

    def has_room(self, frames: np.ndarray) -> bool:
        """Whether these could be kept, too."""
        return frames.nbytes <= self.free

    def put(self, segment: Segment, frames: np.ndarray) -> None:
        """Keep the frames, for which there is room."""
        self.free -= frames.nbytes
        self._clips[segment] = frames


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
        cache: what keeps the decoded frames of clips that are cut to no random window.
        time_jitter: how much the times of training's frames change, see ``augmentation.jittered``.
    """

    video_root: Path | None
    sampling: FrameSampling
    transform: ClipTransform
    window: str
    blank: bool = False
    follow_links: bool = False
    link_suggestion: str = ""
    cache: ClipCache | None = None
    time_jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.time_jitter < 0.5:
            raise UserError(f"times are jittered by a share in [0, 0.5), found {self.time_jitter}")

    def __call__(self, row: ClipRow, rng: np.random.Generator | None) -> np.ndarray:
        """Frames of ``row``; raise VideoError where the root has none that can be read."""
        sampling = self._read_sampling()
        segment = (row.video, row.start, row.end, sampling.num_frames)
        cached = None if self.cache is None else self.cache.get(segment)
        if cached is not None:
            window_position(self.window, rng)  # which draws a number, as reading the clip does
            return self._shown(cached, rng)
        root = self.video_root
        path = Path(row.video) if root is None else inside(root, row.video)
        # A file that the user named may be a link; the frames of a folder must be in it.
        boundary = Boundary(path if root is None else root, self.link_suggestion)
        within = None if self.follow_links else boundary
        frames = read_clip(
            path,
            sampling,
            start=row.start,
            end=row.end,
            window=self.window,
            rng=rng,
            short_side=self.short_side,
            boundary=within,
        )
        if (
            self.cache is not None
            and self.cache.has_room(frames)
            and self._is_whole(row, path, within)
        ):
            self.cache.put(segment, frames)
        return self._shown(frames, rng)

    def _is_whole(self, row: ClipRow, path: Path, boundary: Boundary | None) -> bool:
        """Whether the window holds the whole segment, so that chance does not place it."""
        end = probe(path, boundary) if row.end is None else row.end
        return end - (row.start or 0.0) <= self.sampling.window_seconds

    def from_array(self, frames: np.ndarray) -> np.ndarray:
        """Frames of a clip from all its (N, H, W, 3) uint8 RGB frames, N >= 1."""
        picked = frames[pick_frames(self.sampling, len(frames))]
        return self._shown(scale_short_side(picked, self.short_side), None)

    @property
    def short_side(self) -> int:
        """Pixels of the short side before the crop."""
        return round(self.transform.size * WORKING_TO_FRAME)

    def _read_sampling(self) -> FrameSampling:
        """More of the same window's frames than are shown, where their times are jittered."""
        sampling = self.sampling
        if not self.time_jitter:
            return sampling
        return replace(
            sampling,
            num_frames=sampling.num_frames * FRAMES_PER_SHOWN,
            frames_per_second=sampling.frames_per_second * FRAMES_PER_SHOWN,
        )

    def _shown(self, frames: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        if self.time_jitter:
            assert rng is not None  # times change in training alone
            wanted = jittered(self.sampling.num_frames, len(frames), self.time_jitter, rng)
            frames = frames[wanted]
        frames = self.transform(frames, rng)
        return np.full_like(frames, BLANK_LEVEL) if self.blank else frames
