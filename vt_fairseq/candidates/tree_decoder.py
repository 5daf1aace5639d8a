"""Runs the decoder over nodes of prefix trees: how likely is each node's every child?

Shapes: B clips, G trees (B, or 1 for all), n nodes of a tree at once, e edges, C width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from vt_fairseq.candidates.prefix_tree import PrefixTree

# Nodes of one clip at once. Each sees its ancestors through a mask over all of them, whose cost
# grows with their number: at 256 it is a twentieth of the decoder's, and matrices are large enough.
NODES_A_ROW = 256


def nodes_a_row(num_clips: int, max_nodes: int) -> int:
    """Nodes of each of ``num_clips`` that together are at most ``max_nodes``; at least one."""
    return max(1, min(NODES_A_ROW, max_nodes // max(1, num_clips)))


class TreeExpander:
    """The decoder over the states of B clips; keys and values of the clips are computed once."""

    @torch.inference_mode()
    def __init__(self, decoder: nn.Module, encoder_out: dict[str, list[torch.Tensor]]):
        self.decoder = decoder
        self.encoder_out = encoder_out
        self.source_cache = decoder.source_cache(encoder_out)
        self.num_clips = encoder_out["encoder_padding_mask"][0].size(0)
        self.device = encoder_out["encoder_out"][0].device

    @torch.inference_mode()
    def edges(
        self, trees: Sequence[PrefixTree], nodes: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each clip the edges that leave its nodes, and their log-probabilities.

        Args:
            trees, nodes: one a clip, or one for all: a tree and its inner nodes to expand, sorted.

        Returns B pairs: numbers of edges (e,) and log p(child | node, clip), (e,) float32.
        """
        closed = [t.with_ancestors(n) for t, n in zip(trees, nodes, strict=True)]
        features = self._features(trees, closed)
        places = [np.searchsorted(c, n) for c, n in zip(closed, nodes, strict=True)]
        expanded = self._pick(features, places)
        found = [t.edges_of(n) for t, n in zip(trees, nodes, strict=True)]
        tokens = [t.tokens[t.edge_children[e]] for t, (e, _) in zip(trees, found, strict=True)]
        parents = [place for _, place in found]
        logits = self.decoder.token_logits(self._pick(expanded, parents), self._tensor(tokens))
        normalizers = self.decoder.log_normalizer(expanded)
        values = logits - self._pick(normalizers, parents)
        of_clip = [edges for edges, _ in found] * (self.num_clips // len(found))
        return [
            (edges, row[: len(edges)])
            for edges, row in zip(of_clip, values.cpu().numpy(), strict=True)
        ]

    def _features(self, trees: Sequence[PrefixTree], nodes: list[np.ndarray]) -> torch.Tensor:
        """(B, n, C) states of nodes among which are all their ancestors."""
        visible = np.zeros((len(trees), *[max(map(len, nodes))] * 2), dtype=bool)
        for row, tree, own in zip(visible, trees, nodes, strict=True):
            row[: len(own), : len(own)] = tree.visible(own)
        return self.decoder.packed_features(
            self._tensor([t.tokens[n] for t, n in zip(trees, nodes, strict=True)]),
            self._tensor([t.depths[n] for t, n in zip(trees, nodes, strict=True)]),
            torch.from_numpy(visible).to(self.device),
            self.encoder_out,
            self.source_cache,
        )

    def _pick(self, values: torch.Tensor, places: list[np.ndarray]) -> torch.Tensor:
        """(B, n, ...) -> (B, m, ...): each row's values at its (or everyone's) places."""
        rows = torch.arange(self.num_clips, device=self.device).unsqueeze(1)
        return values[rows, self._tensor(places)]

    def _tensor(self, rows: list[np.ndarray]) -> torch.Tensor:
        """(G, longest) int64, filled up with zeros."""
        filled = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        for row, values in zip(filled, rows, strict=True):
            row[: len(values)] = values
        return torch.from_numpy(filled).to(self.device)
