"""The right frame of every kind of file: equal to what the program ffmpeg shows, or refused.

For each cell of ``tests/oracle`` (container x codec x anomaly) a file is made; random segments, in
each sampling, the whole file and its copy must show what a sequential pass of ffmpeg shows at these
times, and the durations must agree. Without the programs ffmpeg and ffprobe these tests skip.
"""

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.oracle import programs
from tests.oracle.cells import ANOMALIES, CELLS, CONTAINERS, Cell, sample
from tests.oracle.checks import Outcome, outcome

REFUSED = {
    r"-moov-missing$": (
        r"^(an MP4 or MOV file, cut off|not a video file|has no video stream, found nothing)",
        "without its index nothing says where in the file a frame begins",
    ),
    r"^26[45]-": (
        r"^not a video file of a known format: .*; MP4, .* are read$",
        "the frames of a bare stream of H.264 or HEVC have no times, nor a certain rate",
    ),
    r"^mxf-h264b-cut-off$": (
        r"^no packet of the video stream has a timestamp",
        "the index at the end of the file, which is gone, has the order of its frames",
    ),
    r"^ogv-theora-cut-off$": (
        r"^not a video file of a known format: End of file",
        "FFmpeg 8 does not open an Ogg file that ends inside a page",
    ),
    r"^ogv-theora-chained$": (
        r"^(copy: )?(damaged at |cannot be decoded: Operation not permitted)",
        "FFmpeg 8 gives no frame of an Ogg stream behind another one",
    ),
    r"^fmp4-.*-appended$": (
        r"^several fragmented MP4 files",
        "in the demuxer's index the fragments of both have the same times",
    ),
    r"^vob-mpeg2b-cut-copy": (
        r"^no packet of the video stream has a timestamp",
        "ffmpeg copies no timestamps into a VOB that is so short",
    ),
    r"^webm-vp[89]-key-lost$": (
        r"^(no frame can be decoded|cannot be decoded: Invalid data)",
        "the file begins with frames without a keyframe, which VP8 and VP9 decoders call damage",
    ),
}
"""Cells that may be refused: names -> (reason given, why the frames cannot be told)."""

pytestmark = pytest.mark.skipif(
    bool(programs.MISSING), reason=f"no program {' and '.join(programs.MISSING)}: apt's ffmpeg"
)


def verdict(cell: Cell, found: Outcome) -> str | None:
    """What is wrong; None where the cell is equal, or refused for a reason that is listed."""
    if found.kind == "equal":
        return None
    if found.kind == "refused":
        for name, (reason, _) in REFUSED.items():
            reasons = found.detail.split("; copy: ")
            if re.search(name, cell.name) and all(re.search(reason, r) for r in reasons):
                return None
    return f"{cell.name} is {found.kind}: {found.detail}"


@pytest.mark.parametrize("cell", sample(), ids=lambda cell: cell.name)
def test_what_is_shown_is_what_ffmpeg_shows(cell, tmp_path):
    assert verdict(cell, outcome(cell, tmp_path)) is None


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
def test_in_every_cell_what_is_shown_is_what_ffmpeg_shows(container, record):
    """All cells of a container; ten minutes of CPU time in all, and tables with --campaign."""
    cells = [cell for cell in CELLS if cell.container == container]

    def check(cell: Cell) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            return outcome(cell, Path(folder))

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(cells, pool.map(check, cells), strict=True))
    unlisted = [text for cell, one in found.items() if (text := verdict(cell, one))]
    counts = dict.fromkeys(("equal", "refused", "wrong"), 0)
    table: dict[str, dict[str, str]] = {}
    for cell, one in found.items():
        counts[one.kind] += 1
        table.setdefault(cell.anomaly, {})[cell.codec] = one.kind
    record(container, {**counts, "not as it should be": unlisted, "cells": table})
    assert not unlisted, "\n".join(unlisted)


def test_there_are_enough_cells_and_the_sample_has_every_container_and_anomaly():
    assert len(CELLS) == len(set(CELLS)) >= 600
    assert {cell.container for cell in sample()} == set(CONTAINERS)
    assert {cell.anomaly for cell in sample()} >= set(ANOMALIES) - {"plain"}
