"""Small synthetic videos whose pixels tell which frame they are."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 128, 96
COLUMNS, ROWS = 4, 3  # 12 bits of frame number in black and white blocks
BLOCK = 32


def numbered_frame(number: int) -> np.ndarray:
    """(96, 128, 3) uint8 picture of ``number`` < 4096: one block a bit, lowest bit top left."""
    bits = (number >> np.arange(COLUMNS * ROWS)) & 1
    blocks = np.where(bits, 235, 20).astype(np.uint8).reshape(ROWS, COLUMNS)
    gray = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
    return np.repeat(gray[..., None], 3, axis=2)


def read_numbers(frames: np.ndarray) -> list[int]:
    """Numbers in (F, H, W, 3) uint8 pictures of any size with the ratio 4:3."""
    height, width = frames.shape[1:3]
    rows = ((np.arange(ROWS) + 0.5) * height / ROWS).astype(int)
    columns = ((np.arange(COLUMNS) + 0.5) * width / COLUMNS).astype(int)
    bits = frames[:, rows][:, :, columns].mean(axis=-1) > 128
    return (bits.reshape(len(frames), -1) << np.arange(COLUMNS * ROWS)).sum(axis=1).tolist()


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    rate: int = 25,
    milliseconds: Sequence[int] | None = None,
    rotation: int = 0,
    pixel_format: str = "yuv420p",
    muxer_options: dict[str, str] | None = None,
    muxer: str | None = None,
) -> Path:
    """Encode (H, W, 3) uint8 ``frames``, at ``rate`` or shown at the given ``milliseconds``."""
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", format=muxer, options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if milliseconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index if milliseconds is None else milliseconds[index]
            frame.time_base = Fraction(1, rate if milliseconds is None else 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_numbered(path: Path, count: int, **options) -> Path:
    """A video of the frames 0 to ``count`` - 1; options of ``write_video``."""
    return write_video(path, [numbered_frame(number) for number in range(count)], **options)


def write_sound(path: Path) -> Path:
    """A file of an eighth of a second of silence, and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_folder(folder: Path, count: int, suffix: str = "jpg") -> Path:
    """A folder of numbered frames, 1.jpg to COUNT.jpg, without leading zeros."""
    folder.mkdir()
    codec, pixel_format = {"jpg": ("mjpeg", "yuvj420p"), "png": ("png", "rgb24")}[suffix]
    for number in range(count):
        encoder = av.CodecContext.create(codec, "w")
        encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, pixel_format
        encoder.time_base = Fraction(1, 25)
        frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
        packets = [*encoder.encode(frame.reformat(format=pixel_format)), *encoder.encode(None)]
        (folder / f"{number + 1}.{suffix}").write_bytes(b"".join(bytes(p) for p in packets))
    return folder


def sequential_decode(path: Path) -> list[tuple[float, int]]:
    """(seconds from the first frame, number) of every frame, decoded from the start in order."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    numbers = read_numbers(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))
    return [
        (float((frame.pts - frames[0].pts) * frame.time_base), number)
        for frame, number in zip(frames, numbers, strict=True)
    ]
