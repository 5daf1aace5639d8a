"""The two networks joined: missing modalities, padding, batching, decoding, freezing, size."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion
from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import (
    T5LargeConfig,
    TinyConfig,
    build_model,
    dims_as_text,
    dims_from_text,
)
from vt_fairseq.models.checkpoint_state import matrix_elements
from vt_fairseq.models.r2plus1d import Normalize
from vt_fairseq.models.t5 import T5_DIMS, T5Decoder, T5Encoder
from vt_fairseq.models.video_translate import VideoTranslateModel

CLS, SEP, VIDEO = 300, 301, 303


def build(pooling: str = "none") -> VideoTranslateModel:
    torch.manual_seed(0)
    return build_model(TinyConfig(video_pooling=pooling), 384, VIDEO).eval()


def clips(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 8, 32, 32, 3), dtype=torch.uint8, generator=generator)


def source(*rows: list[int]) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


WITH_VIDEO = [CLS, 5, *[VIDEO] * 4, 7, SEP]
LONGER = [CLS, 5, 6, *[VIDEO] * 4, 7, 8, SEP, 9]
TEXT_ONLY = [CLS, 5, 7, SEP]
PREVIOUS = torch.tensor([[PAD, 11, 12, 13]])


@torch.no_grad()
def logits(model, rows, video) -> torch.Tensor:
    previous = PREVIOUS.expand(len(rows), -1)
    return model(source(*rows), previous, video=video)[0]


def test_a_batch_equals_its_rows_one_by_one_with_and_without_video_and_padding():
    model, video = build(), clips(2)
    batched = logits(model, [WITH_VIDEO, TEXT_ONLY, LONGER], video)
    alone = [
        logits(model, [WITH_VIDEO], video[:1]),
        logits(model, [TEXT_ONLY], None),
        logits(model, [LONGER], video[1:]),
    ]
    torch.testing.assert_close(batched, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_each_row_takes_its_own_clip():
    model, video = build(), clips(2)
    one = logits(model, [WITH_VIDEO, LONGER], video)
    other = logits(model, [WITH_VIDEO, LONGER], video.flip(0))
    assert not torch.allclose(one[0], other[0]) and not torch.allclose(one[1], other[1])


@torch.no_grad()
def test_video_tokens_are_a_linear_map_of_the_networks_features():
    tokens = build().encoder.video
    tokens.projection.bias.normal_()
    features = tokens.network(Normalize()(clips(2), torch.float32))
    expected = features @ tokens.projection.weight.T + tokens.projection.bias
    torch.testing.assert_close(tokens(clips(2)), expected)


def test_text_only_and_video_only_inputs_work():
    model, video = build(), clips(1)
    assert logits(model, [TEXT_ONLY], None).isfinite().all()
    assert logits(model, [[*[VIDEO] * 4]], video).isfinite().all()


def test_temporal_pooling_gives_one_token_the_mean_of_all():
    model, video = build("temporal"), clips(1)
    tokens = build("none").encoder.video
    assert model.encoder.video.num_tokens(8) == 1
    assert tokens.num_tokens(8) == 4
    with torch.no_grad():
        torch.testing.assert_close(
            model.encoder.video(video), tokens(video).mean(1, keepdim=True), atol=1e-5, rtol=1e-5
        )


def test_the_encoder_output_can_be_reordered_and_repeated():
    model = build()
    order = torch.tensor([1, 1, 0])
    with torch.no_grad():
        encoded = model.encoder(source(TEXT_ONLY, LONGER), video=clips(1))
        reordered = model.encoder.reorder_encoder_out(encoded, order)
        decoded, _ = model.decoder(PREVIOUS.expand(3, -1), encoder_out=reordered)
    expected = logits(model, [LONGER, LONGER, TEXT_ONLY], clips(1).expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)


class RoundingOfFp64(TorchDispatchMode):
    """Notes the operations that make shorter floating-point numbers of fp64."""

    def __init__(self):
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        given, made = (
            {x.dtype for x in tree_leaves(tree) if isinstance(x, torch.Tensor)}
            for tree in ((args, kwargs), result)
        )
        if torch.float64 in given and made & {torch.float32, torch.float16, torch.bfloat16}:
            self.operations.append(str(operation))
        return result


def test_an_update_in_fp64_rounds_nothing_to_fp32():
    model, rounding = build().train().double(), RoundingOfFp64()
    target = torch.tensor([[11, 12, 13, 1]]).expand(2, -1)
    with rounding:
        found = model(source(WITH_VIDEO, LONGER), PREVIOUS.expand(2, -1), video=clips(2))[0]
        VideoTranslateCriterion.token_loss(found, target, "sum")[0].backward()
    assert found.dtype == torch.float64 and not rounding.operations
    assert all(p.grad is None or p.grad.dtype == torch.float64 for p in model.parameters())


@contextmanager
def python_calls() -> Iterator[Counter[str]]:
    """Counts the Python functions that are called, by name."""
    found: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, _: found.update([frame.f_code.co_name] * (event == "call")))
    try:
        yield found
    finally:
        sys.setprofile(None)


def test_an_update_visits_the_modules_neither_for_their_mode_nor_for_its_number():
    model = build().train()
    model.set_num_updates(1)
    with python_calls() as found:
        model.train()
        model.set_num_updates(2)
    assert sum(found.values()) < 10, found
    assert len(list(model.modules())) > 100


@pytest.mark.parametrize("mode", [True, False])
def test_a_module_in_another_mode_is_set_back_with_the_model(mode):
    model = build().train(mode)
    frozen = model.encoder.video.network.stem
    layer = model.decoder.layers[0]
    layer.feed_forward.train(not mode)
    model.train(mode)
    assert all(module.training == mode for module in model.modules())
    model.encoder.video.network.freeze("all-but-last")
    for _ in range(2):
        model.train(mode)
        assert not any(module.training for module in frozen.modules())
        assert all(module.training == mode for module in layer.modules())
    model.encoder.video.network.freeze("none")
    model.train(mode)
    assert all(module.training == mode for module in model.modules())
    assert not any(module.training for module in model.eval().modules())


def test_a_video_network_that_wants_to_know_the_update_is_told_once_each():
    model, told = build(), []

    class Curious(nn.Identity):
        def set_num_updates(self, num_updates: int) -> None:
            told.append(num_updates)

    model.set_num_updates(1)
    model.encoder.video.network.fc = Curious()
    for update in (2, 3):
        model.train().set_num_updates(update)
    assert told == [2, 3]


@pytest.mark.slow
def test_t5_large_with_r2plus1d_34_runs_forward_and_backward_on_a_cpu():
    model = build_model(T5LargeConfig(), 32128, 32103)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(801.7e6, rel=1e-3)
    tokens = model.encoder.video.num_tokens(32)
    assert tokens == 4
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 32, 112, 112, 3), dtype=torch.uint8, generator=generator)
    rows = source([32100, 5, *[32103] * tokens, 32101])
    out, _ = model(rows, torch.tensor([[PAD, 5, 6]]), video=video)
    out.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_sizes_are_read_from_text_and_written_as_text():
    text = "d_model=64, num_heads=2,gated_gelu=true,layer_norm_eps=1e-5"
    dims = dims_from_text(T5_DIMS["small"], text)
    assert (dims.d_model, dims.num_heads, dims.gated_gelu, dims.layer_norm_eps) == (
        64,
        2,
        True,
        1e-5,
    )
    assert dims.d_ff == T5_DIMS["small"].d_ff
    assert dims_from_text(T5_DIMS["large"], dims_as_text(dims)) == dims


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d_mode=64", "unknown T5 size 'd_mode=64'"),
        ("num_buckets=2", "found 2 and 128"),
        ("max_distance=16", "found 32 and 16"),
        ("max_distance=9999999999", "at most 100,000"),
        ("vocab_size=64", "unknown T5 size"),
        ("d_model", "a positive int"),
        ("d_model=0", "a positive int"),
        ("layer_norm_eps=nan", "a positive float"),
        ("gated_gelu=1", "true or false"),
    ],
)
def test_a_size_that_is_none_is_named(text, message):
    with pytest.raises(UserError, match=message):
        dims_from_text(T5_DIMS["small"], text)


@pytest.mark.parametrize("text", ["", "gated_gelu=true", "num_decoder_layers=5,d_ff=300,d_kv=48"])
def test_the_elements_of_a_transformer_are_nearly_all_counted_and_never_too_many(text):
    dims = dims_from_text(T5_DIMS["tiny"], text)
    table = torch.nn.Embedding(dims.vocab_size, dims.d_model)
    parts = torch.nn.ModuleList([T5Encoder(dims), T5Decoder(dims, table)])
    elements = sum(parameter.numel() for parameter in parts.parameters())
    if not dims.tie_word_embeddings:
        elements -= dims.vocab_size * dims.d_model
    assert 0.99 * elements < matrix_elements(dims) <= elements
