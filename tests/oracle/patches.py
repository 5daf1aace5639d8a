"""Changes to the bytes of finished files that no muxer would write, but that files have."""

import struct
from collections.abc import Callable, Iterator

Patch = Callable[[bytes], bytes]
IDENTITY = 0x10000  # 1.0 of a display matrix


def cut(begin: float, end: float) -> Patch:
    """The part of the file between two fractions of its length."""
    return lambda data: data[int(len(data) * begin) : int(len(data) * end)]


def without_index(data: bytes) -> bytes:
    """AVI as a recorder leaves it that lost its power: without the index at its end."""
    return data[: data.rindex(b"idx1")]


def duration(seconds: float) -> Patch:
    """The header says that the file lasts ``seconds``, whatever there is."""

    def patch(data: bytes) -> bytes:
        if data[4:8] == b"ftyp":
            return _mov_duration(data, seconds)
        if data.startswith(b"\x1a\x45\xdf\xa3"):  # Duration, in ms
            at = data.index(b"\x44\x89\x88") + 3
            return _replaced(data, at, struct.pack(">d", seconds * 1e3))
        if data.startswith(b"FLV"):
            return _replaced(data, data.index(b"duration\0") + 9, struct.pack(">d", seconds))
        return _asf_duration(data, seconds)

    return patch


def _replaced(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _mov_duration(data: bytes, seconds: float) -> bytes:
    """In mvhd, tkhd and mdhd of every track, and in the edit lists."""
    scale = int.from_bytes(data[data.index(b"mvhd") + 16 : data.index(b"mvhd") + 20])
    whole = struct.pack(">I", round(seconds * scale))
    data = _replaced(data, data.index(b"mvhd") + 20, whole)
    for at in _positions(data, b"tkhd"):
        data = _replaced(data, at + 24, whole)
    for at in _positions(data, b"mdhd"):
        own = int.from_bytes(data[at + 16 : at + 20])
        data = _replaced(data, at + 20, struct.pack(">I", round(seconds * own)))
    return data


def _positions(data: bytes, name: bytes) -> Iterator[int]:
    at = data.find(name)
    while at >= 0:
        yield at
        at = data.find(name, at + 1)


def _asf_duration(data: bytes, seconds: float) -> bytes:
    """Play and send duration of the file properties, in units of 100 ns; the preroll is in ms."""
    guid = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
    at = data.index(guid) + 64
    preroll = int.from_bytes(data[at + 16 : at + 24], "little")
    ticks = struct.pack("<Q", round((seconds + preroll / 1e3) * 1e7))
    return _replaced(data, at, ticks * 2)


def display_matrix(a: int, b: int, c: int, d: int) -> Patch:
    """The matrix of every track: x' = a x + c y, y' = b x + d y."""
    rows = (a * IDENTITY, b * IDENTITY, 0, c * IDENTITY, d * IDENTITY, 0, 0, 0, 0x40000000)

    def patch(data: bytes) -> bytes:
        for at in _positions(data, b"tkhd"):
            data = _replaced(data, at + 44, struct.pack(">9i", *rows))
        return data

    return patch


def empty_samples(*frames: int) -> Patch:
    """Samples of 0 bytes: nothing has changed since the frame before, which takes their bytes."""

    def patch(data: bytes) -> bytes:
        table = data.index(b"stsz") + 16
        sizes = {k: int.from_bytes(data[table + 4 * k : table + 4 * k + 4]) for k in frames}
        for k, size in sizes.items():
            before = int.from_bytes(data[table + 4 * k - 4 : table + 4 * k])
            data = _replaced(data, table + 4 * k - 4, struct.pack(">II", before + size, 0))
        return data

    return patch


def edits(*parts: tuple[float | None, float]) -> Patch:
    """Edit list of the first track: (seconds in the media, or None for nothing, seconds shown).

    The media's own beginning, which reordered frames move, stays what it was.
    """

    def patch(data: bytes) -> bytes:
        movie = int.from_bytes(data[data.index(b"mvhd") + 16 : data.index(b"mvhd") + 20])
        media = int.from_bytes(data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20])
        old = data.index(b"elst")
        size = int.from_bytes(data[old - 4 : old])
        first = int.from_bytes(data[old + 16 : old + 20], signed=True)
        rows = b"".join(
            struct.pack(
                ">IiI",
                round(shown * movie),
                -1 if begin is None else first + round(begin * media),
                IDENTITY,
            )
            for begin, shown in parts
        )
        box = b"elst" + bytes(4) + struct.pack(">I", len(parts)) + rows
        grown = len(box) + 4 - size
        data = data[: old - 4] + struct.pack(">I", len(box) + 4) + box + data[old - 4 + size :]
        # Its parents grow as well; the media lie before them, so no offset moves.
        for name in (b"edts", b"trak", b"moov"):
            at = data.rindex(name, 0, old) - 4
            data = _replaced(data, at, struct.pack(">I", int.from_bytes(data[at : at + 4]) + grown))
        return data

    return patch
