"""R(2+1)D weights in their published layouts: names, values, and everything accounted for."""

import pickle

import pytest
import torch

from tests.weights import caffe2_blobs, network, python2_pickle
from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.video_weights import fill_video, read_video
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D

# Some of Caffe2's names of R(2+1)D-34 as VMZ's files have them, by hand.
CAFFE2_EXAMPLES = {
    "stem.0.weight": "conv1_middle_w",
    "stem.1.running_var": "conv1_middle_spatbn_relu_riv",
    "stem.3.weight": "conv1_w",
    "stem.4.bias": "conv1_spatbn_relu_b",
    "layer1.0.conv1.0.0.weight": "comp_0_conv_1_middle_w",
    "layer1.2.conv2.1.weight": "comp_2_spatbn_2_s",
    "layer2.0.downsample.0.weight": "shortcut_projection_3_w",
    "layer3.0.conv2.0.1.running_mean": "comp_7_spatbn_2_middle_rm",
    "layer3.5.conv1.0.3.weight": "comp_12_conv_1_w",
    "layer4.0.downsample.1.bias": "shortcut_projection_13_spatbn_b",
    "layer4.2.conv2.0.3.weight": "comp_15_conv_2_w",
}


def empty(size: str) -> R2Plus1D:
    with torch.device("meta"):
        return R2Plus1D(R2PLUS1D_DIMS[size])


def load(path, size: str) -> tuple[R2Plus1D, list[str]]:
    """The file in a network without classifier, filled strictly; and what was left out."""
    net = empty(size)
    tensors, dropped = fill_video(read_video(path), net.state_dict(), R2PLUS1D_DIMS[size])
    missing = net.load_state_dict(tensors, strict=False, assign=True).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    for name in missing:
        net.get_submodule(name.rpartition(".")[0]).num_batches_tracked = torch.tensor(0)
    return net.eval(), dropped


def assert_same_features(net: R2Plus1D, expected: R2Plus1D) -> None:
    clip = torch.randn(1, 3, 8, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(net(clip), expected(clip))


@pytest.fixture(scope="module")
def net34() -> R2Plus1D:
    return network("34", num_classes=359)


def test_an_ig65m_file_of_torch_is_read_as_it_was_saved_before_torch_1_6(tmp_path, net34):
    path = tmp_path / "r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth"
    torch.save(net34.state_dict(), path, _use_new_zipfile_serialization=False)
    net, dropped = load(path, "34")
    assert dropped == ["fc.bias", "fc.weight"]
    assert_same_features(net, net34)
    assert int(net.stem[1].num_batches_tracked) == 3
    assert {(m.eps, m.momentum) for m in net.modules() if hasattr(m, "running_var")} == {
        (1e-3, 0.1)
    }


def test_a_file_of_caffe2_gives_the_same_network(tmp_path, net34):
    blobs = caffe2_blobs(net34)
    assert len(blobs) == 347
    path = tmp_path / "r2plus1d_34_clip32_ig65m_from_scratch_f102649996.pkl"
    path.write_bytes(python2_pickle({"blobs": blobs}))
    net, dropped = load(path, "34")
    assert dropped == ["last_out_L359_b", "last_out_L359_w"]
    assert_same_features(net, net34)


def test_caffe2s_names_are_those_of_the_published_files(tmp_path, net34):
    state = net34.state_dict()
    blobs = caffe2_blobs(net34)
    for ours, theirs in CAFFE2_EXAMPLES.items():
        assert torch.equal(torch.from_numpy(blobs[theirs]), state[ours]), ours


def test_torchvisions_r2plus1d_18_is_read_with_its_own_epsilon(tmp_path):
    expected = network("18", num_classes=400)
    torch.save(expected.state_dict(), tmp_path / "r2plus1d_18.pth")
    net, dropped = load(tmp_path / "r2plus1d_18.pth", "18")
    assert dropped == ["fc.bias", "fc.weight"]
    assert_same_features(net, expected)
    assert {m.eps for m in net.modules() if hasattr(m, "running_var")} == {1e-5}


@pytest.mark.data
def test_a_file_with_torchvisions_known_answer_keeps_it(tmp_path, test_data):
    expected = torch.load(
        test_data / "video_net" / "torchvision_test_r2plus1d_18_expect.pkl", weights_only=True
    )
    torch.manual_seed(0)
    original = R2Plus1D(R2PLUS1D_DIMS["18"], num_classes=50).eval()
    torch.save(original.state_dict(), tmp_path / "r2plus1d_18.pth")
    clip = torch.rand(1, 3, 4, 112, 112)
    net, _ = load(tmp_path / "r2plus1d_18.pth", "18")
    net.fc = original.fc
    with torch.no_grad():
        torch.testing.assert_close(net.classify(clip), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer2.0.conv1.1.bias": None}, r"has no layer2\.0\.conv1\.1\.bias"),
        ({"extra": torch.ones(1)}, "has extra that the model has no place for"),
        ({"stem.0.weight": torch.ones(45, 3, 1, 3, 3)}, r"stem\.0\.weight is"),
        ({"stem.1.bias": torch.full((45,), torch.nan)}, "not finite"),
        ({"stem.1.bias": torch.ones(45, dtype=torch.int8)}, "torch.int8"),
        ({7: torch.ones(1)}, "expected a plain tensor under 7"),
        ({"stem.1.bias": torch.ones(45).to_sparse()}, "expected a plain tensor"),
        ({"stem.1.bias": "text"}, "expected a plain tensor under 'stem.1.bias'"),
    ],
)
def test_a_tensor_without_counterpart_or_of_another_kind_is_named(tmp_path, changes, message):
    state = network("18").state_dict() | changes
    torch.save({name: x for name, x in state.items() if x is not None}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.pth", "18")


def test_a_network_of_another_depth_is_refused_with_both_depths(tmp_path):
    torch.save(network("18").state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"of \(2, 2, 2, 2\) blocks, expected \(3, 4, 6, 3\)"):
        load(tmp_path / "x.pth", "34")


def test_caffe2s_weights_are_refused_for_a_network_of_another_epsilon(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": caffe2_blobs(network("18"))}))
    with pytest.raises(UserError, match=r"epsilon 0\.001, this network has 1e-05"):
        load(tmp_path / "x.pkl", "18")


def test_a_blob_left_over_or_missing_is_named(tmp_path, net34):
    blobs = caffe2_blobs(net34)
    blobs["pred"] = blobs.pop("comp_3_conv_1_w")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs}))
    with pytest.raises(
        UserError, match=r"has no comp_3_conv_1_w and has pred that the model has no"
    ):
        load(tmp_path / "x.pkl", "34")


@pytest.mark.parametrize(
    "content", [{}, {"model": {}}, [1, 2], {"blobs": []}, {"fc.weight": torch.ones(2)}]
)
def test_a_file_without_a_network_says_what_it_has(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth holds no R\(2\+1\)D: expected stem\.0\.weight"):
        read_video(tmp_path / "x.pth")


def test_blobs_that_are_no_numbers_are_named(tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": "text"}}))
    with pytest.raises(UserError, match="blob conv1_w is no array of numbers"):
        read_video(tmp_path / "x.pkl")
