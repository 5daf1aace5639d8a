"""Orders of many rows, computed item by item, so that no list of them is ever held.

An epoch of 136 million rows as one shuffled array would take a gigabyte in every process, as
fairseq's lists of batches tens of them.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

Item = TypeVar("Item")

ROUNDS = 6  # an even number: the two parts change places in each
LEAST_BITS = 6  # of the domain: a smaller one has too few orders to look random
_MASK = 0xFFFFFFFF


class LazySequence(Sequence[Item]):
    """A sequence whose items are computed when they are asked for; so are those of a slice."""

    @abstractmethod
    def item(self, index: int) -> Item:
        """The item at ``index``, from 0 to the length - 1."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        chosen = range(len(self))[index]  # raises IndexError outside
        return Chosen(self, chosen) if isinstance(chosen, range) else self.item(chosen)


@dataclass(frozen=True, eq=False)
class Chosen(LazySequence[Item]):
    """The items of ``items`` at ``indices``."""

    items: LazySequence[Item]
    indices: range

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Item:
        return self.items.item(self.indices[index])


class Permutation(LazySequence[int]):
    """A random order of 0 ... length - 1, the same for the same ``key``.

    A Feistel network shuffles a domain of 2^k >= length numbers; a number outside of the range is
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

    def item(self, index: int) -> int:
        number = self._shuffled(index)
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
    """32 bits that each depend on all bits of ``word`` (the finalizer of MurmurHash3)."""
    word ^= word >> 16
    word = word * 0x85EBCA6B & _MASK
    word ^= word >> 13
    word = word * 0xC2B2AE35 & _MASK
    return word ^ word >> 16


@dataclass(frozen=True, eq=False)
class Grouped(LazySequence[int]):
    """Runs of ``size`` neighbors in the order of ``groups``; what fills no group is left out."""

    groups: Sequence[int]
    size: int

    def __len__(self) -> int:
        return len(self.groups) * self.size

    def item(self, index: int) -> int:
        group, rest = divmod(index, self.size)
        return self.groups[group] * self.size + rest


@dataclass(frozen=True, eq=False)
class Batches(LazySequence[list[int]]):
    """``rows`` in their order, ``size`` per batch; the last batch may have fewer."""

    rows: Sequence[int]
    size: int

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def item(self, index: int) -> list[int]:
        places = range(len(self.rows))[index * self.size : (index + 1) * self.size]
        return [int(self.rows[place]) for place in places]


@dataclass(frozen=True, eq=False)
class Share(LazySequence[list[int]]):
    """What one of several processes gets of an epoch's batches; they take turns.

    All processes have as many batches; the last may be an empty one that fills up.

    Attributes:
        batches: of all processes.
        order: their numbers, in the order of the epoch.
        processes, rank: their number, and which this is.
    """

    batches: Sequence[list[int]]
    order: Sequence[int]
    processes: int
    rank: int

    def __len__(self) -> int:
        return -(-len(self.order) // self.processes)

    def item(self, index: int) -> list[int]:
        turn = index * self.processes + self.rank
        return self.batches[self.order[turn]] if turn < len(self.order) else []
