"""H.264 whose frames are two fields each (PAFF), as recorders write it and no free encoder does.

All macroblocks are raw samples (I_PCM), so a few syntax elements of ITU-T H.264, section 7.3, do.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.media import HEIGHT, WIDTH, numbered_frame

KEYFRAME_EVERY = 10
LOG2_MAX = 4  # bits of frame_num; order counts have twice as many
CLOCK = 90_000
FIELD_TICKS = CLOCK // 50


class Bits:
    """Writes syntax elements; "u", "ue" and "se" as in section 7.2."""

    def __init__(self) -> None:
        self.bits: list[str] = []

    def u(self, length: int, value: int) -> None:
        self.bits.append(format(value, f"0{length}b"))

    def ue(self, *values: int) -> None:
        for value in values:
            code = format(value + 1, "b")
            self.bits.append("0" * (len(code) - 1) + code)

    def align(self, bit: str = "0") -> None:
        self.bits.append(bit * (-len("".join(self.bits)) % 8))

    def samples(self, data: bytes) -> None:
        self.align()
        self.bits.append("".join(format(byte, "08b") for byte in data))

    def unit(self, header: int) -> bytes:
        """A NAL unit with its start code."""
        self.bits.append("1")
        self.align()
        text = "".join(self.bits)
        payload = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
        for ending in (0, 1, 2, 3):  # emulation prevention
            payload = payload.replace(bytes((0, 0, ending)), bytes((0, 0, 3, ending)))
        return bytes((0, 0, 0, 1, header)) + payload


def _headers() -> bytes:
    sps = Bits()
    for value in (77, 0, 40):  # Main profile
        sps.u(8, value)
    sps.ue(0, LOG2_MAX - 4, 0, 2 * LOG2_MAX - 4, 1)
    sps.u(1, 0)
    sps.ue(WIDTH // 16 - 1, HEIGHT // 32 - 1)
    sps.u(6, 0b001001)  # fields, no MBAFF, 8x8 inference, no crop; VUI follows, nothing until
    sps.u(4, 0b0000)  # its timing
    sps.u(1, 1)
    sps.u(32, 1)
    sps.u(32, 50)
    sps.u(1, 1)
    sps.u(4, 0b0001)  # no HRD, no pic_struct; restrictions follow
    sps.u(1, 1)
    sps.ue(0, 0, 10, 10, 0, 1)  # no reordering
    pps = Bits()
    pps.ue(0, 0)
    pps.u(2, 0)
    pps.ue(0, 0, 0)
    pps.u(3, 0)
    pps.ue(0, 0, 0)
    pps.u(3, 0b100)  # slices say whether they are deblocked
    return sps.unit(0x67) + pps.unit(0x68)


def _field(picture: np.ndarray, number: int, frame_num: int, bottom: bool) -> bytes:
    """One field of frame ``number`` as one slice."""
    position = number % KEYFRAME_EVERY
    idr, reference = position == 0 and not bottom, position % 2 == 0
    slice_ = Bits()
    slice_.ue(0, 7, 0)
    slice_.u(LOG2_MAX, frame_num % 2**LOG2_MAX)
    slice_.u(1, 1)
    slice_.u(1, bottom)
    if idr:
        slice_.ue(number // KEYFRAME_EVERY % 2)
    slice_.u(2 * LOG2_MAX, 2 * position + bottom)
    if reference:
        slice_.u(2 if idr else 1, 0)
    slice_.ue(0, 1)
    lines = picture[bottom::2]
    chroma = bytes([128] * 128)
    for top in range(0, len(lines), 16):
        for left in range(0, WIDTH, 16):
            slice_.ue(25)
            slice_.samples(lines[top : top + 16, left : left + 16].tobytes() + chroma)
    return slice_.unit((0x60 if reference else 0) | (5 if idr else 1))


def _fields(count: int) -> Iterator[bytes]:
    frame_num = 0
    for number in range(count):
        position = number % KEYFRAME_EVERY
        frame_num = 0 if position == 0 else frame_num + (position % 2)
        for bottom in (False, True):
            picture = numbered_frame(2 * number + bottom)[..., 0]
            header = _headers() if position == 0 and not bottom else b""
            yield header + _field(picture, number, frame_num, bottom)


def write_field_pairs(path: Path, count: int) -> Path:
    """A video of ``count`` frames, 25 per second, whose 2 * ``count`` numbered fields are packets.

    Every second frame is one that no other refers to.
    """
    fields = list(_fields(count))
    raw = path.with_suffix(".h264")
    raw.write_bytes(b"".join(fields))
    with av.open(str(raw)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, field in enumerate(fields):
            packet = av.Packet(field)
            packet.pts = packet.dts = index * FIELD_TICKS
            packet.duration, packet.time_base = FIELD_TICKS, Fraction(1, CLOCK)
            packet.is_keyframe = index % (2 * KEYFRAME_EVERY) == 0
            packet.stream = stream
            target.mux(packet)
    raw.unlink()
    return path
