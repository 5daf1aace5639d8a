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
START = re.compile(r"Duration: .*, start: (-?[0-9.]+)")
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
            "joined": what ffmpeg makes of them when they begin anew; "appended": the same where it
            makes nothing of them, by arithmetic; "dts", "pts": the k-th frame
            has the k-th smallest of these times of packets, where these are all that is stored;
            "order": the k-th frame has the presentation time of the k-th packet in the file, where
            frames are not reordered, since the program prefers decoding times after odd ones;
            "counted": frames at a constant rate, in streams without a container.
    """
    output = ["-an", "-sn", "-dn", "-fps_mode", "passthrough", "-vf", "showinfo=checksum=0"]
    output += ["-map", f"0:{stream}", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    done = ffmpeg("-v", "info", *([] if timeline == "joined" else ["-copyts"]), "-i", path, *output)
    log = done.stderr.decode(errors="replace")
    stamps, numbers = _pictures(log, done.stdout)
    start = float(match[1]) if (match := START.search(log)) else 0.0
    if timeline in ("joined", "counted"):
        start = 0.0
    if timeline == "counted":
        stamps = [k * _usual_step(stamps) for k in range(len(stamps))]
    elif timeline == "appended":
        stamps = _appended([stamp - start for stamp in stamps])
        start = 0.0
    elif timeline == "order":
        packets = [packet for packet in _packets(path, stream) if "pts_time" in packet]
        if packets:
            stamps = [float(packet["pts_time"]) for packet in packets][: len(stamps)]
    elif timeline in ("dts", "pts"):
        # Of packets that hold something: an empty one repeats the frame before.
        packets = [p for p in _packets(path, stream) if int(p["size"])]
        if all(f"{timeline}_time" in packet for packet in packets):
            stamps = sorted(float(p[f"{timeline}_time"]) for p in packets)[: len(stamps)]
            numbers = numbers[: len(stamps)]
    times = list(accumulate((stamp - start for stamp in stamps), max))
    return Shown(times, numbers, times[-1] + _usual_step(times))


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


def _packets(path: Path, stream: str) -> list[dict[str, Any]]:
    """The packets of the video in the order of the file."""
    show = ("-show_entries", "packet=pts_time,dts_time,size")
    return ffprobe(path, "-select_streams", stream, *show).get("packets", [])


def _appended(stamps: Sequence[float]) -> list[float]:
    """Where they go back by more than 0.1 s another file begins, right behind the one before."""
    step, offset, found = _usual_step(stamps), 0.0, list(stamps[:1])
    for stamp in stamps[1:]:
        if stamp + offset < found[-1] - 0.1:
            offset = found[-1] + step - stamp
        found.append(stamp + offset)
    return found


def _usual_step(times: Sequence[float]) -> float:
    steps = [b - a for a, b in pairwise(times)]
    return float(np.median(steps)) if steps else 0.0
