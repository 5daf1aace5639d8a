"""The likeliest candidates without scoring all: best-first expansion of the prefix tree, exact.

A prefix is at least as likely as anything that begins with it, because every further token
multiplies by a probability. So where a prefix does not beat the k-th best candidate found so far,
no candidate below it does. Shapes: B clips, K candidates.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vt_fairseq.candidates.likelihood import DEFAULT_MAX_NODES
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.tree_decoder import TreeDecoder
from vt_fairseq.models.t5 import EncoderOut

# Nodes of one clip expanded before the search looks again at which are best: few waste little, many
# fill matrices.
NODES_PER_ROUND = 64


@dataclass(frozen=True)
class Top:
    """Indices (k,) int64 of the best candidates, best first, and their scores (k,) float64."""

    candidates: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Bounds:
    """What best-first search knows of a tree beyond its nodes.

    Attributes:
        tree: the candidates.
        divisors: (M,) what a node's log-likelihood is divided by for the highest score that any
            candidate below it can have: 1, or with length normalization the most tokens of any.
        candidates_at: leaf -> the candidates that end there.
    """

    tree: PrefixTree
    divisors: np.ndarray
    candidates_at: dict[int, list[int]]

    @classmethod
    def of(cls, tree: PrefixTree, length_normalized: bool) -> "Bounds":
        """Bounds of ``tree`` for sums, or for means per token."""
        divisors = np.ones(len(tree.tokens))
        at: dict[int, list[int]] = {}
        for candidate, leaf in enumerate(tree.leaves.tolist()):
            at.setdefault(leaf, []).append(candidate)
        if length_normalized:
            divisors[tree.leaves] = tree.lengths
            # Children come after their parents, so going backwards meets every child first.
            for edge in np.argsort(-tree.edge_children):
                parent, child = tree.edge_parents[edge], tree.edge_children[edge]
                divisors[parent] = max(divisors[parent], divisors[child])
        return cls(tree, divisors, at)


@dataclass
class _Search:
    """One clip's search: a heap of (-bound, node) and the best k so far as a heap of the worst."""

    bounds: Bounds
    k: int
    frontier: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])
    best: list[tuple[float, int]] = field(default_factory=list)
    reached: dict[int, float] = field(default_factory=lambda: {0: 0.0})

    def next_nodes(self, most: int) -> np.ndarray:
        """At most ``most`` promising inner nodes, sorted; none when the best k are final."""
        nodes: list[int] = []
        while self.frontier and len(nodes) < most and -self.frontier[0][0] >= self._needed():
            nodes.append(heapq.heappop(self.frontier)[1])
        return np.array(sorted(nodes), dtype=np.int64)

    def add(self, edges: np.ndarray, values: np.ndarray) -> None:
        """Take in the log-probabilities of the edges that leave the last ``next_nodes``."""
        tree = self.bounds.tree
        parents, children = tree.edge_parents[edges].tolist(), tree.edge_children[edges].tolist()
        for parent, child, value in zip(parents, children, values.tolist(), strict=True):
            total = self.reached[parent] + value
            bound = total / self.bounds.divisors[child]
            if child < tree.num_inner:
                self.reached[child] = total
                heapq.heappush(self.frontier, (-bound, child))
                continue
            for candidate in self.bounds.candidates_at[child]:
                heapq.heappush(self.best, (bound, -candidate))
                if len(self.best) > self.k:
                    heapq.heappop(self.best)

    def top(self) -> Top:
        """The best k; among equals the first candidates."""
        order = sorted(self.best, reverse=True)
        return Top(
            np.array([-c for _, c in order], dtype=np.int64), np.array([s for s, _ in order])
        )

    def _needed(self) -> float:
        return self.best[0][0] if len(self.best) == self.k else -np.inf


@torch.inference_mode()
def top_candidates(
    model: Any,
    encoder_out: EncoderOut,
    bounds: Bounds,
    k: int,
    max_nodes: int = DEFAULT_MAX_NODES,
) -> list[Top]:
    """The min(k, K) best candidates of each of B clips, as ``score_candidates`` would rank them.

    Scores are log-likelihoods, or means per token where ``bounds`` are those of means. Arguments
    as for ``score_candidates``; prefixes are kept, their states are computed again.
    """
    decoder = TreeDecoder(model.decoder, encoder_out)
    most = min(NODES_PER_ROUND, decoder.nodes_per_clip(max_nodes))
    searches = [_Search(bounds, min(k, len(bounds.tree.leaves))) for _ in range(decoder.num_clips)]
    while True:
        nodes = [search.next_nodes(most) for search in searches]
        if not any(map(len, nodes)):
            return [search.top() for search in searches]
        edges_and_values = decoder.edges([bounds.tree] * len(nodes), nodes)
        for search, (edges, values) in zip(searches, edges_and_values, strict=True):
            search.add(edges, values)
