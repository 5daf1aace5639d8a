"""Clip loading against its peers: CPU time of 32 frames of a 6 s segment, one thread each.

    OMP_NUM_THREADS=1 python benchmarks/loading.py [--video FILE] [--rounds 8]

Peers that are not installed are left out, saying so (``pip install decord torchcodec``). Makes
its videos in a temporary folder: FILE (default: a moving pattern) played back and forth, encoded
with libx264 (B-frames) at 1280x720 with keyframes every 30 and every 250 frames, and a few others.
All ways are run in turn on the same random segments in one process; a ratio is that of CPU times
on the same segment. First it is checked that every way shows the same pictures. Writes
results/loading.json.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from loading_peers import FRAMES, PEERS, SHORT_SIDE, SIDE, pure_decode

from vt_fairseq.data.sampling import FrameSampling
from vt_fairseq.data.transforms import centre_crop, resize
from vt_fairseq.data.video import read_clip

RATE, SEGMENT = 30, 6.0
X264 = {"preset": "medium", "crf": "23"}
VIDEOS = {  # name: (codec, options, width, height, seconds)
    "720p h264 GOP 30": ("libx264", {**X264, "g": "30"}, 1280, 720, 60),
    "720p h264 GOP 250": ("libx264", {**X264, "g": "250"}, 1280, 720, 60),
    "360p h264 baseline": ("libx264", {**X264, "profile": "baseline", "g": "30"}, 640, 360, 20),
    "360p vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "60"}, 640, 360, 20),
    "228x128 h264 GOP 30": ("libx264", {**X264, "g": "30"}, 228, 128, 20),
}
# Least CPU time relative to ours; "elsewhere" is every other video.
BARS = {
    "torchvision/pytorchvideo pattern": 2.0,
    "decode from zero (transformers)": 4.0,
    "torchcodec (best)": 1.3,
    "decord": 1.2,
}
ELSEWHERE, LIMIT = 0.95, 1.25
OURS, PURE = "ours", "pure decode, no conversion"
LARGEST_DIFFERENCE = 8.0  # mean of |a - b| on 0 to 255: scalers differ, frames must not


def ours(path: str, start: float, end: float) -> np.ndarray:
    """What the data workers do in evaluation."""
    sampling = FrameSampling(num_frames=FRAMES, max_seconds=SEGMENT)
    frames = read_clip(path, sampling, start=start, end=end, short_side=SHORT_SIDE)
    return centre_crop(frames, SIDE)


def pictures(video: str | None):
    """Endless (720, 1280, 3) uint8 frames: those of ``video`` back and forth, or a pattern."""
    if video is None:
        rng = np.random.default_rng(0)
        noise = resize(rng.integers(0, 255, (1, 25, 45, 3), dtype=np.uint8), 900, 1600)[0]
        for step in range(10**6):
            x = int(160 + 150 * np.sin(step / 40))
            y = int(90 + 80 * np.cos(step / 57))
            frame = noise[y : y + 720, x : x + 1280].copy()
            frame[(7 * step) % 620 :][:100, (11 * step) % 1180 :][:, :100] = (step * 3) % 255
            yield frame
    with av.open(video) as container:
        frames = [f.reformat(1280, 720, "rgb24").to_ndarray() for f in container.decode(video=0)]
    frames = frames[:200]
    while True:
        yield from frames
        yield from reversed(frames)


def make(folder: Path, name: str, video: str | None) -> str:
    """Encode one of VIDEOS."""
    codec, options, width, height, seconds = VIDEOS[name]
    path = folder / (name.replace(" ", "-") + (".webm" if "vp9" in codec else ".mp4"))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _, picture in zip(range(RATE * seconds), pictures(video), strict=False):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(width, height, "yuv420p")))
        container.mux(stream.encode(None))
    return str(path)


def measure(path: str, seconds: float, rounds: int) -> dict[str, list[float]]:
    """CPU time of each way relative to ours, once a round."""
    rng = np.random.default_rng(1)
    ratios: dict[str, list[float]] = {}
    for _ in range(rounds):
        # In the second half: a decode from zero has something to do.
        start = round(float(rng.uniform(seconds / 2, seconds - SEGMENT - 0.5)), 2)
        segment = (path, start, start + SEGMENT)
        expected = ours(*segment)
        spent = {OURS: cpu_seconds(ours, segment)}
        for name, load in PEERS.items():
            difference = np.abs(load(*segment).astype(int) - expected).mean()
            if difference > LARGEST_DIFFERENCE:
                raise SystemExit(f"{name} shows other frames of {segment}: {difference:.1f}")
            spent[name] = cpu_seconds(load, segment)
        spent[PURE] = cpu_seconds(pure_decode, (*segment, False))
        spent[f"{PURE}, NONREF"] = cpu_seconds(pure_decode, (*segment, True))
        for name, value in spent.items():
            ratios.setdefault(name, []).append(value / spent[OURS])
        ratios.setdefault("ours, CPU s", []).append(spent[OURS])
    return ratios


def cpu_seconds(load, arguments: tuple) -> float:
    """The lesser of two runs."""
    found = []
    for _ in range(2):
        began = time.process_time()
        load(*arguments)
        found.append(time.process_time() - began)
    return min(found)


def judge(name: str, found: dict[str, dict]) -> list[str]:
    """Lines that say which bars a video reaches."""
    best = [v["median"] for k, v in found.items() if k.startswith("torchcodec")]
    values = {k: v["median"] for k, v in found.items() if k in PEERS}
    lines = []
    if name.startswith("720p"):
        if best:
            values["torchcodec (best)"] = min(best)
        bars = {k: (values[k], bar) for k, bar in BARS.items() if k in values}
        bars["1 / ours over pure decode"] = (found[PURE]["median"], 1 / LIMIT)
    else:
        bars = {"best peer": (min(values.values()), ELSEWHERE)}
    for what, (value, bar) in bars.items():
        verdict = "reached" if value >= bar else "NOT reached"
        lines.append(f"{what}: {value:.2f} x, bar {bar:.2f}: {verdict}")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--video", help="what to encode, instead of a moving pattern")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    missing = [p for p in ("decord", "torchcodec") if not any(p in name for name in PEERS)]
    result = {
        "command": f"python benchmarks/loading.py {shlex.join(sys.argv[1:])}".strip(),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, PyAV {av.__version__}",
        "not installed": missing,
        "CPU time relative to ours: median [least, most]": {},
        "bars": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, (*_, seconds) in VIDEOS.items():
            path = make(Path(folder), name, args.video)
            ratios = measure(path, seconds, args.rounds)
            found = {
                way: {
                    "median": round(float(np.median(v)), 3),
                    "spread": [round(min(v), 3), round(max(v), 3)],
                }
                for way, v in ratios.items()
            }
            result["CPU time relative to ours: median [least, most]"][name] = found
            result["bars"][name] = judge(name, found)
            lines = [f"  {k:40} {v['median']:6.2f} {v['spread']}" for k, v in found.items()]
            print(name, *lines, *(f"  {x}" for x in result["bars"][name]), sep="\n", flush=True)
    out = Path(__file__).parent / "results" / "loading.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
