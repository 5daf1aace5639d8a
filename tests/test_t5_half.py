"""T5 in fp16 where a plain fp16 T5 overflows: each place alone, and all together.

Weights are scaled until the values pass fp16's largest number, 65,504, as those of the pretrained
large checkpoints do (the residual stream and the feed-forward output: huggingface/transformers
issue 5651, pull request 9487).
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from fairseq.models import FairseqEncoderDecoderModel
from torch import nn

from tests.test_t5 import NARROW, NARROW_V1_1, PAD, build, random_ids, shift_right
from vt_fairseq.models import half_precision_linear
from vt_fairseq.models.half_precision_linear import CLAMP, ClampedLinear, Fp32OutputLinear
from vt_fairseq.models.t5 import Attention, FeedForward, T5Dims, apply_mask

SOURCE = random_ids(NARROW.vocab_size, 3, 10, 4, seed=31)
TARGET = random_ids(NARROW.vocab_size, 3, 6, 6, seed=32)
PREVIOUS = shift_right(TARGET)
STATES = torch.randn(64, NARROW.d_model, generator=torch.Generator().manual_seed(33)).half()

# Factors on the weights of every attention or feed-forward, by what they push out of range.
OVERFLOWS = {
    "attention logits": {"q": 1000, "k": 30},
    "attention output": {"v": 300, "o": 600},
    "feed-forward output": {"wi": 300, "wo": 300},
    "all": {"q": 1000, "k": 30, "v": 300, "o": 600, "wi": 300, "wo": 300},
}


def scaled(factors: dict[str, float], dims: T5Dims = NARROW) -> FairseqEncoderDecoderModel:
    """fp32 model with the factors applied, all its weights rounded to fp16."""
    model = build(dims)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Attention | FeedForward):
                for name, projection in module.named_children():
                    if name in factors:
                        projection.weight.mul_(factors[name])
    return model.half().float()


def forward(model) -> torch.Tensor:
    return model.decoder(PREVIOUS, encoder_out=model.encoder(SOURCE))[0]


def plain(model) -> torch.Tensor:
    """Logits of the same T5 written down plainly, everything in the weights' type but the norms."""
    encoder, decoder, table = model.encoder.transformer, model.decoder, model.decoder.embed_tokens

    def norm(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=layer.eps).to(x.dtype) * layer.weight

    def attend(layer: Attention, x: torch.Tensor, seen: torch.Tensor, bias: torch.Tensor):
        def heads(projection: nn.Linear, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, projection.weight).unflatten(-1, (layer.num_heads, -1)).mT

        q, k, v = heads(layer.q, x), heads(layer.k, seen), heads(layer.v, seen)
        weights = (torch.einsum("bndh,bsdh->bhns", q, k) + bias.to(x.dtype)).softmax(-1)
        mixed = torch.einsum("bhns,bsdh->bnhd", weights, v)
        return F.linear(mixed.flatten(2), layer.o.weight)

    def feed(layer: FeedForward, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.relu(F.linear(x, layer.wi.weight)), layer.wo.weight)

    limits = torch.finfo(table.weight.dtype)
    padding, places = SOURCE.eq(PAD)[:, None, None, :], torch.arange(SOURCE.size(1))
    bias = apply_mask(encoder.relative_bias(places, places), padding).clamp(min=limits.min)
    x = table(SOURCE)
    for layer in encoder.layers:
        normed = norm(layer.self_attention_norm, x)
        x = x + attend(layer.self_attention, normed, normed, bias)
        x = x + feed(layer.feed_forward, norm(layer.feed_forward_norm, x))
    source, places = norm(encoder.final_norm, x), torch.arange(PREVIOUS.size(1))
    later = places[None, :] > places[:, None]
    bias = apply_mask(decoder.relative_bias(places, places), later).clamp(min=limits.min)
    source_bias = apply_mask(torch.zeros(padding.shape), padding).clamp(min=limits.min)
    x = table(PREVIOUS)
    for layer in decoder.layers:
        normed = norm(layer.self_attention_norm, x)
        x = x + attend(layer.self_attention, normed, normed, bias)
        x = x + attend(
            layer.cross_attention, norm(layer.cross_attention_norm, x), source, source_bias
        )
        x = x + feed(layer.feed_forward, norm(layer.feed_forward_norm, x))
    return F.linear(norm(decoder.final_norm, x) * NARROW.d_model**-0.5, table.weight)


@torch.no_grad()
@pytest.mark.parametrize("overflow", ["nothing", *OVERFLOWS])
def test_the_plain_t5_is_ours_in_fp32(overflow):
    model = scaled(OVERFLOWS.get(overflow, {}))
    torch.testing.assert_close(plain(model), forward(model), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_plain_t5_is_fine_in_fp16_where_nothing_overflows():
    model = scaled({})
    torch.testing.assert_close(
        plain(copy.deepcopy(model).half()).float(), forward(model), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_where_a_plain_fp16_t5_overflows_ours_is_near_its_fp32_result(overflow):
    model = scaled(OVERFLOWS[overflow])
    half = copy.deepcopy(model).half()
    assert not plain(half).isfinite().all()
    expected, logits = forward(model), forward(half)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.05)
    for result in (expected, logits):
        F.cross_entropy(result.transpose(1, 2), TARGET).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    for (name, exact), found in zip(model.named_parameters(), half.parameters(), strict=True):
        difference = (found.grad.float() - exact.grad).norm()
        # Beside the hard choices of a softmax over such logits, its own gradients vanish. A few
        # roundings of the whole (fp16 keeps 1e-3) are all that can be asked on every processor.
        assert difference <= 0.05 * exact.grad.norm() + 3e-3 * whole, name


@torch.no_grad()
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_incremental_decoding_in_fp16_survives_too(overflow):
    half = scaled(OVERFLOWS[overflow]).half()
    encoder_out, state = half.encoder(SOURCE), {}
    steps = [
        half.decoder(PREVIOUS[:, :n], encoder_out, incremental_state=state)[0]
        for n in range(1, PREVIOUS.size(1) + 1)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=1), forward(half), rtol=0, atol=0.05)


def test_inner_values_beyond_the_range_saturate_and_dropout_does_not_push_them_over():
    torch.manual_seed(1)
    layer = ClampedLinear(4, 64).half()
    with torch.no_grad():
        layer.weight.mul_(1e4)
    x = (torch.randn(32, 4) * 100).half().requires_grad_()
    assert F.linear(x, layer.weight).isinf().any()
    out = F.dropout(layer(x), 0.5)
    assert out.isfinite().all() and out.abs().max() == 2 * CLAMP
    out.float().mean().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert layer.bfloat16()(x.bfloat16()).abs().max() > CLAMP


@pytest.mark.parametrize("dims", [NARROW, NARROW_V1_1], ids=["v1_0", "v1_1"])
def test_inner_overflow_leaves_training_finite(dims):
    factors = {"wi": 20_000, "wi_0": 200, "wi_1": 200, "v": 20_000}
    model = scaled(factors, dims).half().train()
    with torch.no_grad():
        layer = model.encoder.transformer.layers[0].feed_forward
        inner = layer.wi_0(STATES) * layer.wi_1(STATES) if dims.gated_gelu else layer.wi(STATES)
    assert inner.abs().max() >= CLAMP
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    logits = forward(model)
    F.cross_entropy(logits.transpose(1, 2), TARGET).backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dims", [NARROW, NARROW_V1_1], ids=["v1_0", "v1_1"])
@pytest.mark.parametrize("training", [True, False])
def test_every_projection_multiplies_half_precision_alone(dims, training):
    model, seen = scaled({}, dims).half().train(training), []

    def look(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        seen.append(inputs[0].dtype)

    linear = half_precision_linear.fp32_linear
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(look)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            *(half_precision_linear, "fp32_linear"),
            lambda x, weight: seen.append(x.dtype) or linear(x, weight),
        )
        forward(model)
    assert set(seen) == {torch.float16} and len(seen) > 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_joined_projections_are_the_single_ones_and_keep_no_copy_of_their_weights(dtype):
    torch.manual_seed(1)
    layers = nn.ModuleList([ClampedLinear(6, width) for width in (8, 4, 8)]).to(dtype)
    x, kept = torch.randn(2, 3, 6).to(dtype).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        together = half_precision_linear.joined(layers, x)
    own = {t.data_ptr() for t in (x, *layers.parameters())}
    assert {t.data_ptr() for t in kept} == own
    singles = half_precision_linear.joined(layers.eval(), x)
    gradients = []
    for outputs in (together, singles):
        loss = sum(y.float().square().sum() for y in outputs)
        gradients.append(torch.autograd.grad(loss, [x, *layers.parameters()]))
    for found, expected in zip([*together, *gradients[0]], [*singles, *gradients[1]], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_fp32_projection_is_exact_and_keeps_no_fp32_copies(dtype):
    torch.manual_seed(1)
    layer = Fp32OutputLinear(6, 5).to(dtype)
    x = torch.randn(2, 3, 6).to(dtype).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        out = layer(x)
    assert set(kept) == {dtype}
    out.square().sum().backward()
    inputs = [t.detach().float().requires_grad_() for t in (x, layer.weight)]
    expected = F.linear(*inputs)
    expected.square().sum().backward()
    assert torch.equal(out, expected)
    for found, exact in zip((x, layer.weight), inputs, strict=True):
        assert found.grad.dtype == dtype
        torch.testing.assert_close(found.grad.float(), exact.grad, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_zero_3_has_are_used_in_the_calls_of_their_own_layers_only(dtype):
    model = build(NARROW).to(dtype).train()
    expected, inside = forward(model), []
    for parameter in model.parameters():
        parameter.ds_id = 0  # as DeepSpeed marks it
    for layer in (*model.encoder.transformer.layers, *model.decoder.layers):
        layer.register_forward_pre_hook(lambda module, inputs: inside.append(module))
        layer.register_forward_hook(lambda module, inputs, output: inside.clear())
        for projection in layer.modules():
            if isinstance(projection, nn.Linear):
                projection.register_forward_pre_hook(
                    lambda module, inputs, layer=layer: calls.append(inside == [layer])
                )
    calls: list[bool] = []
    found = forward(model)
    assert len(calls) == sum(isinstance(m, nn.Linear) for m in model.modules()) and all(calls)
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if dtype == torch.float32 else 0.02)
