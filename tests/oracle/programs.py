"""The programs ``ffmpeg`` and ``ffprobe``: they make files, and tell which frame has which time.

Only tests need them. They are another build, and another version, of FFmpeg than the one in PyAV.
"""

import json
import re
import shutil
import subprocess
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tests.media import read_numbers

MISSING = [name for name in ("ffmpeg", "ffprobe") if shutil.which(name) is None]
SECONDS = 60
PICTURE = re.compile(r"n: *\d+ pts: *(\S+) .*? s:(\d+)x(\d+) ")
TICK = re.compile(r"config in time_base: (\d+)/(\d+)")


class CannotMakeError(Exception):
    """ffmpeg refused to write a file; its last line."""


@dataclass(frozen=True)
class Shown:
    """The frames of a file in the order in which they are shown.

    Attributes:
        times: seconds from the start of the file, ascending.
        numbers: of the pictures.
        end: seconds at which the last frame ends.
    """

    times: list[float]
    numbers: list[int]
    end: float

    def at(self, seconds: float) -> int:
        """The last frame at or before; the first one before all."""
        return self.numbers[max(0, bisect_right(self.times, seconds) - 1)]

    @property
    def longest(self) -> float:
        """Seconds between two frames, at most; of a single frame, its own."""
        gaps = [b - a for a, b in pairwise(self.times)]
        return max([*gaps, self.end - self.times[-1]])


def ffmpeg(*arguments: object, data: bytes | None = None) -> subprocess.CompletedProcess:
    """Run ffmpeg on one thread; raise CannotMakeError where it fails."""
    command = ["ffmpeg", "-hide_banner", "-nostats", "-y", "-threads", "1", *map(str, arguments)]
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, **source)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().split("\n")
        raise CannotMakeError(lines[-1])
    return done


def ffprobe(path: Path, *arguments: str) -> dict[str, Any]:
    """What ffprobe prints as JSON."""
    command = ["ffprobe", "-v", "error", "-threads", "1", "-of", "json", *arguments, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, timeout=SECONDS).stdout)


def shown_by_ffmpeg(path: Path, stream: str = "V:0", timeline: str = "stamps") -> Shown:
    """One sequential pass of ffmpeg over the file.

    Args:
        stream: ffmpeg's specifier of the video stream; "V" leaves out attached pictures.
        timeline: "stamps": the file's own timestamps, as they are, from the start of the file;
            "joined": what ffmpeg makes of them when they begin anew; "dts", "pts": the k-th frame
            has the k-th smallest of these times of packets, where these are all that is stored;
            "counted": frames at a constant rate, in streams without a container.
    """
    flags = [] if timeline == "joined" else ["-copyts"]
    output = ["-an", "-sn", "-dn", "-fps_mode", "passthrough", "-vf", "showinfo=checksum=0"]
    output += ["-map", f"0:{stream}", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    done = ffmpeg("-v", "info", *flags, "-i", path, *output)
    stamps, numbers = _pictures(done.stderr.decode(errors="replace"), done.stdout)
    start, packets = _start_and_packets(path, stream)
    if timeline in ("dts", "pts"):
        # Of packets that hold something: an empty one repeats the frame before.
        times = sorted(float(p[f"{timeline}_time"]) for p in packets if int(p["size"]))
        stamps = times[: len(stamps)]
    if timeline == "counted":
        stamps = [k * _usual_step(stamps) for k in range(len(stamps))]
    if timeline in ("joined", "counted"):
        start = 0.0
    times = list(accumulate((stamp - start for stamp in stamps), max))
    return Shown(times, numbers, times[-1] + (_last_length(packets) or _usual_step(times)))


def _pictures(log: str, raw: bytes) -> tuple[list[float], list[int]]:
    """Seconds and numbers of the frames that ``showinfo`` logged and that stand in ``raw``."""
    stamps, numbers, at, tick = [], [], 0, Fraction(1)
    for line in log.split("\n"):
        if match := TICK.search(line):
            tick = Fraction(int(match[1]), int(match[2]))
        elif match := PICTURE.search(line):
            width, height = int(match[2]), int(match[3])
            size = width * height * 3
            picture = np.frombuffer(raw, np.uint8, size, at).reshape(1, height, width, 3)
            stamps.append(float(int(match[1]) * tick))
            numbers += read_numbers(picture)
            at += size
    if at != len(raw) or not stamps:
        raise CannotMakeError(f"ffmpeg shows {len(stamps)} frames of {len(raw)} bytes")
    return stamps, numbers


def _start_and_packets(path: Path, stream: str) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of the first timestamp in the file, of whatever stream; the video's packets."""
    show = ("-show_entries", "format=start_time:packet=pts_time,dts_time,duration_time,size")
    found = ffprobe(path, "-select_streams", stream, *show)
    return float(found["format"].get("start_time", 0)), found.get("packets", [])


def _last_length(packets: Sequence[dict[str, Any]]) -> float:
    """Seconds of the packet that is shown last; 0 where it does not say."""
    timed = [packet for packet in packets if "pts_time" in packet]
    last = max(timed, key=lambda packet: float(packet["pts_time"]), default={})
    return float(last.get("duration_time", 0))


def _usual_step(times: Sequence[float]) -> float:
    steps = [b - a for a, b in pairwise(times)]
    return float(np.median(steps)) if steps else 0.0
