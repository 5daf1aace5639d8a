"""Orders of many rows that are computed place by place, so that no list of them is ever held.

An epoch of 136 million rows as one shuffled array would take a gigabyte in every process, as
fairseq's lists of batches tens of them.
"""

import hashlib
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace

ROUNDS = 6  # an even number: the two parts change places in each
LEAST_BITS = 6  # of the domain: a smaller one has too few orders to look random
_MASK = 0xFFFFFFFF


class Permutation(Sequence[int]):
    """A random order of 0 ... length - 1, the same for the same ``key``.

    A Feistel network shuffles a domain of 2^k >= length numbers; a place outside of the range is
    shuffled on until it is inside ("cycle walking", Black and Rogaway 2002), which keeps it one to
    one. That takes fewer than two turns on average, except for very short orders.
    """

    def __init__(self, length: int, *key: int):
        self._length = length
        bits = max(LEAST_BITS, (length - 1).bit_length())
        self._high, self._low = bits // 2, bits - bits // 2  # bits of the two parts
        digest = hashlib.blake2b(repr(key).encode(), digest_size=4 * ROUNDS).digest()
        self._keys = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 4 * ROUNDS, 4)]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> int:
        """The number at ``place``, negative from the end; raise IndexError outside."""
        number = operator.index(place)
        number += self._length if number < 0 else 0
        if not 0 <= number < self._length:
            raise IndexError(f"place {place} of {self._length}")
        number = self._shuffled(number)
        while number >= self._length:
            number = self._shuffled(number)
        return number

    def _shuffled(self, number: int) -> int:
        left, right = number >> self._low, number & (1 << self._low) - 1
        mask, other = (1 << self._high) - 1, (1 << self._low) - 1
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
            mask, other = other, mask
        return left << self._low | right


def _mixed(word: int) -> int:
    """32 bits that each depend on all bits of ``word`` (the finaliser of MurmurHash3)."""
    word ^= word >> 16
    word = word * 0x85EBCA6B & _MASK
    word ^= word >> 13
    word = word * 0xC2B2AE35 & _MASK
    return word ^ word >> 16


class Grouped(Sequence[int]):
    """Runs of ``size`` neighbors in the order of ``groups``; what fills no group is left out."""

    def __init__(self, groups: Sequence[int], size: int):
        self._groups = groups
        self._size = size

    def __len__(self) -> int:
        return len(self._groups) * self._size

    def __getitem__(self, place: int) -> int:
        group, rest = divmod(place, self._size)
        return self._groups[group] * self._size + rest


class Batches(Sequence[list[int]]):
    """``rows`` in their order, ``size`` at once; the last batch may have fewer."""

    def __init__(self, rows: Sequence[int], size: int):
        self._rows = rows
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    def __getitem__(self, index: int) -> list[int]:
        """Batch ``index``; raise IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        first = index * self._size
        last = min(first + self._size, len(self._rows))
        return [int(self._rows[place]) for place in range(first, last)]


@dataclass(frozen=True)
class Share(Sequence[list[int]]):
    """What one of several processes gets of an epoch's batches, from position ``start`` on.

    Attributes:
        batches: of all processes.
        order: their numbers, in the order of the epoch.
        count, index: number of processes, and which this is; they take turns.
        start: batches of this process that are left out, because they are done.

    All processes have as many batches; the last may be an empty one that fills up.
    """

    batches: Sequence[list[int]]
    order: Sequence[int]
    count: int = 1
    index: int = 0
    start: int = 0

    def __len__(self) -> int:
        return max(0, -(-len(self.order) // self.count) - self.start)

    def __getitem__(self, place: int | slice) -> "list[int] | Share":
        """A batch, or with ``[n:]`` the share without its first n."""
        if isinstance(place, slice):
            if place.stop is not None or place.step is not None:
                raise ValueError(f"expected [n:], found {place}")
            return replace(self, start=self.start + place.start)
        if not 0 <= place < len(self):
            raise IndexError(f"batch {place} of {len(self)}")
        turn = (self.start + place) * self.count + self.index
        return self.batches[self.order[turn]] if turn < len(self.order) else []
