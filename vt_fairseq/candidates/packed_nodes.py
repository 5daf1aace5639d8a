"""Nodes of prefix trees and the edges that leave them as one block of bytes, moved by one copy.

Shapes: G trees, n nodes (those to expand and their ancestors), m nodes to expand, e edges. Where a
tree has fewer than another, the rest is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.models.step_graphs import rounded_up

COARSE = 64  # sizes of captured steps are multiples of this, or powers of two below


@dataclass(frozen=True)
class NodeSizes:
    """G, n, m and e."""

    trees: int
    nodes: int
    expanded: int
    edges: int

    def rounded_up(self) -> "NodeSizes":
        """Sizes of which fewer occur."""
        counts = map(_coarse, (self.nodes, self.expanded, self.edges))
        return NodeSizes(rounded_up(self.trees), *counts)

    @property
    def num_bytes(self) -> int:
        """Of a block."""
        integers = 2 * self.nodes + self.expanded + 2 * self.edges
        return self.trees * (8 * integers + self.nodes**2)


@dataclass(frozen=True)
class Nodes:
    """The parts of a block; int64 but for ``visible``.

    Attributes:
        tokens, depths: (G, n) of the nodes.
        expanded: (G, m) which of the nodes are to be expanded.
        parents: (G, e) which of the expanded nodes each edge leaves.
        children: (G, e) the token at the end of each edge.
        visible: (G, n, n) bool, whether node j is on the path to node i.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    expanded: torch.Tensor
    parents: torch.Tensor
    children: torch.Tensor
    visible: torch.Tensor

    @classmethod
    def of_block(cls, block: torch.Tensor, sizes: NodeSizes) -> "Nodes":
        """Views of ``block``, (bytes,) uint8."""
        widths = [sizes.nodes] * 2 + [sizes.expanded] + [sizes.edges] * 2
        counts = [sizes.trees * width for width in widths]
        integers = block[: 8 * sum(counts)].view(torch.int64).split(counts)
        tokens, depths, expanded, parents, children = (
            part.view(sizes.trees, width) for part, width in zip(integers, widths, strict=True)
        )
        visible = block[8 * sum(counts) :].view(torch.bool)
        visible = visible.view(sizes.trees, sizes.nodes, sizes.nodes)
        return cls(tokens, depths, expanded, parents, children, visible)


@dataclass(frozen=True)
class PackedNodes:
    """A block, its sizes, and for each tree the indices of the edges."""

    block: torch.Tensor
    sizes: NodeSizes
    edges: list[np.ndarray]

    @classmethod
    def of(
        cls,
        trees: Sequence[PrefixTree],
        nodes: Sequence[np.ndarray],
        coarse: bool = False,
        pinned: bool = False,
    ) -> "PackedNodes":
        """Pack sorted inner ``nodes`` of each tree.

        Args:
            coarse: round sizes up, so that fewer occur.
            pinned: in memory from which a GPU copies while the host goes on.
        """
        closed = [tree.with_ancestors(own) for tree, own in zip(trees, nodes, strict=True)]
        pairs = [tree.edges_of(own) for tree, own in zip(trees, nodes, strict=True)]
        edges = [edge for edge, _ in pairs]
        longest = [max(map(len, part)) for part in (closed, nodes, edges)]
        sizes = NodeSizes(len(trees), *longest)
        if coarse:
            sizes = sizes.rounded_up()
        block = torch.zeros(sizes.num_bytes, dtype=torch.uint8, pin_memory=pinned)
        packed = Nodes.of_block(block, sizes)
        parts = {name: value.numpy() for name, value in vars(packed).items()}
        for row, (tree, all_nodes, own) in enumerate(zip(trees, closed, nodes, strict=True)):
            edge, parent = pairs[row]
            parts["tokens"][row, : len(all_nodes)] = tree.tokens[all_nodes]
            parts["depths"][row, : len(all_nodes)] = tree.depths[all_nodes]
            parts["expanded"][row, : len(own)] = np.searchsorted(all_nodes, own)
            parts["parents"][row, : len(edge)] = parent
            parts["children"][row, : len(edge)] = tree.tokens[tree.edge_children[edge]]
            parts["visible"][row, : len(all_nodes), : len(all_nodes)] = tree.visible(all_nodes)
        return cls(block, sizes, edges)


def _coarse(count: int) -> int:
    if count >= COARSE:
        return -(-count // COARSE) * COARSE
    return 1 << max(3, (count - 1).bit_length())
