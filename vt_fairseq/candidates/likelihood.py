"""Log-likelihoods of candidate texts under clips (paper, section 3.1, "Inference").

The encoder has run once per clip; what candidates share at their beginning is decoded once per
clip. Shapes: B clips, G trees (B, or 1 for all), K candidates, n nodes of a tree at once, e edges,
C width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from vt_fairseq.candidates.prefix_tree import PrefixTree

EncoderOut = dict[str, list[torch.Tensor]]
DEFAULT_MAX_NODES = 2048
# Nodes of one clip at once. Each sees its ancestors through a mask over all of them, whose cost
# grows with their number: at 256 it is a twentieth of the decoder's, and matrices are large enough.
NODES_PER_CLIP = 256


def score_candidates(
    model: Any,
    encoder_out: EncoderOut,
    trees: Sequence[PrefixTree],
    max_nodes: int = DEFAULT_MAX_NODES,
    length_normalize: bool = False,
) -> list[np.ndarray]:
    """log p(candidate | clip) for each of B clips: a list of B arrays (K,) float64.

    Natural logarithm, summed over tokens, end of sequence included. Equal to scoring every pair
    alone, up to rounding.

    Args:
        model: has ``decoder``; in eval mode.
        encoder_out: the encoder's output for B clips.
        trees: the candidates of each clip, or one tree for all of them.
        max_nodes: prefixes decoded at once, over all clips (at least one of each), which bounds
            memory.
        length_normalize: divide each sum by the number of tokens.
    """
    decoder = TreeDecoder(model.decoder, encoder_out)
    step = decoder.nodes_per_clip(max_nodes)
    tree_of_clip = list(trees) * (decoder.num_clips // len(trees))
    edge_values = [np.zeros(len(tree.edge_parents)) for tree in tree_of_clip]
    for start in range(0, max(tree.num_inner for tree in trees), step):
        nodes = [np.arange(start, min(start + step, tree.num_inner)) for tree in trees]
        for values, (edges, log_probs) in zip(
            edge_values, decoder.edges(trees, nodes), strict=True
        ):
            values[edges] = log_probs
    if len(trees) == 1:  # of all clips at once: numpy's calls cost more than a small tree's sums
        sums = list(trees[0].candidate_sums(np.stack(edge_values)))
    else:
        sums = [t.candidate_sums(v) for t, v in zip(trees, edge_values, strict=True)]
    if not length_normalize:
        return sums
    return [total / tree.lengths for total, tree in zip(sums, tree_of_clip, strict=True)]


class TreeDecoder:
    """Runs the decoder over nodes of prefix trees: how likely is each node's every child?

    Keys and values of the B clips' states are computed once.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Any, encoder_out: EncoderOut):
        self.decoder = decoder
        self.encoder_out = encoder_out
        self.source_cache = decoder.source_cache(encoder_out)
        self.num_clips = encoder_out["encoder_padding_mask"][0].size(0)
        self.device = encoder_out["encoder_out"][0].device

    def nodes_per_clip(self, max_nodes: int) -> int:
        """Nodes of each clip that together are at most ``max_nodes``; at least one."""
        return max(1, min(NODES_PER_CLIP, max_nodes // max(1, self.num_clips)))

    @torch.inference_mode()
    def edges(
        self, trees: Sequence[PrefixTree], nodes: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each clip the edges that leave its nodes, and their log-probabilities.

        Args:
            trees, nodes: for each clip, or once for all: a tree and its inner nodes to expand,
                sorted.

        Returns B pairs: indices of edges (e,) and log p(child | node, clip), (e,) float32.
        """
        closed = [t.with_ancestors(n) for t, n in zip(trees, nodes, strict=True)]
        features = self._features(trees, closed)
        positions = [np.searchsorted(c, n) for c, n in zip(closed, nodes, strict=True)]
        expanded = self._pick(features, positions)
        edges_and_parents = [t.edges_of(n) for t, n in zip(trees, nodes, strict=True)]
        edges = [e for e, _ in edges_and_parents]
        parents = [p for _, p in edges_and_parents]
        tokens = [t.tokens[t.edge_children[e]] for t, e in zip(trees, edges, strict=True)]
        logits = self.decoder.token_logits(self._pick(expanded, parents), self._tensor(tokens))
        normalizers = self.decoder.log_normalizer(expanded)
        values = (logits - self._pick(normalizers, parents)).cpu().numpy()
        edges_of_clip = edges * (self.num_clips // len(edges))
        return [(e, row[: len(e)]) for e, row in zip(edges_of_clip, values, strict=True)]

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

    def _pick(self, values: torch.Tensor, positions: list[np.ndarray]) -> torch.Tensor:
        """(B, n, ...) -> (B, m, ...): each row's values at its (or everyone's) positions."""
        rows = torch.arange(self.num_clips, device=self.device).unsqueeze(1)
        return values[rows, self._tensor(positions)]

    def _tensor(self, rows: list[np.ndarray]) -> torch.Tensor:
        """(G, longest) int64, filled up with zeros."""
        return pad_sequence(list(map(torch.from_numpy, rows)), batch_first=True).to(self.device)
