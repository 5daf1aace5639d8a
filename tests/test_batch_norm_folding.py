"""BatchNorm folded into convolutions: equal features, fewer passes, and only for inference."""

from copy import deepcopy

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from vt_fairseq.inference.loading import open_checkpoint
from vt_fairseq.models.batch_norm import BatchNorm
from vt_fairseq.models.batch_norm_folding import fold_batch_norms
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, Normalize, R2Plus1D


def frames(clips: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(clips)
    return torch.randint(0, 256, (clips, 8, 40, 40, 3), generator=generator, dtype=torch.uint8)


def moved(size: str) -> R2Plus1D:
    """A network in evaluation mode whose BatchNorms are no identities."""
    torch.manual_seed(1)
    network = R2Plus1D(R2PLUS1D_DIMS[size])
    network(Normalize()(frames(2), torch.float32))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return network.eval()


@pytest.mark.parametrize("size", ["tiny", "34-quarter"])
@torch.no_grad()
def test_a_folded_network_gives_the_features_of_the_plain_one(size):
    plain = moved(size)
    folded = deepcopy(plain)
    folded.fold()
    video = Normalize()(frames(), torch.float32)
    expected = plain(video)
    assert expected.std() > 0.1
    torch.testing.assert_close(folded(video), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_folding_into_filled_mid_planes_changes_nothing(monkeypatch):
    plain = moved("tiny")
    folded = deepcopy(plain)
    folded.fold()
    monkeypatch.setattr("vt_fairseq.models.r2plus1d.on_tensor_cores", lambda x: True)
    video = Normalize()(frames(), torch.float32)
    torch.testing.assert_close(folded(video), plain(video), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_folding_in_half_precision_is_as_near_to_fp32_as_the_plain_network():
    plain = moved("tiny")
    video = Normalize()(frames(), torch.float32)
    exact, video = plain(video), video.to(torch.bfloat16)
    plain.to(torch.bfloat16)
    folded = deepcopy(plain)
    folded.fold()  # as fairseq-generate does it: cast first
    errors = [(network(video).float() - exact).norm() / exact.norm() for network in (plain, folded)]
    assert errors[1] < 1.5 * errors[0] < 0.05


def test_every_batchnorm_of_the_ig65m_network_is_folded():
    with torch.device("meta"):
        network = R2Plus1D(R2PLUS1D_DIMS["34"]).eval()
    assert fold_batch_norms(network) == 69
    assert not any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    assert fold_batch_norms(network) == 0


@torch.no_grad()
def test_a_convolution_that_has_a_bias_keeps_it():
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Conv3d(2, 3, 1), BatchNorm(3))
    plain(torch.randn(4, 2, 3, 3, 3))
    folded = deepcopy(plain.eval())
    assert fold_batch_norms(folded) == 1
    x = torch.randn(1, 2, 3, 3, 3)
    torch.testing.assert_close(folded(x), plain(x), rtol=1e-5, atol=1e-6)


def test_a_network_in_training_is_not_folded():
    with pytest.raises(ValueError, match="evaluation mode"):
        R2Plus1D(R2PLUS1D_DIMS["tiny"]).fold()


def norms(model: nn.Module) -> int:
    network = model.encoder.video.network
    return sum(isinstance(module, nn.BatchNorm3d) for module in network.modules())


@pytest.fixture
def plain(trained) -> tuple[nn.Module, DictConfig]:
    """The trained model as training has it, and its checkpoint's options."""
    state = torch.load(trained, weights_only=False)
    cfg = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
    task = open_checkpoint(trained, device="cpu").task
    model = task.build_model(cfg.model, from_checkpoint=True)
    model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    return model.eval(), cfg


@torch.no_grad()
def test_a_checkpoint_that_is_opened_is_folded_with_equal_features_and_scores(trained, plain):
    before = trained.read_bytes()
    plain, folded = plain[0], open_checkpoint(trained, device="cpu").model
    assert norms(folded) == 1 < norms(plain)  # that of the features follows a mean
    features, expected = (model.encoder.video(frames()) for model in (folded, plain))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    encoder = plain.encoder
    ids = torch.tensor([[10, *[encoder.video_id] * encoder.video.num_tokens(8), 11]] * 2)
    text = torch.tensor([[0, 5, 9, 14], [0, 7, 8, 12]])
    scores, expected = (
        model(ids, text, video=frames())[0].log_softmax(-1) for model in (folded, plain)
    )
    assert not torch.equal(scores[0], scores[1])
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    assert trained.read_bytes() == before


def test_fairseq_generate_prepares_the_model_by_folding(plain):
    model, cfg = plain
    model.prepare_for_inference_(cfg)
    assert norms(model) == 1
    with pytest.raises(RuntimeError, match="cannot train"):
        model.train()
