"""Where the record batches of an Arrow file lie, and whether reading one could fill the memory.

pyarrow decompresses a batch when it reads it, and neither tells beforehand that it will nor takes a
limit: 26 kB become 1.3 GB. So the file's own bookkeeping, which is in flatbuffers
(arrow.apache.org/docs/format/Columnar.html, File.fbs and Message.fbs), is looked at first.
"""

import mmap
import struct

MAGIC = b"ARROW1"
CONTINUATION = 0xFFFFFFFF
# Fields of flatbuffers' tables, by their numbers in the schemas.
FOOTER_DICTIONARIES, FOOTER_BATCHES = 2, 3
MESSAGE_HEADER, MESSAGE_METADATA = 2, 4
BATCH_COMPRESSION = 3
BLOCK = struct.Struct("<qi4xq")  # offset, length of the message, length of its body


class ArrowBlocks:
    """The record batches in a file that is mapped into memory.

    Every method raises ValueError for a file that is damaged or compressed.
    """

    def __init__(self, file: mmap.mmap):
        self._file = file
        end = len(file) - len(MAGIC) - 4
        if end < 0 or file[end + 4 :] != MAGIC:
            raise ValueError("it does not end as an Arrow file")
        footer = end - self._number("<i", end)
        if not 0 <= footer < end:
            raise ValueError("its footer lies outside of it")
        table = self._target(footer)
        if self._vector(table, FOOTER_DICTIONARIES)[1]:
            raise ValueError("it has dictionaries, expected none")
        self._first, self.count = self._vector(table, FOOTER_BATCHES)

    def check_uncompressed(self, index: int) -> None:
        """Raise ValueError unless batch ``index`` is as large in the file as it is in memory."""
        if not 0 <= index < self.count:
            raise ValueError(f"it has {self.count} batches, expected more")
        at = BLOCK.unpack_from(self._file, self._first + index * BLOCK.size)[0]
        if not 0 <= at < len(self._file):
            raise ValueError("a batch lies outside of it")
        at += 8 if self._number("<I", at) == CONTINUATION else 4
        message = self._target(at)
        header = self._field(message, MESSAGE_HEADER)
        if header is None:
            raise ValueError("a batch has no header")
        # Before Arrow 1.0 the message's metadata named the compression.
        compression = self._field(self._target(header), BATCH_COMPRESSION)
        if compression is not None or self._field(message, MESSAGE_METADATA) is not None:
            raise ValueError("its batches are compressed, expected plain ones")

    def _number(self, kind: str, at: int) -> int:
        if not 0 <= at <= len(self._file) - struct.calcsize(kind):
            raise ValueError("it refers to what lies outside of it")
        return struct.unpack_from(kind, self._file, at)[0]

    def _target(self, at: int) -> int:
        """Where the table or vector begins that the offset at ``at`` refers to."""
        return at + self._number("<I", at)

    def _field(self, table: int, number: int) -> int | None:
        """Where a table's field lies; None where the table does not have it."""
        offsets = table - self._number("<i", table)
        if 4 + 2 * number >= self._number("<H", offsets):
            return None
        offset = self._number("<H", offsets + 4 + 2 * number)
        return table + offset if offset else None

    def _vector(self, table: int, number: int) -> tuple[int, int]:
        """Where the first item of a field lies, and how many there are."""
        field = self._field(table, number)
        if field is None:
            return 0, 0
        vector = self._target(field)
        count = self._number("<I", vector)
        if vector + 4 + count * BLOCK.size > len(self._file):
            raise ValueError("its footer names more batches than fit into it")
        return vector + 4, count
