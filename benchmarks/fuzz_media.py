"""Damaged videos, each read in a process of its own: none may crash it or keep it for long.

    python benchmarks/fuzz_media.py [--files 1000] [--seed 0]

Small videos of several containers and codecs are changed at random (bytes, runs, sizes in headers,
cuts, pieces exchanged or from another file) and read as training reads them. A file is *read*,
*refused* (VideoError, one line), *crashed* (another exception, or a signal) or *hung* (more than
10 s of CPU time, or 60 s). Writes fuzz_media.json beside this file; exits with 1 after a crash or
hang.
The number of a file, with the seed, makes the same file again.
"""

import argparse
import collections
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests import media  # noqa: E402
from vt_fairseq.data.sampling import FrameSampling  # noqa: E402
from vt_fairseq.data.video import probe, read_clip  # noqa: E402
from vt_fairseq.errors import VideoError  # noqa: E402

RESULT = Path(__file__).with_suffix(".json")
CPU_SECONDS, SECONDS = 10, 60
HEADER = 1024  # bytes at either end of a file in which its index lies
SAMPLING = FrameSampling(num_frames=8, max_seconds=None)
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


def mutated(seeds: list[bytes], seed: int, number: int) -> bytes:
    """The damaged file ``number``."""
    rng = np.random.default_rng((seed, number))
    source, other = (seeds[int(i)] for i in rng.integers(len(seeds), size=2))
    mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    return mutation(bytearray(source), rng, other)


def outcome(path: Path) -> str:
    """ "read", "refused: why", "crashed: how" or "hung", of a file read in a forked process."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        read_in_child(path, writing)
    os.close(writing)
    deadline = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return "hung"
        time.sleep(0.002)
    with open(reading, encoding="utf-8", errors="replace") as pipe:
        text = pipe.read()
    if os.WIFSIGNALED(ended[1]):
        number = os.WTERMSIG(ended[1])
        name = signal.Signals(number).name
        return "hung" if number == signal.SIGXCPU else f"crashed: {name}"
    return text or "crashed: no answer"


def read_in_child(path: Path, writing: int) -> None:
    """Read the video, write what came of it, and end the process."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        probe(path)
        frames = read_clip(path, SAMPLING, short_side=32)
        text = "read" if frames.shape[0] == SAMPLING.num_frames else f"crashed: {frames.shape}"
    except VideoError as error:
        text = f"refused: {error}" if "\n" not in str(error) else f"crashed: two lines, {error}"
    except BaseException as error:
        text = f"crashed: {error!r}"
    os.write(writing, text.encode()[:4000])
    os._exit(0)


def fuzz(folder: Path, files: int, seed: int) -> dict:
    """What came of ``files`` damaged videos: counts, reasons, and the numbers of the worst."""
    seeds = make_seeds(folder)
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    failures, slowest = {}, 0.0
    for number in range(files):
        path = folder / "damaged"
        path.write_bytes(mutated(seeds, seed, number))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = outcome(path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        slowest = max(slowest, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)
        kind, _, why = found.partition(": ")
        counts[kind] += 1
        if kind == "refused":
            reasons[re.sub(r"\d+(\.\d+)?", "N", why)[:60]] += 1
        if kind in ("crashed", "hung"):
            failures[number] = found
    kinds = ("read", "refused", "crashed", "hung")
    return {
        "files": files,
        "seed": seed,
        **{kind: counts[kind] for kind in kinds},
        "slowest_cpu_seconds": round(slowest, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "reasons": dict(reasons.most_common(12)),
        "failures": failures,
    }


def main() -> None:
    """Fuzz, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), args.files, args.seed)
    text = json.dumps(found, indent=1)
    RESULT.write_text(text + "\n")
    print(text)
    sys.exit(bool(found["failures"]))


if __name__ == "__main__":
    main()
