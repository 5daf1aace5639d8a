"""Decoded pictures: the frames of a folder, and any frame as upright, scaled RGB.

H W pixels. Files are untrusted: frames above MAX_PIXELS are refused.
"""

import os
import re
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

from vt_fairseq.errors import VideoError

MAX_PIXELS = 8192 * 4320  # of one frame; "full 8K" video
MAX_ASPECT = 32  # long side / short side; keeps a 1 x 10,000 frame from being scaled to gigabytes
IMAGE_DECODERS = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG": "png"}  # by the first bytes of the file


def image_files(folder: str) -> list[Path]:
    """Image files of a folder in natural order: 2.jpg before 10.jpg."""
    suffixes = (".jpg", ".jpeg", ".png")
    names = [name for name in os.listdir(folder) if name.lower().endswith(suffixes)]
    if not names:
        raise VideoError(f"the folder has no frames, expected {', '.join(suffixes)} files")
    digits = re.compile(r"([0-9]+)")
    names.sort(key=lambda n: ([int(p) if i % 2 else p for i, p in enumerate(digits.split(n))], n))
    return [Path(folder, name) for name in names]


def decode_image(path: Path) -> av.VideoFrame:
    """One jpg or png, told by its content; straight to the decoder, so nothing else is opened."""
    if not path.is_file():
        raise VideoError(f"frame {path.name} is not a regular file")
    data = path.read_bytes()
    name = next((codec for magic, codec in IMAGE_DECODERS.items() if data.startswith(magic)), None)
    if name is None:
        raise VideoError(f"frame {path.name} is neither jpg nor png")
    decoder = av.CodecContext.create(name, "r")
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    try:
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except av.FFmpegError as error:
        raise VideoError(f"frame {path.name} cannot be decoded: {reason(error)}") from error
    if not frames:
        raise VideoError(f"frame {path.name} cannot be decoded")
    return frames[0]


class Scaler:
    """Decoded frame to upright (H, W, 3) uint8 RGB, all of the first one's H and W."""

    def __init__(self, short_side: int | None) -> None:
        self.short_side = short_side
        self.shape: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        turns = quarter_turns(frame)
        width, height = self._target(frame, turns)
        rgb = frame.reformat(
            width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        ).to_ndarray()
        return np.rot90(rgb, turns)

    def _target(self, frame: av.VideoFrame, turns: int) -> tuple[int, int]:
        """Width and height before rotation."""
        flip = slice(None, None, -1 if turns % 2 else 1)
        if self.shape is None:
            size = (frame.width, frame.height)
            check_size(*size)
            scale = self.short_side / min(size) if self.short_side else 1.0
            self.shape = tuple(round(side * scale) for side in size)[flip]
        return self.shape[flip]


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(f"frames of {width}x{height} pixels, at most {MAX_PIXELS} pixels are read")
    if max(width, height) > MAX_ASPECT * min(width, height) > 0:
        raise VideoError(f"frames of {width}x{height} pixels are no picture")


def quarter_turns(frame: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise, 0 to 3, that make the frame upright."""
    degrees = frame.rotation
    return round(degrees / 90) % 4 if abs(degrees) <= 360 else 0  # FFmpeg's NaN is INT_MIN


def reason(error: BaseException) -> str:
    """FFmpeg's message on one line, without the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
