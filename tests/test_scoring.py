import pytest
import torch
from torch import nn

from vt_fairseq.data.text import EOS, PAD
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS
from vt_fairseq.models.t5 import T5_DIMS
from vt_fairseq.models.video_translate import build_networks
from vt_fairseq.scoring import score_candidates

VIDEO = 303


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        from dataclasses import replace

        t5 = replace(T5_DIMS["tiny"], vocab_size=384)
        self.encoder, self.decoder = build_networks(
            t5, R2PLUS1D_DIMS["tiny"], VIDEO, "none", "none"
        )


@pytest.fixture(scope="module")
def model() -> Joined:
    torch.manual_seed(0)
    return Joined().eval()


@pytest.fixture(scope="module")
def clips() -> dict:
    torch.manual_seed(1)
    video = torch.randint(0, 256, (3, 8, 40, 40, 3), dtype=torch.uint8)
    source = torch.tensor([[300, 5, *[VIDEO] * 4, 301, 0, 0], [300, 5, *[VIDEO] * 4, 6, 301, 9]])
    return {"src_tokens": source[[0, 1, 0]], "video": video}


def naive(model, clips, row: int, candidate: list[int]) -> float:
    """One pair, one encoder run, one softmax."""
    one = {k: v[row : row + 1] for k, v in clips.items()}
    length = int(one["src_tokens"].ne(PAD).sum())
    one["src_tokens"] = one["src_tokens"][:, :length]
    target = torch.tensor([[*candidate, EOS]])
    previous = torch.tensor([[PAD, *candidate]])
    with torch.no_grad():
        logits, _ = model.decoder(previous, encoder_out=model.encoder(**one))
    return logits.log_softmax(-1).gather(2, target.unsqueeze(2)).sum().item()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_scores_equal_a_naive_loop_over_single_pairs(model, clips, batch_size):
    generator = torch.Generator().manual_seed(2)
    candidates = [
        [
            torch.randint(3, 200, (int(n),), generator=generator).tolist()
            for n in torch.randint(1, 9, (count,), generator=generator)
        ]
        for count in (70, 0, 66)
    ]
    with torch.no_grad():
        encoder_out = model.encoder(**clips)
    found = score_candidates(model, encoder_out, candidates, batch_size)
    assert [len(row) for row in found] == [70, 0, 66]
    for row, (texts, likelihoods) in enumerate(zip(candidates, found, strict=True)):
        for text, likelihood in zip(texts, likelihoods, strict=True):
            expected = naive(model, clips, row, text)
            assert likelihood.log_likelihood == pytest.approx(expected, abs=1e-4)
            assert likelihood.num_tokens == len(text) + 1
            assert likelihood.score(True) == likelihood.log_likelihood / (len(text) + 1)


def test_the_encoder_is_not_run_by_scoring(model, clips, monkeypatch):
    with torch.no_grad():
        encoder_out = model.encoder(**clips)
    monkeypatch.setattr(model.encoder, "forward", lambda *_, **__: pytest.fail("encoder ran"))
    score_candidates(model, encoder_out, [[[5]], [[6]], [[7]]])
