"""Activation checkpointing: nothing changes but what is kept."""

import copy

import pytest
import torch

from tests.test_model import LONGER, PREVIOUS, TEXT_ONLY, WITH_VIDEO, clips, source
from vt_fairseq.errors import UserError
from vt_fairseq.models import activation_checkpointing
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.video_translate import VideoTranslateModel

ROWS = [WITH_VIDEO, TEXT_ONLY, LONGER]
ALL = {"checkpoint_activations": True, "checkpoint_video_stages": 4}


def build(**options) -> VideoTranslateModel:
    torch.manual_seed(0)
    return build_model(TinyConfig(**options), vocab_size=384, video_id=303)


def train_once(model: VideoTranslateModel) -> tuple[torch.Tensor, dict[str, torch.Tensor | None]]:
    """Logits and gradients of one training step."""
    torch.manual_seed(7)
    logits, _ = model.train()(source(*ROWS), PREVIOUS.expand(3, -1), video=clips(2))
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("freeze", ["none", "all-but-last", "all"])
@pytest.mark.parametrize(
    "checkpointing",
    [
        ALL,
        {"checkpoint_activations": True},
        {"checkpoint_video_stages": 1},
        {"checkpoint_video_stages": 3},
    ],
)
def test_values_gradients_and_statistics_do_not_change(checkpointing, freeze, dropout):
    plain = build(dropout=dropout, freeze_video=freeze)
    frugal = build(dropout=dropout, freeze_video=freeze, **checkpointing)
    logits, gradients = train_once(plain)
    same_logits, same_gradients = train_once(frugal)
    assert torch.equal(logits, same_logits)
    for name, expected in gradients.items():
        found = same_gradients[name]
        assert found is expected is None or torch.equal(found, expected), name
    buffers = dict(frugal.named_buffers())
    for name, expected in plain.named_buffers():
        assert torch.equal(buffers[name], expected), name


def test_checkpointing_the_encoders_layers_gives_the_same_gradients_to_the_bit():
    plain, frugal = build(dropout=0.3), build(dropout=0.3)
    frugal.encoder.transformer.checkpoint_activations = True
    expected = train_once(plain)[1]
    for name, gradient in train_once(frugal)[1].items():
        assert torch.equal(gradient, expected[name]), name


def test_parameters_keep_their_names_and_copies_are_independent():
    frugal = build(**ALL)
    assert list(frugal.state_dict()) == list(build().state_dict())
    copied = copy.deepcopy(frugal)
    train_once(copied)
    assert all(p.grad is None for p in frugal.parameters())
    assert all(p.grad is not None for p in copied.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_training_runs_each_block_and_layer_twice_and_evaluation_once(frozen):
    model = build(**ALL, freeze_video="all-but-last" if frozen else "none")
    counts = {}

    def count(module, inputs, output):
        counts[module] = counts.get(module, 0) + 1

    network = model.encoder.video.network
    trained = [model.encoder.transformer.layers[0], model.decoder.layers[1]]
    if not frozen:
        trained += [network.layer1[0], network.layer4[0]]
    for module in trained:
        module.register_forward_hook(count)
    train_once(model)
    assert [counts[module] for module in trained] == [2] * len(trained)
    counts.clear()
    with torch.no_grad():
        model.eval()(source(*ROWS), PREVIOUS.expand(3, -1), video=clips(2))
    assert [counts[module] for module in trained] == [1] * len(trained)
    assert not activation_checkpointing.is_second_pass()


@pytest.mark.parametrize("with_gradients", [False, True])
def test_decoding_with_a_cache_does_not_change(with_gradients):
    plain, frugal = build().eval(), build(**ALL).eval()
    previous = PREVIOUS.expand(3, -1)
    steps = []
    with torch.set_grad_enabled(with_gradients):
        for model in (plain, frugal):
            encoder_out = model.encoder(source(*ROWS), video=clips(2))
            state = {}
            steps.append(
                [
                    model.decoder(previous[:, :n], encoder_out, incremental_state=state)[0]
                    for n in range(1, 5)
                ]
            )
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_may_be_away_between_the_passes_as_under_zero_3(dtype):
    plain, emptied = build(**ALL).to(dtype), build(**ALL).to(dtype)
    layers = [m.encoder.transformer.layers[0].feed_forward for m in (plain, emptied)]
    x = torch.randn(2, 3, 128, dtype=dtype, generator=torch.Generator().manual_seed(1))
    outputs = [
        activation_checkpointing.checkpointed(layer, x.clone().requires_grad_()) for layer in layers
    ]
    outputs += [layer(x) for layer in layers]
    weights = [(p, p.data) for p in layers[1].parameters()]
    for parameter, _ in weights:
        parameter.data = torch.empty(0, dtype=dtype)
    for parameter, data in weights:
        parameter.data = data
    for out in outputs:
        out.square().sum().backward()
    for a, b in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(a.grad, b.grad) and a.grad.abs().sum() > 0


def test_a_second_pass_that_fails_leaves_no_mark():
    class FailsInSecondPass(torch.nn.Module):
        def forward(self, x):
            if activation_checkpointing.is_second_pass():
                raise RuntimeError("inside")
            return 2 * x

    out = activation_checkpointing.checkpointed(
        FailsInSecondPass(), torch.ones(1, requires_grad=True)
    )
    with pytest.raises(RuntimeError, match="inside"):
        out.backward()
    assert not activation_checkpointing.is_second_pass()


@torch.no_grad()
def test_keys_and_values_of_the_source_may_stand_in_for_it_as_in_scoring():
    plain, frugal = build().eval(), build(**ALL).eval()
    encoder_out = plain.encoder(source(*ROWS), video=clips(2))
    sources = plain.decoder.source_of(encoder_out)
    visible = torch.ones(1, 4, 4).tril().bool()
    inputs = PREVIOUS, torch.arange(4).unsqueeze(0), visible, *sources
    found, expected = (model.decoder.packed_features(*inputs) for model in (frugal, plain))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("stages", [-1, 5])
def test_a_number_of_stages_that_the_network_does_not_have_is_a_users_mistake(stages):
    with pytest.raises(UserError, match="from 0 to 4"):
        build(checkpoint_video_stages=stages)
