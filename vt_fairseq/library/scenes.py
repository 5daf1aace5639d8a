"""Segments at the cuts of a film, found by PySceneDetect (the extra ``scenes``).

It compares pictures; they are read by this project's own decoder, so files are opened under the
same limits as everywhere, and its times are those of the frames that the model sees.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vt_fairseq.errors import UserError
from vt_fairseq.video.decoding import read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

FPS = 5.0  # a cut is found to 0.2 s
SHORT_SIDE = 64
SECONDS_AT_ONCE = 60.0  # bounds memory, and what one damaged part costs
MISSING = (
    "scenes are found by PySceneDetect, which is not installed: pip install 'vt_fairseq[scenes]', "
    "or name seconds or a file instead"
)

Cut = Callable[[str, float], Sequence[tuple[float | None, float | None]]]


def scene_detector() -> Cut:
    """A cutter of videos at their scenes; raise UserError where PySceneDetect is missing."""
    try:
        detect: Any = importlib.import_module("scenedetect")
    except ImportError as error:
        raise UserError(MISSING) from error

    def cut(path: str, duration: float) -> list[tuple[float | None, float | None]]:
        detector = detect.ContentDetector(min_scene_len=round(FPS))  # of a second or more
        cuts: list[float] = []
        for number, frame in enumerate(frames(path, duration)):
            time = detect.FrameTimecode(number, FPS)
            found = detector.process_frame(time, np.ascontiguousarray(frame[..., ::-1]))  # BGR
            cuts += [cut.frame_num / FPS for cut in found]
        if not cuts:
            return [(None, None)]
        return list(pairwise([0.0, *cuts, duration]))

    return cut


def frames(path: str, duration: float) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 RGB, FPS of them per second; raise VideoError where they cannot be read."""
    start = 0.0
    while start < duration:
        end = min(start + SECONDS_AT_ONCE, duration)
        count = max(1, round((end - start) * FPS))
        sampling = FrameSampling(num_frames=count, max_seconds=None)
        yield from read_clip(path, sampling, start=start, end=end, short_side=SHORT_SIDE)
        start = end
