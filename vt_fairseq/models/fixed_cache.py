"""A decoder's cache of fixed shapes: every step is the same operations on the same memory.

That is what a step needs that a GPU is to replay. Shapes as in ``kv_cache``, and room: how many
positions there is room for.
"""

import math

import torch

from vt_fairseq.models.kv_cache import KeysValues


class FixedCache:
    """Keys and values of R targets, and of B sources, which the targets of a source share.

    What is not used is zero: hidden by the mask, but NaN would pass it.

    Args:
        like: its dtype and device are the cache's.
        shape: layers, B, R, H, S, D and the room.

    Attributes:
        position: (1,) int64, of the token that is decoded now.
        source_bias: (B, 1, 1, S).
    """

    def __init__(self, like: torch.Tensor, shape: tuple[int, int, int, int, int, int, int]):
        layers, sources, rows, heads, source, width, room = shape
        self.position = like.new_zeros(1, dtype=torch.int64)
        self.source_bias = like.new_zeros(sources, 1, 1, source)
        self._sources = like.new_zeros(layers, 2, sources, heads, source, width)
        self._targets = like.new_zeros(layers, 2, rows, room, heads, width)

    @property
    def sources(self) -> list[KeysValues]:
        """For every layer keys and values (B, H, S, D)."""
        return [(keys, values) for keys, values in self._sources]

    def begin(self, sources: list[KeysValues], source_bias: torch.Tensor) -> None:
        """Take in other sources, at most so many and so long ones; there are no targets yet."""
        rows, length = len(source_bias), source_bias.size(-1)
        found = torch.stack([x for both in sources for x in both])
        self._sources.zero_()
        self._sources[:, :, :rows, :, :length] = found.unflatten(0, (-1, 2))
        self.source_bias.fill_(-math.inf)
        self.source_bias[rows:].zero_()  # of sources that are not there all is seen, which is zero
        self.source_bias[:rows, ..., :length] = source_bias
        self._targets.zero_()
        self.position.zero_()

    def go_on_from(self, other: "FixedCache") -> None:
        """Take over all of a cache with less room."""
        self.position.copy_(other.position)
        self.source_bias.copy_(other.source_bias)
        self._sources.copy_(other._sources)
        self._targets.zero_()
        self._targets[:, :, :, : other._targets.size(3)] = other._targets

    def extended(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
        """Keep a layer's (R, H, 1, D) keys and values at ``position``.

        Returns those of all positions there is room for, (R, H, room, D) each.
        """
        kept = self._targets[layer]
        for targets, new in zip(kept, (keys, values), strict=True):
            targets.index_copy_(1, self.position, new.transpose(1, 2))
        return kept[0].transpose(1, 2), kept[1].transpose(1, 2)

    def reorder(self, new_order: torch.Tensor) -> None:
        """Targets in ``new_order`` (R,), which stay those of their sources."""
        self._targets.copy_(self._targets.index_select(2, new_order))
