"""Clips read from the copies of ``vt-prepare --transcode`` against their 720p originals.

    python benchmarks/copies.py [--video FILE] [--rounds 12]

CPU time of 32 frames of a 6 s segment, one thread, in turn; that both show the same pictures is
checked first. Then two data workers against one, reading the copies: time on the clock, which says
nothing where other work takes the cores and is not judged then. Writes results/copies.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring
import numpy as np
from loading import LARGEST_DIFFERENCE, SEGMENT, VIDEOS, each, make
from loading_peers import FRAMES, SIDE

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow, DataDirectory
from vt_fairseq.scoring.windows import WindowDataset, decode_windows
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

NAME = "720p h264 GOP 30"
CHEAPER, TWO_WORKERS = 10.0, 1.8
BUSY = 1.5  # load average at the beginning; what ran just before leaves one
CLIPS, BATCH = 240, 8  # that the workers read in a round


def prepare(folder: Path, name: str, *options: str) -> tuple[list[ClipRow], ClipLoader]:
    """The clips of folder/annotations.jsonl as vt-prepare makes them, and what loads them."""
    command = [sys.executable, "-m", "vt_fairseq.cli.prepare", "jsonl", "--out", folder / name]
    command += ["--annotations", folder / "annotations.jsonl", "--videos", folder]
    command += ["--train-vocabulary", "100", *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    data = DataDirectory.open(folder / name)
    loader = ClipLoader(
        video_root=Path(data.video_root),
        sampling=FrameSampling(num_frames=FRAMES, max_seconds=SEGMENT),
        transform=ClipTransform(SIDE, train=False),
        window="center",
    )
    return list(data.manifest("train")), loader


def write_annotations(folder: Path, video: str, clips: int) -> None:
    """Segments spread over the video."""
    last = VIDEOS[NAME][-1] - SEGMENT
    with open(folder / "annotations.jsonl", "w", encoding="utf-8") as file:
        for number, start in enumerate(np.linspace(0, last, clips).round(2).tolist()):
            row = {"id": f"c{number}", "video": video, "start": start, "end": start + SEGMENT}
            print(json.dumps(row | {"caption": f"clip {number} of {clips}"}), file=file)


def read(rows: list[ClipRow], loader: ClipLoader, workers: int) -> None:
    """Batches of clips from so many processes, as ``vt-score`` reads them."""
    rows = [rows[number % len(rows)] for number in range(CLIPS)]
    dataset = WindowDataset(rows, [loader], num_windows=1)
    steps = [[(row, 0) for row in range(i, min(i + BATCH, CLIPS))] for i in range(0, CLIPS, BATCH)]
    for batch in decode_windows(dataset, steps, workers, pin_memory=False):
        if batch.unread:
            raise SystemExit(f"a copy cannot be read: {batch.unread[0]}")


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", help="what to encode, instead of a moving pattern")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_annotations(folder, make(folder, NAME, args.video), args.rounds + 1)
        originals = prepare(folder, "originals")
        copies = prepare(folder, "copies", "--transcode")
        ways = {}
        for what, (rows, loader) in {"originals": originals, "copies": copies}.items():
            ways[what] = each(loader, [(row, None) for row in rows])
        for original, copy in zip(originals[0], copies[0], strict=True):
            pictures = originals[1](original, None).astype(int)
            difference = np.abs(pictures - copies[1](copy, None)).mean()
            if difference > LARGEST_DIFFERENCE:
                raise SystemExit(f"the copy shows other frames of {original}: {difference:.1f}")
        spent = measuring.in_turn(ways, args.rounds)
        reading = {f"{n} workers": lambda n=n: read(*copies, n) for n in (1, 2)}
        clock = measuring.in_turn(reading, args.rounds // 2 + 1, time.perf_counter)
    cheaper = measuring.ratio(spent["originals"], spent["copies"])
    faster = measuring.ratio(clock["1 workers"], clock["2 workers"])
    measured = {
        "copies against 720p": measuring.judged(cheaper, at_least=CHEAPER)
        | {f"CPU ms per clip, {what}": round(1e3 * min(s), 1) for what, s in spent.items()},
        "two workers against one": measuring.judged(faster, at_least=TWO_WORKERS)
        | {f"clips per second, {what}": round(CLIPS / min(s)) for what, s in clock.items()},
    }
    if load > BUSY:
        del measured["two workers against one"]["reached"]
        measured["two workers against one"]["not judged"] = f"load average {load} before"
    return measuring.write_result("copies", measuring.machine("av"), measured)


if __name__ == "__main__":
    sys.exit(main())
