"""Candidates as a tree of their prefixes: what they share is computed once.

The root is the decoder's start token; every other node is one token after its parent. A node that
has children is an *inner* node: it stands for a prefix after which the decoder has to say how
likely each child is. The leaves are the ends of sequence; nothing follows them, so the decoder
never reads them. EPIC-Kitchens' 125 x 352 verb-noun labels have some 67,000 inner nodes where
they have 200,000 tokens.

Plain numpy. Shapes: M nodes, N inner nodes, E = M - 1 edges, K candidates, D depth of the deepest
inner node, which is the length of the longest candidate without end of sequence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vt_fairseq.data.tokenizer import EOS, PAD

NOWHERE = -1  # no node


@dataclass(frozen=True)
class PrefixTree:
    """Made by ``build``. Inner nodes are 0 ... N - 1 in depth-first order, 0 is the root.

    Attributes:
        tokens: (M,) int64 ids; the root's is the start token, a leaf's the end of sequence.
        paths: (N, D + 1) int64: the inner nodes from the root to each inner node, itself
            included, at the index of their depth; ``NOWHERE`` after it.
        depths: (N,) int64, 0 for the root.
        edge_parents, edge_children: (E,) int64 nodes, sorted by parent.
        leaves: (K,) int64 node at which each candidate ends; equal candidates share one.
        lengths: (K,) int64 tokens of each candidate, end of sequence included.
    """

    tokens: np.ndarray
    paths: np.ndarray
    depths: np.ndarray
    edge_parents: np.ndarray
    edge_children: np.ndarray
    leaves: np.ndarray
    lengths: np.ndarray

    @classmethod
    def build(cls, candidates: Iterable[Sequence[int]]) -> "PrefixTree":
        """The tree of ``candidates``, ids without end of sequence; they may be empty or equal."""
        texts = [tuple(ids) for ids in candidates]
        distinct = sorted(set(texts))
        tokens, inner_parents, ends = _inner_nodes(distinct)
        inner = len(tokens)
        leaf_of = {ids: inner + i for i, ids in enumerate(distinct)}
        parents = np.array([*inner_parents, *ends], dtype=np.int64)
        depths, paths = _paths(parents[:inner])
        order = 1 + np.argsort(parents[1:], kind="stable")
        return cls(
            tokens=np.array([*tokens, *[EOS] * len(distinct)], dtype=np.int64),
            paths=paths,
            depths=depths,
            edge_parents=parents[order],
            edge_children=order,
            leaves=np.array([leaf_of[ids] for ids in texts], dtype=np.int64),
            lengths=np.array([len(ids) + 1 for ids in texts], dtype=np.int64),
        )

    @property
    def num_inner(self) -> int:
        """N."""
        return len(self.depths)

    def with_ancestors(self, nodes: np.ndarray) -> np.ndarray:
        """Sorted inner nodes: ``nodes`` and all their ancestors."""
        closed = np.unique(self.paths[nodes])
        return closed[closed != NOWHERE]

    def visible(self, nodes: np.ndarray) -> np.ndarray:
        """(n, n) bool for n inner ``nodes``: whether node j is on the path to node i."""
        return self.paths[nodes][:, self.depths[nodes]] == nodes

    def edges_of(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the edges that leave sorted inner ``nodes``, and of their parents in it."""
        first = np.searchsorted(self.edge_parents, nodes, side="left")
        counts = np.searchsorted(self.edge_parents, nodes, side="right") - first
        parent = np.repeat(np.arange(len(nodes)), counts)
        within = np.arange(len(parent)) - np.repeat(np.cumsum(counts) - counts, counts)
        return first[parent] + within, parent

    def candidate_sums(self, edge_values: np.ndarray) -> np.ndarray:
        """(..., E) values of the edges -> (..., K) their sums on the way to each candidate."""
        of_node = np.zeros((*edge_values.shape[:-1], len(self.tokens)))
        of_node[..., self.edge_children] = edge_values
        before = of_node.copy()
        for depth in range(1, self.paths.shape[1]):
            nodes = np.flatnonzero(self.depths == depth)
            before[..., nodes] += before[..., self.paths[nodes, depth - 1]]
        return of_node[..., self.leaves] + before[..., self._ends]

    @cached_property
    def _ends(self) -> np.ndarray:
        """(K,) the last inner node of each candidate."""
        parents = np.empty(len(self.tokens), dtype=np.int64)
        parents[self.edge_children] = self.edge_parents
        return parents[self.leaves]


def _inner_nodes(
    distinct: Sequence[tuple[int, ...]],
) -> tuple[list[int], list[int], list[int]]:
    """Tokens and parents of the inner nodes; the last inner node of each candidate.

    Candidates that are sorted make the tree depth first: what one shares with those before it is
    what it shares with the last.
    """
    tokens, parents, ends = [PAD], [NOWHERE], []
    path = [0]
    before: tuple[int, ...] = ()
    for ids in distinct:
        shared = _common_prefix(before, ids)
        del path[shared + 1 :]
        for token in ids[shared:]:
            tokens.append(token)
            parents.append(path[-1])
            path.append(len(tokens) - 1)
        ends.append(path[-1])
        before = ids
    return tokens, parents, ends


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def _paths(parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths (N,) and paths (N, D + 1) of inner nodes, whose parents come before them."""
    depths = np.zeros(len(parents), dtype=np.int64)
    for node in range(1, len(parents)):
        depths[node] = depths[parents[node]] + 1
    paths = np.full((len(parents), depths.max() + 1), NOWHERE, dtype=np.int64)
    for depth in range(depths.max() + 1):
        nodes = np.flatnonzero(depths == depth)
        if depth:
            paths[nodes] = paths[parents[nodes]]
        paths[nodes, depth] = nodes
    return depths, paths
