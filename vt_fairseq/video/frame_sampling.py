"""Which moments of a clip the model sees (paper, appendix A.1): segment, window, times.

Times are float seconds from the start of the video; intervals are half-open. F frames.
"""

import math
import re
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vt_fairseq.errors import UserError, VideoError

CONSECUTIVE_FPS = 16.0
TIME_EPSILON = 1e-4  # seconds; annotations are rounded, frames of one video are further apart


class StartsAfterEndError(VideoError):
    """The segment begins where the video has ended."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a segment the model sees.

    Attributes:
        num_frames: F.
        mode: "uniform": a frame of each of F equal parts of the window (better in section B);
            "consecutive": F frames at ``frames_per_second``, so the window is F / 16 s long.
        max_seconds: uniform only: length of the window that a longer segment is cut to; None: the
            whole segment is the window.
        resample_fps: times are rounded down to this grid, so that the frames are those that the
            file re-encoded at this rate would show (EPIC-Kitchens: 24); None: no grid.
        frames_per_second: of consecutive frames.
    """

    num_frames: int = 32
    mode: str = "uniform"
    max_seconds: float | None = 6.0
    resample_fps: float | None = None
    frames_per_second: float = CONSECUTIVE_FPS

    def __post_init__(self) -> None:
        if self.mode not in ("uniform", "consecutive"):
            raise UserError(f"frame sampling is uniform or consecutive, found {self.mode!r}")
        values = (self.num_frames, self.max_seconds, self.resample_fps, self.frames_per_second)
        if not all(value is None or 0 < value < math.inf for value in values):
            raise UserError(f"numbers of frames, seconds and rates must be positive: {self}")

    @property
    def window_seconds(self) -> float:
        """The longest segment that is not cut; infinite where none is."""
        if self.mode == "consecutive":
            return self.num_frames / self.frames_per_second
        return math.inf if self.max_seconds is None else self.max_seconds


@dataclass(frozen=True)
class Plan:
    """A clip's sampling with every choice made, so that its times follow from the duration.

    Attributes:
        sampling: how the window is sampled.
        start, end: seconds of the segment; None: the start and the end of the video.
        position: in [0, 1], where a window that is shorter than the segment lies: 0 is earliest.
        phase: in (0, 1), where in its part of the window each frame lies: 0.5 is the center.
    """

    sampling: FrameSampling
    start: float | None
    end: float | None
    position: float
    phase: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("start", self.start), ("end", self.end)):
            if value is not None and not 0 <= value < math.inf:
                raise VideoError(f"segment {name} must be a number of seconds >= 0, found {value}")
        if self.end is not None and (self.start or 0.0) >= self.end:
            raise VideoError(
                f"segment must start before it ends, found start {self.start} s, end {self.end} s"
            )

    def times(self, duration: float) -> np.ndarray:
        """(F,) float64 seconds, ascending, in the segment's part of [0, duration).

        Raises:
            StartsAfterEndError: the segment has no such part.
        """
        start, end = self._segment(duration)
        sampling, span = self.sampling, self.sampling.window_seconds
        if sampling.mode == "uniform":
            span = min(span, end - start)
        first = start + max(0.0, end - start - span) * self.position
        times = first + (np.arange(sampling.num_frames) + self.phase) * (span / sampling.num_frames)
        if sampling.resample_fps is not None:
            times = np.floor(times * sampling.resample_fps + TIME_EPSILON) / sampling.resample_fps
        # Consecutive frames may run past the end of a short segment: its last frame repeats.
        return np.minimum(times, max(start, end - 2 * TIME_EPSILON))

    def window(self, duration: float) -> tuple[float, float]:
        """Start and end in seconds of what is seen of a video; raises as ``times``."""
        start, end = self._segment(duration)
        span = min(self.sampling.window_seconds, end - start)
        first = start + (end - start - span) * self.position
        return first, first + span

    def _segment(self, duration: float) -> tuple[float, float]:
        start = self.start or 0.0
        if start >= duration:
            raise StartsAfterEndError(
                f"starts after the end: start {start} s, the video has {duration:.3f} s"
            )
        return start, duration if self.end is None else min(self.end, duration)


def plan_of(
    sampling: FrameSampling,
    window: str,
    start: float | None = None,
    end: float | None = None,
    rng: np.random.Generator | None = None,
) -> Plan:
    """The plan of a clip; ``window`` is "whole" (not cut), or as of ``window_position``."""
    position = window_position(window, rng)
    if window == "whole":
        sampling = replace(sampling, max_seconds=None)
    return Plan(sampling, start, end, position, window_phase(window))


def pick_frames(sampling: FrameSampling, count: int) -> np.ndarray:
    """(F,) int64, ascending: which of a clip's ``count`` frames, which have no times, are seen.

    "uniform": the centers of F equal parts, as in a file of constant rate. "consecutive": F frames
    from the middle; the last one repeats where there are fewer.
    """
    steps = np.arange(sampling.num_frames)
    if sampling.mode == "uniform":
        return ((2 * steps + 1) * count) // (2 * sampling.num_frames)
    return np.minimum(max(0, (count - sampling.num_frames) // 2) + steps, count - 1)


def window_position(window: str, rng: np.random.Generator | None) -> float:
    """``Plan.position`` of "random" (one draw from ``rng``), "center", "whole" or "K/N".

    Raises:
        UserError: ``window`` is none of these.
    """
    if window == "random":
        if rng is None:
            raise ValueError("window 'random' needs a random generator")
        return float(rng.random())
    if window in ("center", "centre", "whole"):  # checkpoints of 0.1.0 have the British spelling
        return 0.5
    index, count = _numbered(window)
    return index / (count - 1) if count > 1 else 0.5


def window_phase(window: str) -> float:
    """``Plan.phase``: window K/N has the K-th of N equal offsets, all others the center.

    So the N windows of a segment that has no room for a shorter window are N different clips, each
    spread over the whole of it.
    """
    if "/" not in window:
        return 0.5
    index, count = _numbered(window)
    return (index + 0.5) / count


def _numbered(window: str) -> tuple[int, int]:
    """K - 1 and N of "K/N"; raise UserError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", window)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"window is random, center, whole or K/N with K from 1, found {window!r}")
    return int(match[1]) - 1, int(match[2])


def equal_segments(duration: float, count: int) -> list[tuple[float, float]]:
    """A video of ``duration`` seconds as ``count`` segments of the same length, in order."""
    return list(pairwise([*(duration * i / count for i in range(count)), duration]))


def regular_segments(duration: float, seconds: float) -> list[tuple[float, float]]:
    """Segments of ``seconds`` each; the last takes the rest and has 0.5 to 1.5 times as much.

    A video that is shorter than that is one segment.
    """
    count = max(1, round(duration / seconds))
    return list(pairwise([*(seconds * i for i in range(count)), duration]))
