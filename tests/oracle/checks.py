"""What the project shows of a file, compared with what ffmpeg shows."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.media import read_numbers
from tests.oracle.cells import ANOMALIES, COUNT, SECOND_PART, Cell, make
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
DAMAGED_SECONDS = 0.25  # of packets that may be there without those that they refer to
VALID = {*range(COUNT), *range(SECOND_PART, SECOND_PART + COUNT)}


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


def readings(truth: Shown, slack: float, rng: np.random.Generator) -> Iterator[Read]:
    """Random segments in every sampling; the whole file, and from a time to its end.

    ``slack``: seconds to which the end is known.
    """
    for sampling in SAMPLINGS * 2:
        for _ in range(TRIES):
            start, end = np.sort(rng.uniform(0, truth.end, 2)).round(4).tolist()
            times = wanted_times(sampling, start, end)
            right = [_between(truth, t - ROUNDING, t + ROUNDING) for t in times]
            if end - start > slack and end < truth.end - slack and max(map(len, right)) == 1:
                yield Read(sampling, start, end, right)
                break
    for start, end in ((None, None), (round(truth.end * 0.6, 4), truth.end + 100)):
        early, late = (wanted_times(UNIFORM, start or 0.0, truth.end + s) for s in (-slack, slack))
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
    if truth is None:
        return _of_nothing(path)
    slack = usual_step(truth) + ROUNDING
    if ANOMALIES[cell.anomaly].damaged:
        slack += DAMAGED_SECONDS
    elif not VALID.issuperset(truth.numbers):
        return Outcome("wrong", f"ffmpeg itself shows damaged pictures: {truth.numbers}")
    reads = list(readings(truth, slack, np.random.default_rng(zlib.crc32(cell.name.encode()))))
    found = list(_faults(path, folder / "copy.mp4", truth.end, slack, reads))
    wrong, refused = ("; ".join(t for kind, t in found if kind == k) for k in ("wrong", "refused"))
    return Outcome("wrong", wrong) if wrong else Outcome("refused" if refused else "equal", refused)


def _of_nothing(path: Path) -> Outcome:
    """Where ffmpeg shows nothing there is only one right answer."""
    try:
        probe(path)
    except VideoError as error:
        return Outcome("refused", str(error))
    return Outcome("wrong", "ffmpeg shows nothing")


def _faults(
    path: Path, copy: Path, end: float, slack: float, reads: Sequence[Read]
) -> Iterator[tuple[str, str]]:
    """("wrong" or "refused", where and what) of everything that is not equal."""
    for file, what in ((path, ""), (copy, "copy: ")):
        try:
            seconds = transcode(path, copy, 48) if what else probe(path)
        except VideoError as error:
            yield "refused", f"{what}{error}"
            continue
        if abs(seconds - end) > slack:
            yield "wrong", f"{what}lasts {end:.3f} s, found {seconds:.3f} s"
        for read in reads:
            try:
                different = _difference(file, read)
            except VideoError as error:
                yield "refused", f"{what}{error}"
                continue
            if different:
                yield "wrong", f"{what}{read}: {different}"


def _difference(path: Path, read: Read) -> str | None:
    clip = read_clip(path, read.sampling, start=read.start, end=read.end, short_side=48)
    found = read_numbers(clip)
    # Where ffmpeg shows the remains of a damaged picture, anything may be shown.
    if all(n in right or right - VALID for n, right in zip(found, read.right, strict=True)):
        return None
    return f"expected {[sorted(numbers) for numbers in read.right]}, found {found}"
