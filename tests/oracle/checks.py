"""What the project shows of a file, compared with what ffmpeg shows."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.media import read_numbers
from tests.oracle.cells import ANOMALIES, Cell, make
from tests.oracle.programs import CannotMakeError, Shown, shown_by_ffmpeg
from vt_fairseq.corpora.transcode import transcode
from vt_fairseq.errors import VideoError
from vt_fairseq.video.decoding import probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

FRAMES = 4
UNIFORM = FrameSampling(FRAMES, "uniform", max_seconds=None)
CUT = FrameSampling(FRAMES, "uniform", max_seconds=0.5)
CONSECUTIVE = FrameSampling(FRAMES, "consecutive")
SAMPLINGS = (UNIFORM, CUT, CONSECUTIVE)
ROUNDING = 0.002  # seconds: containers round to 1 ms; no wanted time is nearer to a change
TRIES = 200


@dataclass(frozen=True)
class Read:
    """One reading of a file, with the pictures that may come out for each of its frames."""

    sampling: FrameSampling
    start: float | None
    end: float | None
    right: list[set[int]]

    def __str__(self) -> str:
        return f"{self.sampling.mode} {self.start}-{self.end}"


@dataclass(frozen=True)
class Outcome:
    """Of one cell: "equal", "refused" with the reason, or "wrong" with what differs."""

    kind: str
    detail: str = ""


def wanted_times(sampling: FrameSampling, start: float, end: float) -> np.ndarray:
    """Seconds of the frames of a segment, as docs/data.md describes the samplings."""
    span = FRAMES / 16 if sampling is CONSECUTIVE else min(end - start, sampling.max_seconds or 1e9)
    first = start + max(0.0, end - start - span) / 2
    return np.minimum(first + span * (np.arange(FRAMES) + 0.5) / FRAMES, end)


def readings(truth: Shown, rng: np.random.Generator) -> Iterator[Read]:
    """Random segments in every sampling; the whole file, and from a time to its end."""
    step = usual_step(truth)
    for sampling in SAMPLINGS * 2:
        for _ in range(TRIES):
            start, end = np.sort(rng.uniform(0, truth.end, 2)).round(4).tolist()
            times = wanted_times(sampling, start, end)
            right = [_between(truth, t - ROUNDING, t + ROUNDING) for t in times]
            if end - start > step and end < truth.end - step and max(map(len, right)) == 1:
                yield Read(sampling, start, end, right)
                break
    for start, end in ((None, None), (round(truth.end * 0.6, 4), truth.end + 100)):
        # Where the file ends is known to a frame.
        early, late = (
            wanted_times(UNIFORM, start or 0.0, truth.end + s * (step + ROUNDING)) for s in (-1, 1)
        )
        right = [_between(truth, a - ROUNDING, b) for a, b in zip(early, late, strict=True)]
        yield Read(UNIFORM, start, end, right)


def usual_step(truth: Shown) -> float:
    """Seconds between most frames; of a single one, its length."""
    steps = [b - a for a, b in pairwise(truth.times) if b > a]
    return float(np.median(steps)) if steps else truth.end - truth.times[-1]


def _between(truth: Shown, begin: float, end: float) -> set[int]:
    """Every picture that is shown at some time from ``begin`` to ``end``."""
    inside = [n for t, n in zip(truth.times, truth.numbers, strict=True) if begin <= t <= end]
    return {truth.at(begin), *inside}


def outcome(cell: Cell, folder: Path) -> Outcome:
    """Make the file of ``cell``, read it and its copy, and compare with one pass of ffmpeg."""
    path = make(cell, folder)
    try:
        truth = shown_by_ffmpeg(path, ANOMALIES[cell.anomaly].stream, cell.timeline)
    except CannotMakeError:
        truth = None
    try:
        seconds = probe(path)
        if truth is None:
            return Outcome("wrong", "ffmpeg shows nothing")
        reads = list(readings(truth, np.random.default_rng(zlib.crc32(cell.name.encode()))))
        faults = [*_differences(path, truth, seconds, reads)]
        copy = folder / "copy.mp4"
        faults += [
            f"copy: {f}" for f in _differences(copy, truth, transcode(path, copy, 48), reads)
        ]
    except VideoError as error:
        return Outcome("refused", str(error))
    return Outcome("wrong", "; ".join(faults)) if faults else Outcome("equal")


def _differences(path: Path, truth: Shown, seconds: float, reads: Sequence[Read]) -> Iterator[str]:
    if abs(seconds - truth.end) > usual_step(truth) + ROUNDING:
        yield f"lasts {truth.end:.3f} s, found {seconds:.3f} s"
    for read in reads:
        found = read_numbers(
            read_clip(path, read.sampling, start=read.start, end=read.end, short_side=48)
        )
        if any(number not in right for number, right in zip(found, read.right, strict=True)):
            right = [sorted(numbers) for numbers in read.right]
            yield f"{read}: expected {right}, found {found}"
