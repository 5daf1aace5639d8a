"""Damaged videos, each read in a process of its own: none may crash it or keep it for long.

Small videos of several containers and codecs are changed at random (bytes, runs, sizes in headers,
cuts, pieces exchanged or from another file) and read as training reads them. A file is *read*,
*refused* (VideoError, one line), *crashed* (another exception, or a signal) or *hung* (more than
10 s of CPU time, or 60 s). Then the data set reads all of them, as in evaluation, and must count
the refused ones, no more and no less. The number of a file makes the same file again.
"""

import collections
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests import media
from tests.faults.forks import in_a_process
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import VideoError
from vt_fairseq.video.decoding import probe
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

CPU_SECONDS = 10
HEADER = 1024  # bytes at either end of a file in which its index lies
SAMPLING = FrameSampling(num_frames=8, max_seconds=None)
FRAME_SIZE = 28
SEEDS = {
    "h264.mp4": ("libx264", {"preset": "veryfast", "g": "8", "bf": "2"}),
    "h264.mkv": ("libx264", {"preset": "veryfast", "g": "20"}),
    "h264.avi": ("libx264", {"preset": "veryfast", "g": "8", "bf": "2"}),
    "h264.ts": ("libx264", {"preset": "veryfast", "g": "8"}),
    "h264.flv": ("libx264", {"preset": "veryfast", "g": "8"}),
    "mpeg4.mp4": ("mpeg4", {"g": "8", "bf": "2"}),
    "vp8.webm": ("libvpx", {"g": "8"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "8"}),
}
Mutation = Callable[[bytearray, np.random.Generator, bytes], bytes]


def flip(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """Single bytes anywhere."""
    for place in rng.integers(0, len(data), rng.integers(1, 100)):
        data[place] = rng.integers(256)
    return bytes(data)


def flip_header(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """Few bytes where the container keeps its sizes and counts."""
    for place in rng.integers(0, min(HEADER, len(data)), rng.integers(1, 8)):
        data[place if rng.random() < 0.5 else -1 - place] = rng.integers(256)
    return bytes(data)


def extreme(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """Numbers of four bytes at the limits of their range."""
    for place in rng.integers(0, len(data) - 4, rng.integers(1, 10)):
        value = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
        data[place : place + 4] = value.to_bytes(4, str(rng.choice(["big", "little"])))
    return bytes(data)


def cut(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """The beginning, or the end, alone."""
    place = int(rng.integers(0, len(data)))
    return bytes(data[:place] if rng.random() < 0.7 else data[place:])


def blank(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """A run of one value."""
    begin, length = rng.integers(0, len(data)), rng.integers(1, len(data) // 2)
    run = data[begin : begin + length]
    data[begin : begin + length] = bytes([int(rng.choice([0, 255]))]) * len(run)
    return bytes(data)


def exchange(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """A piece from elsewhere in the file in the place of another, doubled, or left out."""
    a, b, length = (int(x) for x in rng.integers(1, len(data), 3))
    piece = data[b : b + length] if rng.random() < 0.7 else b""
    return bytes(data[:a] + piece + data[a + (length if rng.random() < 0.7 else 0) :])


def splice(data: bytearray, rng: np.random.Generator, other: bytes) -> bytes:
    """The beginning of one file and the rest of another."""
    return bytes(data[: rng.integers(1, len(data))]) + other[rng.integers(0, len(other)) :]


MUTATIONS: tuple[Mutation, ...] = (flip, flip_header, extreme, cut, blank, exchange, splice)


def make_seeds(folder: Path) -> list[bytes]:
    """The sound videos, of 20 frames."""
    return [
        media.write_numbered(folder / name, 20, codec=codec, options=options).read_bytes()
        for name, (codec, options) in SEEDS.items()
    ]


def mutated(seeds: list[bytes], number: int) -> bytes:
    """The damaged file ``number``."""
    rng = np.random.default_rng((0, number))
    source, other = (seeds[int(i)] for i in rng.integers(len(seeds), size=2))
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    return mutation(bytearray(source), rng, other)


def loader(folder: Path) -> ClipLoader:
    """What reads the rows of a data set."""
    return ClipLoader(folder, SAMPLING, ClipTransform(FRAME_SIZE, train=False), "center")


def read(folder: Path, name: str) -> tuple[str, str | None]:
    """ "read" and what ``probe`` has against it, or "refused" and why; any other is a crash."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    probed = None
    try:
        probe(folder / name)
    except VideoError as error:
        probed = one_line(error)
    try:
        frames = loader(folder)(ClipRow(name, name), None)
    except VideoError as error:
        return "refused", one_line(error)
    assert frames.shape == (SAMPLING.num_frames, FRAME_SIZE, FRAME_SIZE, 3), frames.shape
    return "read", probed


def one_line(error: VideoError) -> str:
    """The reason, which must be one line."""
    assert str(error) and "\n" not in str(error), error
    return str(error)


def counted(folder: Path, names: list[str]) -> list[str]:
    """The clips that a data set of these files counts as unreadable in one pass of evaluation."""
    rows = [ClipRow(name, name) for name in names]
    dataset = VideoTextDataset(rows, loader(folder), 1, [], False, None, seed=0, train=False)
    clips = [dataset[index] for index in range(len(dataset))]
    assert all(clip.missing == (clip.frames is None) == bool(clip.unreadable) for clip in clips)
    return [name for clip in clips for name, _ in clip.unreadable]


def fuzz(folder: Path, files: int) -> dict:
    """What came of ``files`` damaged videos: counts, and the numbers of those that failed."""
    seeds = make_seeds(folder)
    counts: collections.Counter[str] = collections.Counter()
    failures, slowest, refused, sound, probed = {}, 0.0, [], [], 0
    for number in range(files):
        name = str(number)
        (folder / name).write_bytes(mutated(seeds, number))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        kind, found = in_a_process(lambda name=name: read(folder, name))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
        slowest = max(slowest, seconds)
        if kind == "done":
            kind, found = found
            sound.append(name)
        counts[kind] += 1
        probed += kind == "read" and found is not None
        if kind == "refused":
            refused.append(name)
        if kind in ("crashed", "hung"):
            failures[number] = f"{kind}: {found}"
    kind, unread = in_a_process(lambda: counted(folder, sound))
    if (kind, unread) != ("done", refused):
        failures["count"] = f"{kind}: {unread}, expected {refused}"
    kinds = ("read", "refused", "crashed", "hung")
    return {
        "files": files,
        **{kind: counts[kind] for kind in kinds},
        # vt-prepare leaves these out: the first frame is damaged, the wanted ones are not.
        "read but refused by probe": probed,
        "counted as unreadable by the data set": len(unread),
        "slowest_cpu_seconds": round(slowest, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "failures": failures,
    }


def test_damaged_videos_are_read_or_refused_and_all_are_counted(tmp_path, campaign, record):
    files = 1000 if campaign else 30
    found = fuzz(tmp_path, files)
    record("videos", found)
    assert found["failures"] == {} and found["crashed"] == found["hung"] == 0
    assert found["read"] + found["refused"] == files and found["read"] and found["refused"]
    assert found["counted as unreadable by the data set"] == found["refused"]
