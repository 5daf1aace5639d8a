"""The two networks joined: missing modalities, padding, batching, decoding, freezing, size."""

from dataclasses import replace

import pytest
import torch

from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.models.t5 import T5_DIMS
from vt_fairseq.models.video_backbones import VIDEO_NETWORKS
from vt_fairseq.models.video_translate import VideoTranslateModel, build_networks

CLS, SEP, VIDEO = 300, 301, 303


def build(pooling: str = "none", freeze: str = "none") -> VideoTranslateModel:
    torch.manual_seed(0)
    t5 = replace(T5_DIMS["tiny"], vocab_size=384)
    return VideoTranslateModel(
        *build_networks(t5, VIDEO_NETWORKS["tiny"], VIDEO, pooling, freeze)
    ).eval()


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


@pytest.mark.parametrize(
    ("freeze", "moving"), [("all", []), ("all-but-last", ["layer4"]), ("none", ["stem", "layer1"])]
)
def test_frozen_stages_do_not_move_in_training_their_batch_norm_included(freeze, moving):
    model = build(freeze=freeze).train()
    network = model.encoder.video.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    out, _ = model(source(WITH_VIDEO), PREVIOUS, video=clips(1))
    out.square().mean().backward()
    optimizer.step()
    changed = {
        name.split(".")[0]
        for name, value in network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert set(moving) <= changed
    if freeze == "all":
        assert not changed
    if freeze == "all-but-last":
        assert changed == {"layer4", "feature_norm"}


def test_the_encoder_output_can_be_reordered_and_repeated():
    model = build()
    order = torch.tensor([1, 1, 0])
    with torch.no_grad():
        encoded = model.encoder(source(TEXT_ONLY, LONGER), video=clips(1))
        reordered = model.encoder.reorder_encoder_out(encoded, order)
        decoded, _ = model.decoder(PREVIOUS.expand(3, -1), encoder_out=reordered)
    expected = logits(model, [LONGER, LONGER, TEXT_ONLY], clips(1).expand(2, -1, -1, -1, -1))
    torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_t5_large_with_r2plus1d_34_runs_forward_and_backward_on_a_cpu():
    make_network, t5 = VIDEO_NETWORKS["34"], T5_DIMS["large"]
    model = VideoTranslateModel(*build_networks(t5, make_network, 32103, "none", "none"))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(801.7e6, rel=1e-3)
    tokens = model.encoder.video.num_tokens(32)
    assert tokens == 4
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (1, 32, 112, 112, 3), dtype=torch.uint8, generator=generator)
    rows = source([32100, 5, *[32103] * tokens, 32101])
    out, _ = model(rows, torch.tensor([[PAD, 5, 6]]), video=video)
    out.float().logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
