"""Log-likelihoods of candidate texts under clips (paper, section 3.1, "Inference").

The encoder has run once per clip; what candidates share at their beginning is decoded once per
clip. Shapes: B clips, K candidates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.tree_decoder import TreeDecoder
from vt_fairseq.models.t5 import EncoderOut

DEFAULT_MAX_NODES = 2048


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
