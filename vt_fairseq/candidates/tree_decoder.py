"""How likely each child of nodes of prefix trees is: the decoder over many nodes at once.

On a GPU what nodes need is copied in one block and the host waits once, for the result; where steps
are captured, all in between is one launch. Shapes: B clips, G trees (B, or 1 for all), n nodes,
m nodes to expand, e edges.
"""

from collections.abc import Sequence

import numpy as np
import torch

from vt_fairseq.candidates.packed_nodes import Nodes, NodeSizes, PackedNodes
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.models.fixed_cache import FixedSources
from vt_fairseq.models.kv_cache import KeysValues
from vt_fairseq.models.step_graphs import Run, rounded_up
from vt_fairseq.models.t5 import EncoderOut, T5Decoder

# Nodes of one clip at once. Each sees its ancestors through a mask over all of them, whose cost
# grows with their number: at 256 it is a twentieth of the decoder's, and matrices are large enough.
NODES_PER_CLIP = 256


class TreeDecoder:
    """Runs the decoder over nodes of prefix trees: how likely is each node's every child?

    Keys and values of the B clips' states are computed once.
    """

    @torch.inference_mode()
    def __init__(self, decoder: T5Decoder, encoder_out: EncoderOut):
        self.decoder = decoder
        self.sources = decoder.source_of(encoder_out)
        self.num_clips = encoder_out["encoder_padding_mask"][0].size(0)
        self.device = encoder_out["encoder_out"][0].device
        self._key = object()
        if decoder.graphs is not None:
            decoder.graphs.begin(decoder)

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
        captured = self.decoder.graphs is not None
        packed = PackedNodes.of(trees, nodes, captured, pinned=self.device.type == "cuda")
        values = (
            (self._replayed if captured else self._launched)(packed).to("cpu", copy=True).numpy()
        )
        edges_of_clip = packed.edges * (self.num_clips // len(trees))
        return [(e, row[: len(e)]) for e, row in zip(edges_of_clip, values, strict=True)]

    def _launched(self, packed: PackedNodes) -> torch.Tensor:
        block = packed.block.to(self.device, non_blocking=True)
        nodes = Nodes.of_block(block, packed.sizes)
        return log_probabilities(self.decoder, nodes, *self.sources)

    def _replayed(self, packed: PackedNodes) -> torch.Tensor:
        rows, source = map(rounded_up, (self.num_clips, self.sources[1].size(-1)))

        def make() -> tuple[TreeState, Run]:
            state = TreeState(self.decoder, packed.sizes, rows, source)
            return state, lambda: state.fill(self.decoder)

        graphs = self.decoder.graphs
        assert graphs is not None
        state, step = graphs.of((packed.sizes, rows, source), make)
        if state.of is not self._key:
            state.sources.begin(*self.sources)
            state.of = self._key
        state.block.copy_(packed.block, non_blocking=True)
        step()
        return state.values[: self.num_clips]


class TreeState:
    """What a captured step reads and writes; the tensors stay where they are.

    Attributes:
        of: whose sources these are.
        block: the nodes.
        values: (B, e) fp32, log-probabilities of the edges.
    """

    def __init__(self, decoder: T5Decoder, sizes: NodeSizes, rows: int, source: int):
        like, (heads, width) = decoder.embed_tokens.weight, decoder.heads_and_width()
        self.of: object = None
        self.sources = FixedSources(like, (len(decoder.layers), rows, heads, source, width))
        self.block = like.new_zeros(sizes.num_bytes, dtype=torch.uint8)
        self.values = torch.zeros(rows, sizes.edges, device=like.device)
        self._nodes = Nodes.of_block(self.block, sizes)

    def fill(self, decoder: T5Decoder) -> None:
        """Compute ``values``."""
        sources = self.sources
        found = log_probabilities(decoder, self._nodes, sources.keys_values, sources.bias)
        self.values.copy_(found)


def log_probabilities(
    decoder: T5Decoder, nodes: Nodes, sources: list[KeysValues], source_bias: torch.Tensor
) -> torch.Tensor:
    """log p(child | node, clip) of each edge, (B, e) fp32."""
    features = decoder.packed_features(
        nodes.tokens, nodes.depths, nodes.visible, sources, source_bias
    )
    expanded = _pick(features, nodes.expanded)
    logits = decoder.token_logits(_pick(expanded, nodes.parents), nodes.children)
    return logits - _pick(decoder.log_normalizer(expanded), nodes.parents)


def _pick(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(B, n, ...) -> (B, m, ...): each row's values at its ``positions`` (B, m), or at (1, m)."""
    rows = torch.arange(len(values), device=values.device).unsqueeze(1)
    return values[rows, positions]
