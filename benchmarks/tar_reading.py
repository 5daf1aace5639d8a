"""Clips read from tar files, where they lie, against the same clips in loose files.

    python benchmarks/tar_reading.py [--rounds 12] [--videos 400]

CPU time, the system's included, of 16 frames of small videos, others in each round; that both show
the same pictures is checked first. Then the most memory of a process that has read all clips of a
tar file, against one that has read a quarter of them. Writes results/tar_reading.json.
"""

import argparse
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import measuring
import numpy as np

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow, DataDirectory
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

FRAMES, SIDE = 16, 112
AS_FAST, AS_SMALL = 0.95, 1.03
READ = 40  # clips in a round
PADDING = 2**18  # bytes of a video that nothing shows, so that keeping a tar file would show


def make(folder: Path, videos: int) -> None:
    """A collection of so many videos as one tar file and as loose files, each prepared."""
    collection = folder / "collection"
    (collection / "0").mkdir(parents=True)
    world = [sys.executable, "-m", "vt_fairseq.cli.prepare", "miniworld", "--size", "tiny"]
    world += ["--out", folder / "world", "--train-vocabulary", "100"]
    subprocess.run(world, check=True, stdout=subprocess.DEVNULL)
    originals = sorted((folder / "world" / "world" / "videos").glob("*.mp4"))
    for number in range(videos):
        content = originals[number % len(originals)].read_bytes()
        content += (
            (PADDING + 8).to_bytes(4, "big") + b"free" + bytes(PADDING)
        )  # an empty box of MP4
        (collection / "0" / f"{number:09}.mp4").write_bytes(content)
        (collection / "0" / f"{number:09}.txt").write_text(f"clip {number % 7} of a world")
    (folder / "tar").mkdir()
    with tarfile.open(folder / "tar" / "0.tar", "w") as archive:
        for path in sorted((collection / "0").iterdir()):
            archive.add(path, path.name)
    for name, root in (("loose", collection), ("packed", folder / "tar")):
        command = [sys.executable, "-m", "vt_fairseq.cli.prepare", "video2dataset"]
        command += ["--annotations", root, "--videos", root, "--out", folder / name]
        command += ["--train-vocabulary", "40"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def opened(data: Path) -> tuple[list[ClipRow], ClipLoader]:
    """The rows of a data directory, and what loads their clips."""
    directory = DataDirectory.open(data)
    sampling = FrameSampling(num_frames=FRAMES, max_seconds=None)
    transform = ClipTransform(SIDE, train=False)
    loader = ClipLoader(directory.video_root, sampling, transform, "center")
    return list(directory.manifest("train")), loader


def some(rows: list[ClipRow], loader: ClipLoader) -> Callable[[], None]:
    """Reads READ of the rows, others in each call, the same for every way."""
    generator = random.Random(1)

    def read() -> None:
        for row in generator.sample(rows, READ):
            loader(row, None)

    return read


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--videos", type=int, default=400)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)  # a data directory, a number
    args = parser.parse_args()
    if args.read:
        rows, loader = opened(Path(args.read[0]))
        for row in rows[: int(args.read[1])]:
            loader(row, None)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.videos)
        ways = {what: opened(folder / what) for what in ("loose", "packed")}
        for loose, packed in zip(*(rows[:50] for rows, _ in ways.values()), strict=True):
            if not np.array_equal(ways["loose"][1](loose, None), ways["packed"][1](packed, None)):
                raise SystemExit(f"the tar file shows other frames: {json.dumps(packed.video)}")
        spent = measuring.in_turn({n: some(*way) for n, way in ways.items()}, args.rounds)
        script = [sys.executable, __file__, "--read", folder / "packed"]
        memory = {
            n: measuring.process(*script, str(n))["peak_mb"]
            for n in (args.videos // 4, args.videos)
        }
        size = (folder / "tar" / "0.tar").stat().st_size
    few, all_ = memory.values()
    measured = {
        "CPU time, loose files against a tar file": measuring.judged(
            measuring.ratio(spent["loose"], spent["packed"]), at_least=AS_FAST
        )
        | {f"CPU ms per clip, {n}": round(1e3 * min(s) / READ, 2) for n, s in spent.items()},
        "memory after all clips against a quarter of them": measuring.judged(
            measuring.ratio([all_], [few]), at_most=AS_SMALL
        )
        | {f"peak MB after {n} clips": mb for n, mb in memory.items()}
        | {"MB of the tar file": round(size / 1e6, 1)},
    }
    return measuring.write_result("tar_reading", measuring.machine("av"), measured)


if __name__ == "__main__":
    sys.exit(main())
