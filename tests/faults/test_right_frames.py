"""The right frame of every kind of file: equal to what the program ffmpeg shows, or refused.

For each cell of ``tests/oracle`` (container x codec x anomaly) a file is made; random segments, in
each sampling, the whole file and its copy must show what a sequential pass of ffmpeg shows at these
times, and the durations must agree. Without the programs ffmpeg and ffprobe these tests skip.
"""

import collections
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.oracle import programs
from tests.oracle.cells import CELLS, Cell, sample
from tests.oracle.checks import Outcome, outcome

REFUSED = {
    r"-moov-missing$": (
        r"^not a video file",
        "without its index nothing says where in the file a frame begins",
    ),
    r"^26[45]-": (
        r"^not a video file of a known format \(MP4",
        "the frames of a bare stream of H.264 or HEVC have no times, nor a certain rate",
    ),
}
"""Cells that may be refused: names -> (reason given, why the frames cannot be told)."""

KNOWN = (r"^(m1v|m2v|m4v)-", r"^mxf-h264b-")
"""Cells that are wrong today."""

pytestmark = pytest.mark.skipif(
    bool(programs.MISSING), reason=f"no program {' and '.join(programs.MISSING)}: apt's ffmpeg"
)


def verdict(cell: Cell, found: Outcome) -> str | None:
    """What is wrong; None where the cell is equal, or refused for a reason that is listed."""
    if found.kind == "equal":
        return None
    if found.kind == "refused":
        for name, (reason, _) in REFUSED.items():
            if re.search(name, cell.name) and re.search(reason, found.detail):
                return None
    return f"{cell.name} is {found.kind}: {found.detail}"


def known(name: str) -> bool:
    """Whether the cell, or a text that begins with its name, is wrong today."""
    return any(re.search(pattern, name) for pattern in KNOWN)


@pytest.mark.parametrize("cell", sample(), ids=lambda cell: cell.name)
def test_what_is_shown_is_what_ffmpeg_shows(cell, tmp_path):
    wrong = verdict(cell, outcome(cell, tmp_path))
    if wrong and known(cell.name):
        pytest.xfail(wrong)
    assert wrong is None


@pytest.mark.slow
def test_in_every_cell_what_is_shown_is_what_ffmpeg_shows(campaign, record):
    """Over 1,000 files; ten minutes of CPU time, and a table with --campaign."""

    def check(cell: Cell) -> tuple[Outcome, float]:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            return outcome(cell, Path(folder)), time.monotonic() - begin

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(check, CELLS))
    wrong = [text for c, (o, _) in zip(CELLS, found, strict=True) if (text := verdict(c, o))]
    kinds = collections.Counter(o.kind for o, _ in found)
    record(
        "cells",
        {
            "cells": len(CELLS),
            **kinds,
            "wrong or refused without a listed reason": wrong,
            "table": {c.name: o.kind for c, (o, _) in zip(CELLS, found, strict=True)},
        },
    )
    new = [text for text in wrong if not known(text)]
    assert not new, "\n".join(new)
    assert len(CELLS) >= 600
