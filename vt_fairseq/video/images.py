"""Single pictures: the frames of a folder, any frame as upright, scaled RGB, and JPEG files.

H W pixels. Files are untrusted: frames above MAX_PIXELS are refused.
"""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import Interpolation

from vt_fairseq.errors import VideoError
from vt_fairseq.video.boundary import Boundary

MAX_PIXELS = 8192 * 4320  # of one frame; "full 8K" video
MAX_IMAGE_BYTES = 3 * MAX_PIXELS  # of a jpg or png: the largest frame as uncompressed RGB
MAX_ASPECT = 32  # long side / short side; keeps a 1 x 10,000 frame from being scaled to gigabytes
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
IMAGE_DECODERS = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG": "png"}  # by the first bytes of the file


def image_files(folder: str) -> list[Path]:
    """Image files of a folder in natural order: 2.jpg before 10.jpg."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(IMAGE_SUFFIXES)]
    if not names:
        raise VideoError(f"the folder has no frames, expected {', '.join(IMAGE_SUFFIXES)} files")
    digits = re.compile(r"([0-9]+)")
    names.sort(key=lambda n: ([int(p) if i % 2 else p for i, p in enumerate(digits.split(n))], n))
    return [Path(folder, name) for name in names]


def decode_image(path: Path, boundary: Boundary | None = None) -> av.VideoFrame:
    """One jpg or png, told by its content; straight to the decoder, so nothing else is opened.

    ``boundary`` is one that the picture's folder lies in: only a link can lead out of it.
    Raises VideoError for a file that is no picture, or is larger than any can be.
    """
    if boundary is not None and path.is_symlink():
        boundary.check(path)
    if not path.is_file():
        raise VideoError(f"frame {path.name} is not a regular file")
    with open(path, "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_IMAGE_BYTES:
            raise VideoError(
                f"frame {path.name} has {size:,} bytes, at most {MAX_IMAGE_BYTES:,} are read"
            )
        data = file.read(size)
    name = next((codec for magic, codec in IMAGE_DECODERS.items() if data.startswith(magic)), None)
    if name is None:
        raise VideoError(f"frame {path.name} is neither jpg nor png")
    decoder = cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    decoder.thread_count = 1
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    try:
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except av.FFmpegError as error:
        raise VideoError(f"frame {path.name} cannot be decoded: {reason(error)}") from error
    if not frames:
        raise VideoError(f"frame {path.name} cannot be decoded")
    return frames[0]


def encode_jpeg(picture: np.ndarray, quality: int | None = None) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file.

    ``quality`` is on FFmpeg's scale: 2 is best, 31 worst; None: as FFmpeg chooses.
    """
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 3)
    if quality is not None:
        encoder.qmin = encoder.qmax = quality
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    packets = [*encoder.encode(frame.reformat(format="yuvj420p")), *encoder.encode(None)]
    return b"".join(map(bytes, packets))


class Scaler:
    """Decoded frame to upright (H, W, 3) uint8 RGB, all of the first one's H and W."""

    def __init__(self, short_side: int | None) -> None:
        self.short_side = short_side
        self.shape: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        sideways, mirror_x, mirror_y = orientation(frame)
        width, height = self._stored_size(frame, sideways)
        rgb = frame.reformat(
            width, height, "rgb24", interpolation=Interpolation.BILINEAR, threads=1
        ).to_ndarray()
        if sideways:
            rgb = rgb.transpose(1, 0, 2)
        return rgb[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]

    def _stored_size(self, frame: av.VideoFrame, sideways: bool) -> tuple[int, int]:
        """Width and height before rotation."""
        if self.shape is None:
            check_size(frame.width, frame.height)
            scale = self.short_side / min(frame.width, frame.height) if self.short_side else 1.0
            width, height = round(frame.width * scale), round(frame.height * scale)
            self.shape = (width, height) if sideways else (height, width)
        return self.shape if sideways else self.shape[::-1]


def check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(f"frames of {width}x{height} pixels, at most {MAX_PIXELS} pixels are read")
    if max(width, height) > MAX_ASPECT * min(width, height) > 0:
        raise VideoError(f"frames of {width}x{height} pixels are no picture")


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is made upright: whether to swap x and y, then to mirror x, and to mirror y.

    Display matrices that turn by other than quarter turns are taken for the nearest of them.
    """
    if not frame.side_data:
        return False, False, False
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # A stored point (x, y) is shown at (a x + c y, b x + d y); 16.16 fixed point.
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def reason(error: BaseException) -> str:
    """FFmpeg's message on one line, without the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
