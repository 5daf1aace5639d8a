"""R(2+1)D against torchvision's known answer and IG65M's published key list and sizes."""

from copy import deepcopy

import pytest
import torch

from vt_fairseq.models.r2plus1d import MEAN, R2PLUS1D_DIMS, STD, Normalize, R2Plus1D

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture
def tiny() -> R2Plus1D:
    torch.manual_seed(1)
    network = R2Plus1D(R2PLUS1D_DIMS["tiny"])
    network(video(4))  # moves BatchNorm's statistics away from 0 and 1
    return network


@pytest.fixture(scope="module")
def meta34() -> R2Plus1D:
    with torch.device("meta"):
        return R2Plus1D(R2PLUS1D_DIMS["34"], num_classes=400)


def video(clips: int, frames: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(clips)
    shape = (clips, frames, 40, 40, 3)
    return Normalize()(
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), torch.float32
    )


def buffers(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


@pytest.mark.data
def test_r2plus1d_18_gives_torchvisions_known_answer(test_data):
    expected = torch.load(
        test_data / "video_net" / "torchvision_test_r2plus1d_18_expect.pkl", weights_only=True
    )
    torch.manual_seed(0)
    network = R2Plus1D(R2PLUS1D_DIMS["18"], num_classes=50).eval()
    clip = torch.rand(1, 3, 4, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(network.classify(clip), expected, rtol=0, atol=1e-5)


def test_r2plus1d_34_has_the_keys_and_the_parameters_of_ig65m(meta34):
    state = meta34.state_dict()
    assert len(state) == 416
    assert sum(name.endswith("num_batches_tracked") for name in state) == 69
    assert sum(parameter.numel() for parameter in meta34.parameters()) == 63_697_175
    assert state["stem.0.weight"].shape == (45, 3, 1, 7, 7)
    assert state["layer1.0.conv1.0.0.weight"].shape == (144, 64, 1, 3, 3)
    assert state["layer1.2.conv2.0.3.weight"].shape == (64, 144, 3, 1, 1)
    assert state["layer3.0.downsample.0.weight"].shape == (256, 128, 1, 1, 1)
    assert state["layer4.2.conv2.1.running_var"].shape == (512,)
    assert state["fc.weight"].shape == (400, 512)
    assert "layer1.0.downsample.0.weight" not in state


@pytest.mark.parametrize(
    ("size", "block", "first", "second"),
    [
        # Per convolution in 34, per block in 18.
        ("34", "layer1.0", 144, 144),
        ("34", "layer1.2", 144, 144),
        ("34", "layer2.0", 230, 288),
        ("34", "layer2.3", 288, 288),
        ("34", "layer3.0", 460, 576),
        ("34", "layer3.5", 576, 576),
        ("34", "layer4.0", 921, 1152),
        ("34", "layer4.2", 1152, 1152),
        ("18", "layer2.0", 230, 230),
        ("18", "layer3.0", 460, 460),
        ("18", "layer4.0", 921, 921),
    ],
)
def test_midplanes_are_computed_as_in_the_published_networks(size, block, first, second):
    with torch.device("meta"):
        state = R2Plus1D(R2PLUS1D_DIMS[size]).state_dict()
    assert state[f"{block}.conv1.0.0.weight"].shape[0] == first
    assert state[f"{block}.conv2.0.0.weight"].shape[0] == second


def test_the_quarter_of_34_has_its_depth_and_a_quarter_of_its_channels():
    whole, quarter = R2PLUS1D_DIMS["34"], R2PLUS1D_DIMS["34-quarter"]
    assert quarter.blocks == whole.blocks == (3, 4, 6, 3)
    assert tuple(4 * width for width in quarter.widths) == whole.widths == (64, 128, 256, 512)
    assert (whole.stem_width, quarter.stem_width) == (45, 12)  # 11.25, to a multiple of four
    with torch.device("meta"):
        network = R2Plus1D(quarter)
    assert network.num_tokens(16) == 4  # its last stage does not halve the frames again


def test_batchnorm_has_caffe2s_epsilon_and_pytorchs_momentum_in_r2plus1d_34(meta34):
    norms = [m for m in meta34.modules() if isinstance(m, torch.nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


@pytest.mark.parametrize("frames", [8, 16, 24, 32])
def test_r2plus1d_34_makes_one_token_of_eight_frames(meta34, frames):
    features = meta34(torch.empty(2, 3, frames, 112, 112, device="meta"))
    assert features.shape == (2, frames // 8, 512)
    assert meta34.num_tokens(frames) == frames // 8


@pytest.mark.parametrize("size", sorted(R2PLUS1D_DIMS))
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 31])
def test_the_number_of_tokens_is_known_without_running_the_network(size, frames):
    with torch.device("meta"):
        network = R2Plus1D(R2PLUS1D_DIMS[size]).eval()
        features = network(torch.empty(1, 3, frames, 48, 48))
    assert features.shape[1] == network.num_tokens(frames)


def test_a_batch_of_clips_equals_each_clip_alone_in_evaluation(tiny):
    tiny.eval()
    clips = video(4)
    with torch.no_grad():
        alone = torch.cat([tiny(clip.unsqueeze(0)) for clip in clips])
        torch.testing.assert_close(tiny(clips), alone, rtol=0, atol=1e-5)


def test_a_feature_is_the_mean_over_space_of_the_last_stages_output(tiny):
    stage = []
    tiny.eval().layer4[-1].register_forward_hook(lambda *parts: stage.append(parts[2]))
    with torch.no_grad():
        found = tiny(video(2))
        (x,) = stage
        assert min(x.shape[3:]) > 1
        by_hand = sum(x[..., i, j] for i in range(x.shape[3]) for j in range(x.shape[4]))
        expected = tiny.feature_norm(by_hand / (x.shape[3] * x.shape[4]))
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_classifying_averages_over_all_positions_in_time_and_space():
    torch.manual_seed(1)
    network = R2Plus1D(R2PLUS1D_DIMS["tiny"], num_classes=5).eval()
    with torch.no_grad():
        logits = network.classify(video(2))
        pooled = network(video(2)).mean(dim=1)
    torch.testing.assert_close(logits, pooled @ network.fc.weight.T + network.fc.bias)


@pytest.mark.parametrize(
    ("mode", "frozen"),
    [("all", (*STAGES, "feature_norm")), ("all-but-last", STAGES[:-1]), ("none", ())],
)
def test_frozen_stages_stand_still_in_training_and_the_others_move(tiny, mode, frozen):
    tiny.freeze(mode)
    tiny.eval()
    tiny.train()
    before = buffers(tiny)
    loss = tiny(video(4)).square().mean()
    if mode != "all":
        loss.backward()
    assert loss.requires_grad == (mode != "all")
    for name, parameter in tiny.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in frozen), name
    for name, buffer in buffers(tiny).items():
        assert torch.equal(buffer, before[name]) == (name.split(".")[0] in frozen), name


def test_a_network_that_is_frozen_altogether_gives_the_same_features_in_training(tiny):
    tiny.freeze("all")
    with torch.no_grad():
        assert torch.equal(tiny.train()(video(2)), tiny.eval()(video(2)))


def test_an_unknown_freezing_mode_is_an_error(tiny):
    with pytest.raises(KeyError, match="half"):
        tiny.freeze("half")


def test_normalizing_takes_each_channels_mean_to_zero_and_its_deviation_to_one():
    frames = torch.zeros(1, 2, 4, 5, 3, dtype=torch.uint8)
    frames[0, 1] = 255
    out = Normalize()(frames, torch.float32)
    assert out.shape == (1, 3, 2, 4, 5)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    torch.testing.assert_close(out[0, :, 0, 0, 0], -mean / std)
    torch.testing.assert_close(out[0, :, 1, 3, 4], (1 - mean) / std)
    assert Normalize()(frames, torch.float16).dtype == torch.float16


def trained(network: R2Plus1D, x: torch.Tensor) -> list[torch.Tensor]:
    """Features in training and evaluation, gradients and statistics after one training pass."""
    network.train()
    features = network(x)
    features.square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    network.eval()
    return [features, network(x), *gradients, *network.buffers()]


@pytest.mark.parametrize("checkpoint_video_stages", [0, 4])
def test_mid_planes_filled_up_for_tensor_cores_change_nothing(
    tiny, monkeypatch, checkpoint_video_stages
):
    filled = deepcopy(tiny)
    filled.checkpoint_video_stages = checkpoint_video_stages
    expected = trained(tiny, video(2))
    widths = []
    layer = filled.layer2[0].conv1[0][1]
    layer.register_forward_hook(lambda module, inputs, output: widths.append(output.size(1)))
    monkeypatch.setattr("vt_fairseq.models.r2plus1d.on_tensor_cores", lambda x: True)
    for found, wanted in zip(trained(filled, video(2)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert layer.num_features % 8 and not widths[0] % 8


def test_all_channels_of_the_small_networks_features_are_normalized():
    network = R2Plus1D(R2PLUS1D_DIMS["tiny"]).train()
    features = network(torch.randn(4, 3, 8, 32, 32))
    assert network.feature_norm.weight.shape == (64,)
    variance = features.flatten(0, 1).var(0, correction=0)
    assert (variance > 0.9).all() and (variance < 1.001).all()
