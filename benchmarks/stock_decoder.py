"""T5's decoder as a fairseq user would write it: fairseq's layers, caches and generator.

Attention is fairseq's ``MultiheadAttention``: separate projections, keys and values concatenated at
every step and reordered with the encoder's output, which the generator repeats for every beam. T5's
position bias comes in where fairseq lets attention be masked.
"""

import torch
import torch.nn.functional as F
from fairseq.models import FairseqIncrementalDecoder
from fairseq.modules import MultiheadAttention
from torch import nn

from vt_fairseq.models.t5 import T5Decoder


class BiasedAttention(MultiheadAttention):
    """fairseq's attention with ``bias``, (1, H, N, P + N) or None, added to its logits."""

    bias: torch.Tensor | None = None

    def apply_sparse_mask(self, attn_weights, tgt_len, src_len, bsz):
        """Called by fairseq with logits (B * H, N, P + N)."""
        if self.bias is None:
            return attn_weights
        return (attn_weights.unflatten(0, (bsz, -1)) + self.bias).flatten(0, 1)


class StockLayer(nn.Module):
    """``TransformerDecoderLayer`` with T5's norms, relu and no biases: the layer ``ours``."""

    def __init__(self, ours: nn.Module, dims):
        super().__init__()
        self.self_attn = _attention(ours.self_attention, dims, self_attention=True)
        self.encoder_attn = _attention(ours.cross_attention, dims, encoder_decoder_attention=True)
        self.norms = nn.ModuleList(
            (ours.self_attention_norm, ours.cross_attention_norm, ours.feed_forward_norm)
        )
        self.fc1, self.fc2 = ours.feed_forward.wi, ours.feed_forward.wo

    def forward(self, x, encoder_out, padding, state):
        """(N, R, C) -> (N, R, C)."""
        normed = self.norms[0](x)
        x = x + self.self_attn(normed, normed, normed, None, state, need_weights=False)[0]
        source = encoder_out, encoder_out, padding, state
        attended, _ = self.encoder_attn(
            self.norms[1](x), *source, need_weights=False, static_kv=True
        )
        x = x + attended
        return x + self.fc2(F.relu(self.fc1(self.norms[2](x))))


class StockDecoder(FairseqIncrementalDecoder):
    """``ours`` with the same weights, for one token per step."""

    def __init__(self, ours: T5Decoder, dims):
        super().__init__(None)
        self.embed_tokens, self.relative_bias = ours.embed_tokens, ours.relative_bias
        self.final_norm = ours.final_norm
        self.layers = nn.ModuleList(StockLayer(layer, dims) for layer in ours.layers)

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, **unused):
        """Logits (R, 1, V) of the last of (R, L) tokens."""
        keys = torch.arange(prev_output_tokens.size(1))
        bias = self.relative_bias(keys[-1:], keys)
        x = self.embed_tokens(prev_output_tokens[:, -1:]).transpose(0, 1)
        source, padding = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"][0]
        for layer in self.layers:
            layer.self_attn.bias = bias
            x = layer(x, source, padding, incremental_state)
        # Not a transposed view, which PyTorch would multiply row by row: 0.3 s instead of 0.05 s.
        x = self.final_norm(x)[0].unsqueeze(1) * x.size(-1) ** -0.5
        return F.linear(x, self.embed_tokens.weight), {"attn": [None]}


def _attention(ours: nn.Module, dims, **kind: bool) -> BiasedAttention:
    attention = BiasedAttention(dims.d_model, dims.num_heads, bias=False, **kind)
    projections = attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj
    for theirs, own in zip(projections, (ours.q, ours.k, ours.v, ours.o), strict=True):
        theirs.weight = own.weight
    # fairseq scales queries by D ** -0.5, T5 does not.
    attention.scaling = 1.0
    return attention
