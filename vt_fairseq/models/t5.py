"""T5 (Raffel et al. 2020, arXiv 1910.10683) as a fairseq encoder and incremental decoder.

Version 1.0 has relu in its feed-forward layers and ties the output to the embedding table; 1.1
(Shazeer 2020, arXiv 2002.05202; also flan-t5) has a gated gelu and an output table of its own.

Shapes: B rows, S source, L target, C width (``d_model``), H heads, D width of a head (``d_kv``),
V vocabulary, P positions already decoded, N positions of this call (N = L without a cache).

Half precision: T5 was trained in bfloat16. Its residual stream, the outputs that are added to it
and the product of queries and keys, which nothing scales, exceed fp16's 65,504. So these, the
norms, the softmax and the logits are fp32 whatever the weights are. All projections multiply in the
weights' dtype, and those with outputs in it are clamped. With fp32 or fp64 weights there are no
casts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from fairseq.models import FairseqIncrementalDecoder
from torch import nn

from vt_fairseq.models.activation_checkpointing import checkpointed
from vt_fairseq.models.fixed_cache import FixedCache
from vt_fairseq.models.half_precision_linear import (
    ClampedLinear,
    Fp32OutputLinear,
    at_least_fp32,
    clamped,
    fp32_linear,
    is_partitioned,
    joined,
    vocabulary_linear,
)
from vt_fairseq.models.kv_cache import KeysValues, KeyValueCache
from vt_fairseq.models.step_graphs import StepGraphs


@dataclass(frozen=True)
class T5Dims:
    """Sizes of one T5; the names are those of Hugging Face's ``config.json`` where it has them.

    Attributes:
        gated_gelu: whether a feed-forward layer's inner states are products with a gate (T5 1.1).
        silu_gate: whether the gate's function is silu (UL2) and not gelu.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    dropout: float = 0.1
    num_buckets: int = 32
    max_distance: int = 128
    layer_norm_eps: float = 1e-6
    gated_gelu: bool = False
    silu_gate: bool = False
    tie_word_embeddings: bool = True


T5_DIMS = MappingProxyType(
    {
        "tiny": T5Dims(32128, 128, 32, 256, 4, 2, 2, dropout=0.0),
        "small": T5Dims(32128, 512, 64, 2048, 8, 6, 6),
        "base": T5Dims(32128, 768, 64, 3072, 12, 12, 12),
        "large": T5Dims(32128, 1024, 64, 4096, 16, 24, 24),
    }
)
_V1_1 = {"gated_gelu": True, "tie_word_embeddings": False}
T5_V1_1_DIMS = MappingProxyType(
    {
        "tiny": T5Dims(32128, 128, 32, 192, 4, 2, 2, dropout=0.0, **_V1_1),
        "small": T5Dims(32128, 512, 64, 1024, 6, 8, 8, **_V1_1),
        "base": T5Dims(32128, 768, 64, 2048, 12, 12, 12, **_V1_1),
        "large": T5Dims(32128, 1024, 64, 2816, 16, 24, 24, **_V1_1),
    }
)
T5_VARIANTS = MappingProxyType({"v1_0": T5_DIMS, "v1_1": T5_V1_1_DIMS})

# fairseq's: ``encoder_out`` [(S, B, C)], ``encoder_padding_mask`` [(B, S) bool, True at padding].
EncoderOut = dict[str, list[torch.Tensor]]
# Rows of the output table of which `log_normalizer` computes the logits at once.
VOCABULARY_BLOCK = 4096


class RMSNorm(nn.Module):
    """T5's layer norm: it divides by the root mean square, in fp32, and has no mean and no bias."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) fp32 -> (..., C) in the weights' dtype."""
        normed = F.rms_norm(x, self.weight.shape, at_least_fp32(self.weight), self.eps)
        return normed.to(self.weight.dtype)


class RelativeBias(nn.Module):
    """What attention adds to its logits for the distance between key and query (section 2.1).

    Each near distance has its own bucket. Farther distances share buckets that widen
    logarithmically up to ``max_distance``; all beyond share the last. A bidirectional bias gives
    half its buckets to keys after the query; a causal one takes their distance as 0.
    """

    bucket_of_distance: torch.Tensor

    def __init__(self, dims: T5Dims, bidirectional: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dims.num_buckets, dims.num_heads))
        self.bidirectional = bidirectional
        self.max_distance = dims.max_distance
        self.buckets_per_side = dims.num_buckets // 2 if bidirectional else dims.num_buckets
        # A table, because a GPU's logarithm could move a distance into the next bucket.
        table = distance_buckets(self.buckets_per_side, dims.max_distance)
        self.register_buffer("bucket_of_distance", table, persistent=False)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Positions (N,) and (S,) -> bias (1, H, N, S); (B, N) and (B, S) -> (B, H, N, S)."""
        ahead = keys[..., None, :] - queries[..., :, None]
        distance = ahead.abs() if self.bidirectional else -ahead.clamp(max=0)
        buckets = self.bucket_of_distance[distance.clamp(max=self.max_distance)]
        if self.bidirectional:
            buckets = buckets + (ahead > 0) * self.buckets_per_side
        bias = F.embedding(buckets, self.weight).movedim(-1, -3)
        return bias if bias.dim() == 4 else bias.unsqueeze(0)


def distance_buckets(num_buckets: int, max_distance: int) -> torch.Tensor:
    """Bucket of each distance 0 ... max_distance: (max_distance + 1,) int64.

    The first half of the buckets hold one distance each. The logarithm is taken in fp32, where it
    was rounded in T5's training.
    """
    exact = num_buckets // 2
    distance = torch.arange(max_distance + 1)
    position = torch.log(distance.float() / exact) / math.log(max_distance / exact)
    # The clamp is for distance 0, whose logarithm does not fit an integer.
    far = exact + (position.clamp(min=0) * (num_buckets - exact)).long()
    return torch.where(distance < exact, distance, far.clamp(max=num_buckets - 1))


class Attention(nn.Module):
    """T5's multi-head attention: no biases, no scale 1/sqrt(D)."""

    def __init__(self, dims: T5Dims):
        super().__init__()
        inner = dims.num_heads * dims.d_kv
        self.q = ClampedLinear(dims.d_model, inner)
        self.k = ClampedLinear(dims.d_model, inner)
        self.v = ClampedLinear(dims.d_model, inner)
        self.o = Fp32OutputLinear(inner, dims.d_model)
        self.num_heads = dims.num_heads
        self.dropout = dims.dropout

    def keys_values(self, states: torch.Tensor) -> KeysValues:
        """(B, S, C) -> keys and values, (B, H, S, D) each, for attention to these states."""
        return self.split_heads(self.k(states)), self.split_heads(self.v(states))

    def keys_values_queries(self, states: torch.Tensor) -> list[torch.Tensor]:
        """(B, N, C) -> keys, values and queries, (B, H, N, D) each, for attention to itself."""
        return [self.split_heads(x) for x in joined((self.k, self.v, self.q), states)]

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Queries (B, H, N, D), keys and values (B, H, S, D) -> (B, N, C) fp32.

        All are in the weights' dtype. ``bias`` broadcasts to (B, H, N, S).
        """
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return self.o(attended.transpose(1, 2).flatten(2))

    def split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, H * D) -> (B, H, N, D)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def apply_mask(bias: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Bias with minus infinity where ``masked`` (bool, broadcasts) is True.

    A row whose keys are all masked sees them all instead of becoming NaN. No finite number would
    do: products of queries and keys may be larger than all that fp16 has.
    """
    return bias.masked_fill(masked & ~masked.all(-1, keepdim=True), -math.inf)


class FeedForward(nn.Module):
    """Linear maps without biases: T5 1.0's with relu between, or 1.1's and UL2's with a gate."""

    def __init__(self, dims: T5Dims):
        super().__init__()
        self.gated, self.silu = dims.gated_gelu, dims.silu_gate
        if self.gated:
            self.wi_0 = ClampedLinear(dims.d_model, dims.d_ff)
            self.wi_1 = ClampedLinear(dims.d_model, dims.d_ff)
        else:
            self.wi = ClampedLinear(dims.d_model, dims.d_ff)
        self.wo = Fp32OutputLinear(dims.d_ff, dims.d_model)
        self.dropout = nn.Dropout(dims.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, N, C) fp32."""
        if self.gated:
            gate = self.wi_0(x)
            gate = F.silu(gate) if self.silu else F.gelu(gate, approximate="tanh")
            inner = clamped(gate * self.wi_1(x))
        else:
            inner = F.relu(self.wi(x))
        return self.wo(self.dropout(inner))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each ``x + dropout(f(norm(x)))``."""

    def __init__(self, dims: T5Dims):
        super().__init__()
        self.self_attention_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.self_attention = Attention(dims)
        self.feed_forward_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.feed_forward = FeedForward(dims)
        self.dropout = nn.Dropout(dims.dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """(B, S, C) fp32, bias (B, H, S, S) -> (B, S, C) fp32."""
        attention = self.self_attention
        keys, values, queries = attention.keys_values_queries(self.self_attention_norm(x))
        x = x + self.dropout(attention(queries, keys, values, bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderLayer(nn.Module):
    """Self-attention, attention over the source and feed-forward.

    ``index`` is this layer's number in the cache.
    """

    def __init__(self, dims: T5Dims, index: int):
        super().__init__()
        self.self_attention_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.self_attention = Attention(dims)
        self.cross_attention_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.cross_attention = Attention(dims)
        self.feed_forward_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.feed_forward = FeedForward(dims)
        self.dropout = nn.Dropout(dims.dropout)
        self.index = index

    def forward(
        self,
        x: torch.Tensor,
        source: torch.Tensor,
        source_values: torch.Tensor | None,
        self_bias: torch.Tensor,
        source_bias: torch.Tensor,
        cache: KeyValueCache | FixedCache | None = None,
    ) -> torch.Tensor:
        """(R, N, C) fp32 -> (R, N, C) fp32, where R is a multiple of B.

        The rows of one source stand side by side. ``source`` and ``source_values`` are its keys and
        values (B, H, S, D), or its states (B, S, C) and None. ``self_bias`` is (1, H, N, P + N),
        ``source_bias`` (B, 1, 1, S).
        """
        attention = self.self_attention
        keys, values, queries = attention.keys_values_queries(self.self_attention_norm(x))
        if cache is not None:
            keys, values = cache.extended(self.index, keys, values)
        x = x + self.dropout(attention(queries, keys, values, self_bias))
        attention = self.cross_attention
        if source_values is None:
            source, source_values = attention.keys_values(source)
        queries = attention.q(self.cross_attention_norm(x))
        # The rows of a source become queries of one row, which share its keys and values.
        queries = attention.split_heads(queries.view(len(source), -1, queries.size(-1)))
        x = x + self.dropout(attention(queries, source, source_values, source_bias).view_as(x))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class T5Encoder(nn.Module):
    """T5's encoder over the caller's embeddings, some of which are video tokens.

    With ``checkpoint_activations`` (set from outside, here and in the decoder), the backward pass
    computes the layers again, one at a time.
    """

    def __init__(self, dims: T5Dims):
        super().__init__()
        self.relative_bias = RelativeBias(dims, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(dims) for _ in range(dims.num_layers))
        self.final_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.dropout = nn.Dropout(dims.dropout)
        self.checkpoint_activations = False

    def forward(self, embeddings: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        """(B, S, C), (B, S) bool True at padding -> (B, S, C) in the weights' dtype.

        States at padding are finite and without meaning.
        """
        positions = torch.arange(embeddings.size(1), device=embeddings.device)
        bias = apply_mask(self.relative_bias(positions, positions), padding_mask[:, None, None, :])
        x = self.dropout(at_least_fp32(embeddings))
        for layer in self.layers:
            x = checkpointed(layer, x, bias) if self.checkpoint_activations else layer(x, bias)
        return self.dropout(self.final_norm(x))


class T5Decoder(FairseqIncrementalDecoder):
    """T5's decoder with its output, tied to the embedding table or a table of its own.

    Decoding starts from pad (id 0). Padding stands at the right of ``prev_output_tokens``, so the
    causal mask hides it.

    Attributes:
        graphs: of steps of generation and scoring, which a GPU replays; None (set from outside):
            operations are launched one by one.
    """

    def __init__(self, dims: T5Dims, embed_tokens: nn.Embedding):
        super().__init__(None)
        self.embed_tokens = embed_tokens
        self.relative_bias = RelativeBias(dims, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(dims, i) for i in range(dims.num_decoder_layers))
        self.final_norm = RMSNorm(dims.d_model, dims.layer_norm_eps)
        self.lm_head = None
        if not dims.tie_word_embeddings:
            self.lm_head = Fp32OutputLinear(dims.d_model, dims.vocab_size)
        self.dropout = nn.Dropout(dims.dropout)
        self.checkpoint_activations = False
        self.graphs: StepGraphs | None = None

    def forward(
        self,
        prev_output_tokens: torch.Tensor,
        encoder_out: EncoderOut,
        incremental_state: dict | None = None,
        **unused,
    ) -> tuple[torch.Tensor, dict]:
        """Logits (B, N, V) fp32.

        Args:
            prev_output_tokens: (B, L) ids from the start token on. With a cache also (R, L),
                where R is a multiple of B and the rows of one source stand side by side.
            encoder_out: the encoder's output for B rows.
            incremental_state: fairseq's store of the cache. With it, only the N = L - P positions
                that earlier calls have not seen are computed and returned, without gradients, and
                only the first call reads ``encoder_out``.
            unused: what fairseq passes to every decoder, such as ``src_lengths``.
        """
        cache = None
        if incremental_state is not None:
            cache = self.get_incremental_state(incremental_state, "cache")
            if cache is None:
                cache = KeyValueCache(self.source_cache(encoder_out), _source_bias(encoder_out))
                self.set_incremental_state(incremental_state, "cache", cache)
        past = 0 if cache is None else cache.length
        keys = torch.arange(prev_output_tokens.size(1), device=prev_output_tokens.device)
        queries = keys[past:]
        self_bias = apply_mask(self.relative_bias(queries, keys), keys[None, :] > queries[:, None])
        tokens = prev_output_tokens[:, past:]
        if cache is None:
            sources: Sequence[tuple[torch.Tensor, torch.Tensor | None]]
            if is_partitioned(self.relative_bias):  # a layer's weights are there in its calls only
                source = encoder_out["encoder_out"][0].transpose(0, 1)
                sources = [(source, None)] * len(self.layers)
            else:
                sources = self.source_cache(encoder_out)
            features = self._features(tokens, self_bias, sources, _source_bias(encoder_out))
        else:
            features = self._features(tokens, self_bias, cache.sources, cache.source_bias, cache)
        logits = vocabulary_linear(self._output_states(features), self.output_table)
        return logits, {"attn": [None]}

    def packed_features(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        visible: torch.Tensor,
        sources: list[KeysValues],
        source_bias: torch.Tensor,
    ) -> torch.Tensor:
        """States (B, N, C) of N target tokens per row, which may belong to many targets.

        Args:
            tokens, positions: (B, N) ids, and positions in the target from 0; or (1, N), the same
                for every row.
            visible: (B or 1, N, N) bool: whether token i sees token j in ``visible[b, i, j]``.
            sources, source_bias: made by ``source_of`` from the encoder's output for B rows.
        """
        bias = apply_mask(self.relative_bias(positions, positions), ~visible.unsqueeze(1))
        tokens = tokens.expand(len(source_bias), -1)
        return self._features(tokens, bias, sources, source_bias)

    def next_logits(
        self, tokens: torch.Tensor, self_bias: torch.Tensor, cache: FixedCache
    ) -> torch.Tensor:
        """Logits (R, V) fp32 of what follows the last ``tokens`` (R,).

        ``self_bias`` (1, H, 1, room) is that of the cache's position among ``step_biases``.
        """
        sources = cache.sources
        features = self._features(
            tokens.unsqueeze(1), self_bias, sources.keys_values, sources.bias, cache
        )
        return vocabulary_linear(self._output_states(features), self.output_table).squeeze(1)

    def step_biases(self, room: int) -> torch.Tensor:
        """(room, 1, H, 1, room): of every position, the bias of all there is room for."""
        positions = torch.arange(room, device=self.relative_bias.weight.device)
        future = positions[None, :] > positions[:, None]
        bias = apply_mask(self.relative_bias(positions, positions), future)
        return bias.permute(2, 0, 1, 3).unsqueeze(3)

    def heads_and_width(self) -> tuple[int, int]:
        """H and D."""
        heads = cast(DecoderLayer, self.layers[0]).self_attention.num_heads
        return heads, cast(DecoderLayer, self.layers[0]).self_attention.k.out_features // heads

    def source_of(self, encoder_out: EncoderOut) -> tuple[list[KeysValues], torch.Tensor]:
        """``source_cache`` and the bias (B, 1, 1, S) that masks the source's padding."""
        return self.source_cache(encoder_out), _source_bias(encoder_out)

    def source_cache(self, encoder_out: EncoderOut) -> list[KeysValues]:
        """Each layer's keys and values of the source."""
        source = encoder_out["encoder_out"][0].transpose(0, 1)
        attentions = [layer.cross_attention for layer in cast(Iterable[DecoderLayer], self.layers)]
        found = joined([p for attention in attentions for p in (attention.k, attention.v)], source)
        heads = [attentions[0].split_heads(x) for x in found]
        return list(zip(heads[::2], heads[1::2], strict=True))

    def _features(
        self,
        tokens: torch.Tensor,
        self_bias: torch.Tensor,
        sources: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
        source_bias: torch.Tensor,
        cache: KeyValueCache | FixedCache | None = None,
    ) -> torch.Tensor:
        """(R, N) ids -> (R, N, C); the rest as the layers take it, ``sources`` for each of them."""
        x = self.dropout(at_least_fp32(self.embed_tokens(tokens)))
        # A second pass would write to the cache a second time.
        checkpointing = self.checkpoint_activations and cache is None
        for layer, source in zip(self.layers, sources, strict=True):
            inputs = *source, self_bias, source_bias, cache
            x = checkpointed(layer, x, *inputs) if checkpointing else layer(x, *inputs)
        return self.dropout(self.final_norm(x))

    def token_logits(self, features: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Features (..., C) and tokens (...) -> the tokens' logits (...) fp32."""
        rows = F.embedding(tokens, self.output_table)
        return (at_least_fp32(self._output_states(features)) * at_least_fp32(rows)).sum(-1)

    def log_normalizer(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., C) -> logsumexp of all logits, (...) fp32.

        The vocabulary is processed in blocks that fit the processor's cache: on a CPU the sum then
        costs nothing beside the product, where that of whole rows costs four times as much.
        """
        states = self._output_states(features)
        parts = []
        for rows in self.output_table.split(VOCABULARY_BLOCK):
            logits = fp32_linear(states, rows)
            highest = logits.amax(-1, keepdim=True)
            parts.append(logits.sub_(highest).exp_().sum(-1).log_() + highest.squeeze(-1))
        return torch.stack(parts, dim=-1).logsumexp(-1)

    @property
    def output_table(self) -> torch.Tensor:
        """(V, C) weights of the output."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def _output_states(self, features: torch.Tensor) -> torch.Tensor:
        """Features (..., C), scaled by C ** -0.5 as T5 does where the tables are tied."""
        return features * features.size(-1) ** -0.5 if self.lm_head is None else features

    def reorder_incremental_state(self, incremental_state: dict, new_order: torch.Tensor) -> None:
        """Rows of the cache in ``new_order`` (R,), which may repeat or leave out rows."""
        cache = self.get_incremental_state(incremental_state, "cache")
        if cache is not None:
            cache.reorder(new_order)

    def max_positions(self) -> int:
        """T5's positions are relative; the task limits the target."""
        return int(1e6)


def _source_bias(encoder_out: EncoderOut) -> torch.Tensor:
    """(B, 1, 1, S) in the weights' dtype that masks the source's padding."""
    padding = encoder_out["encoder_padding_mask"][0][:, None, None, :]
    dtype = encoder_out["encoder_out"][0].dtype
    return apply_mask(torch.zeros_like(padding, dtype=dtype), padding)


@torch.no_grad()
def init_t5_parameters(
    embed_tokens: nn.Embedding, encoder: T5Encoder, decoder: T5Decoder, dims: T5Dims
) -> None:
    """Draw T5's initial weights (Mesh TensorFlow's), all normal but for the norms' ones.

    Queries are smaller by D ** -0.5, in place of the scale that T5's attention lacks. An output
    table of its own is smaller by C ** -0.5, in place of the tied one's scale.
    """
    width_std, inner_std = dims.d_model**-0.5, (dims.num_heads * dims.d_kv) ** -0.5
    stds = dict.fromkeys(("k", "v", "wi", "wi_0", "wi_1"), width_std)
    stds |= {"q": width_std * dims.d_kv**-0.5, "o": inner_std, "wo": dims.d_ff**-0.5}
    nn.init.normal_(embed_tokens.weight, std=1.0)
    if decoder.lm_head is not None:
        nn.init.normal_(decoder.lm_head.weight, std=width_std)
    for stack in (encoder, decoder):
        nn.init.normal_(stack.relative_bias.weight, std=width_std)
        for name, module in stack.layers.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=stds[name.rpartition(".")[2]])
