"""Ten thousand opens of a video: memory, threads and file descriptors that they leave behind.

    python benchmarks/opens.py [--opens 10000]

Ours is ``read_clip``, in turn of a sound video, of one that is cut off and of one that is no video.
Beside it, PyAV as it is often used: opened, one frame decoded, and not closed (a tenth of the
times). Each in a process of its own, after WARM opens that are not counted. Writes
benchmarks/results/opens.json; exits with 1 where ours leaves more than MOST_KIB an open, a thread
or a descriptor.
"""

import argparse
import collections
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.fuzz_media import in_a_process  # noqa: E402
from benchmarks.measuring import RESULTS, machine  # noqa: E402
from tests import media  # noqa: E402
from vt_fairseq.errors import VideoError  # noqa: E402
from vt_fairseq.video.decoding import read_clip  # noqa: E402
from vt_fairseq.video.frame_sampling import FrameSampling  # noqa: E402

WARM = 100
MOST_KIB = 2.0
KEYS = ("KiB an open", "threads more", "descriptors more")
COUNTS = ("threads", "descriptors")
SAMPLING = FrameSampling(num_frames=4, max_seconds=None)


def make_videos(folder: Path) -> list[Path]:
    """A sound video of 20 frames, its first half, and a text."""
    sound = media.write_numbered(folder / "sound.mp4", 20)
    cut, text = folder / "cut.mp4", folder / "text.mp4"
    cut.write_bytes(sound.read_bytes()[: sound.stat().st_size // 2])
    text.write_text("no video " * 1000)
    return [sound, cut, text]


def ours(path: Path) -> None:
    """Read as training does; a file that is refused has been opened, too."""
    try:
        read_clip(path, SAMPLING)
    except VideoError as error:
        assert path.name != "sound.mp4", error


def held() -> dict[str, int]:
    """Of this process: resident memory in KiB, threads (FFmpeg's too), descriptors."""
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status)
    return {
        "kib": int(fields["VmRSS"].split()[0]),
        "threads": int(fields["Threads"]),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def left_behind(call: Callable[[Path], object], paths: list[Path], opens: int) -> dict[str, float]:
    """What ``opens`` calls leave, after WARM that fill caches; and the most on the way."""
    for number in range(WARM):
        call(paths[number % len(paths)])
    gc.collect()
    before, most = held(), collections.Counter()
    for number in range(opens):
        call(paths[number % len(paths)])
        if number % 10 == 0:
            most |= collections.Counter(held())
    gc.collect()
    after = held()
    return {
        "opens": opens,
        KEYS[0]: round((after["kib"] - before["kib"]) / opens, 2),
        **{key: after[what] - before[what] for key, what in zip(KEYS[1:], COUNTS, strict=True)},
        **{f"most {what}": most[what] for what in COUNTS},
        "most MiB more": round((most["kib"] - before["kib"]) / 1024, 1),
    }


def not_closed(path: Path) -> None:
    """PyAV as in many a loader; the container is left to Python."""
    container = av.open(str(path))
    container.streams.video[0].thread_type = "AUTO"
    for frame in container.decode(video=0):
        frame.to_ndarray(format="rgb24")
        break


def measure(folder: Path, opens: int) -> dict[str, dict[str, float]]:
    """What both ways leave behind, each in a process of its own."""
    sound, *damaged = make_videos(folder)
    found = {}
    for name, call, paths, times in (
        ("read_clip", ours, [sound, *damaged], opens),
        ("PyAV, not closed", not_closed, [sound], opens // 10),
    ):
        kind, answer = in_a_process(lambda c=call, p=paths, t=times: left_behind(c, p, t), 3600)
        assert kind == "done", (name, kind, answer)
        found[name] = answer
    return found


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--opens", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), args.opens)
    text = json.dumps({"machine": machine("av"), "most KiB an open": MOST_KIB, **found}, indent=1)
    (RESULTS / "opens.json").write_text(text + "\n")
    print(text)
    kib, *more = (found["read_clip"][key] for key in KEYS)
    sys.exit(not (kib <= MOST_KIB and max(more) <= 0))


if __name__ == "__main__":
    main()
