"""A decoder's caches of fixed shapes: every step is the same operations on the same memory.

That is what a step needs that a GPU is to replay. Shapes as in ``kv_cache``, and room: how many
positions there is room for. What is not used is zero: it is masked, but NaN would pass a mask.
"""

import math

import torch

from vt_fairseq.models.kv_cache import KeysValues


class FixedSources:
    """Keys and values of at most B sources of at most S states.

    Args:
        like: its dtype and device are the cache's.
        shape: layers, B, H, S, D.

    Attributes:
        bias: (B, 1, 1, S).
    """

    def __init__(self, like: torch.Tensor, shape: tuple[int, int, int, int, int]):
        layers, sources, heads, source, width = shape
        self.bias = like.new_zeros(sources, 1, 1, source)
        self._all = like.new_zeros(layers, 2, sources, heads, source, width)

    @property
    def keys_values(self) -> list[KeysValues]:
        """For every layer keys and values (B, H, S, D)."""
        return [(keys, values) for keys, values in self._all]

    def begin(self, keys_values: list[KeysValues], bias: torch.Tensor) -> None:
        """Take in other sources with their ``bias`` (B', 1, 1, S')."""
        rows, length = len(bias), bias.size(-1)
        found = torch.stack([x for both in keys_values for x in both])
        self._all.zero_()
        self._all[:, :, :rows, :, :length] = found.unflatten(0, (-1, 2))
        self.bias.fill_(-math.inf)
        self.bias[:rows, ..., :length] = bias
        self.bias[rows:].zero_()  # of sources that are not there all is seen, which is zero

    def copy_(self, other: "FixedSources") -> None:
        """Take in those of another one of the same shape."""
        self.bias.copy_(other.bias)
        self._all.copy_(other._all)


class FixedCache:
    """Keys and values of R targets, and of sources, which the targets of a source share.

    Args:
        sources: of B sources.
        like: its dtype and device are the cache's.
        shape: layers, R, room, H, D.

    Attributes:
        position: (1,) int64, of the token that is decoded now.
    """

    def __init__(
        self, sources: FixedSources, like: torch.Tensor, shape: tuple[int, int, int, int, int]
    ):
        layers, rows, room, heads, width = shape
        self.position = like.new_zeros(1, dtype=torch.int64)
        self.sources = sources
        self._targets = like.new_zeros(layers, 2, rows, room, heads, width)

    def begin(self) -> None:
        """Forget all targets."""
        self._targets.zero_()
        self.position.zero_()

    def go_on_from(self, other: "FixedCache") -> None:
        """Take over all of a cache with less room."""
        self.sources.copy_(other.sources)
        self.position.copy_(other.position)
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
