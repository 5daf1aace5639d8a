"""Log-likelihoods of candidate texts under clips (paper, section 3.1, "Inference").

The encoder has run once a clip; what candidates share at their beginning is decoded once a clip.
Nothing here knows of files or options. Shapes: B clips, K candidates.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.tree_decoder import TreeExpander, nodes_a_row

EncoderOut = dict[str, list[torch.Tensor]]
DEFAULT_MAX_NODES = 2048


def score_candidates(
    model: nn.Module,
    encoder_out: EncoderOut,
    trees: Sequence[PrefixTree],
    max_nodes: int = DEFAULT_MAX_NODES,
) -> list[np.ndarray]:
    """log p(candidate | clip) for each of B clips: (K,) float64, B times.

    Natural logarithm, summed over tokens, end of sequence included. Equal to scoring every pair
    alone, up to rounding.

    Args:
        model: has ``decoder``; in eval mode.
        encoder_out: the encoder's output for B clips.
        trees: the candidates of each clip, or one for all of them.
        max_nodes: prefixes decoded at once, over all clips (at least one of each), which bounds
            memory.
    """
    expander = TreeExpander(model.decoder, encoder_out)
    step = nodes_a_row(expander.num_clips, max_nodes)
    of_clip = list(trees) * (expander.num_clips // len(trees))
    values = [np.zeros(len(tree.edge_parents)) for tree in of_clip]
    for start in range(0, max(tree.num_inner for tree in trees), step):
        nodes = [np.arange(start, min(start + step, tree.num_inner)) for tree in trees]
        for own, (edges, found) in zip(values, expander.edges(trees, nodes), strict=True):
            own[edges] = found
    return [t.candidate_sums(v) for t, v in zip(of_clip, values, strict=True)]
