"""Clip loading against its peers: CPU time of 32 frames of a 6 s segment, one thread each.

    python benchmarks/loading.py [--video FILE] [--rounds 6] [--against CHECKOUT]

Peers that are not installed are left out, saying so (``pip install decord torchcodec``). Makes
its videos in a temporary folder: FILE (default: a moving pattern) played back and forth, encoded
with libx264 (B-frames) at 1280x720 with keyframes every 30 and every 250 frames, and a few others.
All ways load the same random segments, one per round, in turn; that they show the same pictures is
checked first. With another checkout of this project, the reading in that one is one of the ways, in
the same process. Writes results/loading.json, or loading_against.json.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import measuring
import numpy as np
from loading_peers import FRAMES, OPTIONAL, PEERS, SHORT_SIDE, SIDE, pure_decode

from vt_fairseq.video.decoding import read_clip
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import center_crop, resize

RATE, SEGMENT = 30, 6.0
X264 = {"preset": "medium", "crf": "23"}
VIDEOS = {  # name: (codec, options, width, height, seconds)
    "720p h264 GOP 30": ("libx264", {**X264, "g": "30"}, 1280, 720, 40),
    "720p h264 GOP 250": ("libx264", {**X264, "g": "250"}, 1280, 720, 40),
    "360p h264 baseline": ("libx264", {**X264, "profile": "baseline", "g": "30"}, 640, 360, 16),
    "360p vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "60"}, 640, 360, 16),
    "228x128 h264 GOP 30": ("libx264", {**X264, "g": "30"}, 228, 128, 16),
}
# At 720p: the least CPU time of the best way of each peer, relative to ours. Elsewhere ANY way.
BARS = {"torchvision/pytorchvideo": 2.0, "transformers": 4.0, "torchcodec": 1.3, "decord": 1.2}
ANY = 0.95
# Most CPU time of ours, relative to decoding alone without the frames that nobody needs.
LIMITS = {"720p h264 GOP 30": 1.25, "720p h264 GOP 250": 1.25, "228x128 h264 GOP 30": 1.7}
OURS, PURE, BEFORE = "ours", "pure decode", "the other checkout"
# Where read_clip was and is.
MODULES = ("vt_fairseq.data.video", "vt_fairseq.video.decoding")
CHECKED = 2  # segments of each video
LARGEST_DIFFERENCE = 8.0  # mean of |a - b| on 0 to 255: scalers differ, frames must not


def ours(path: str, start: float, end: float) -> np.ndarray:
    """What the data workers do in evaluation."""
    sampling = FrameSampling(num_frames=FRAMES, max_seconds=SEGMENT)
    frames = read_clip(path, sampling, start=start, end=end, short_side=SHORT_SIDE)
    return center_crop(frames, SIDE)


def reading_in(checkout: Path) -> Callable[[str, float, float], np.ndarray]:
    """What ``ours`` does, by the package of another checkout, imported beside this one."""
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if is_ours(name)}
    sys.path.insert(0, str(checkout))
    try:
        name = next(n for n in MODULES if (checkout / f"{n.replace('.', '/')}.py").is_file())
        there = importlib.import_module(name)
        assert Path(there.__file__ or "").is_relative_to(checkout), there.__file__
    finally:
        sys.path.remove(str(checkout))
        for name in list(filter(is_ours, sys.modules)):
            del sys.modules[name]
        sys.modules |= aside

    def read(path: str, start: float, end: float) -> np.ndarray:
        sampling = there.FrameSampling(num_frames=FRAMES, max_seconds=SEGMENT)
        frames = there.read_clip(path, sampling, start=start, end=end, short_side=SHORT_SIDE)
        return center_crop(frames, SIDE)

    return read


def is_ours(module: str) -> bool:
    """Whether a module is this project's."""
    return module.split(".")[0] == "vt_fairseq"


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


def compare(path: str, seconds: float, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each way, one random segment per round; ends the run where pictures differ."""
    rng = np.random.default_rng(1)
    # In the second half: a decode from zero has something to do.
    starts = rng.uniform(seconds / 2, seconds - SEGMENT - 0.5, rounds + 1).round(2)
    segments = [(path, float(start), float(start) + SEGMENT) for start in starts]
    for segment in segments[:CHECKED]:
        expected = ours(*segment)
        for name, load in PEERS.items():
            difference = np.abs(load(*segment).astype(int) - expected).mean()
            if difference > LARGEST_DIFFERENCE:
                raise SystemExit(f"{name} shows other frames of {segment}: {difference:.1f}")
    ways = {OURS: ours, **PEERS, PURE: pure_decode}
    return measuring.in_turn({name: each(load, segments) for name, load in ways.items()}, rounds)


def each(load: Callable[..., object], segments: list[tuple]) -> Callable[[], object]:
    """Loads the next segment whenever it is called."""
    left = iter(segments)
    return lambda: load(*next(left))


def judge(name: str, spent: dict[str, list[float]]) -> Iterator[tuple[str, dict]]:
    """What is compared on one video, and what came out."""
    if BEFORE in spent:
        yield f"{name}: ours to {BEFORE}", measuring.ratio(spent[OURS], spent[BEFORE])
        yield f"{name}: {BEFORE} to {PURE}", measuring.ratio(spent[BEFORE], spent[PURE])
    ratios = {way: measuring.ratio(spent[way], spent[OURS]) for way in PEERS if way != BEFORE}
    bars = BARS if name.startswith("720p") else {"": ANY}
    for peer, bar in bars.items():
        # A peer's ways begin with its name; every way with the empty one.
        ways = [way for way in ratios if way.startswith(peer)]
        if ways:
            best = min(ways, key=lambda way: ratios[way]["ratio"])
            what = f"{name}: {best}" if peer else f"{name}: the best peer ({best})"
            yield what, measuring.judged(ratios[best], at_least=bar)
    limit = measuring.ratio(spent[OURS], spent[PURE])
    if name in LIMITS:
        limit = measuring.judged(limit, at_most=LIMITS[name])
    yield f"{name}: ours to pure decode", limit
    milliseconds = {way: round(1e3 * min(seconds), 1) for way, seconds in spent.items()}
    yield f"{name}: CPU ms per clip", milliseconds


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", help="what to encode, instead of a moving pattern")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--against", type=Path, help="another checkout, in the place of the peers")
    args = parser.parse_args()
    if args.against:
        PEERS.clear()
        PEERS[BEFORE] = reading_in(args.against.resolve())
    for peer in OPTIONAL if not args.against else ():
        if not any(name.startswith(peer) for name in PEERS):
            print(f"left out: {peer} is not installed, or does not start")
    measured: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (*_, seconds) in VIDEOS.items():
            path = make(Path(folder), name, args.video)
            measured |= judge(name, compare(path, seconds, args.rounds))
    result = "loading_against" if args.against else "loading"
    return measuring.write_result(result, measuring.machine("av", *OPTIONAL), measured)


if __name__ == "__main__":
    sys.exit(main())
