"""Rules of the method that a slip of one line would break, with values worked out here."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.logging import metrics

from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion
from vt_fairseq.data.dataset import Clip, VideoTextDataset
from vt_fairseq.data.head_targets import HeadTargets
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.text import TextOptions
from vt_fairseq.data.text_noise import TextNoise
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary
from vt_fairseq.models.r2plus1d import Normalize
from vt_fairseq.scoring.classification import VerbNounClassification, VerbNounPairs
from vt_fairseq.scoring.retrieval import Retrieval
from vt_fairseq.scoring.scorers import Prediction


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_vocabulary(["a red circle spins", "the blue square falls"] * 5, 60))


class Fixed(torch.nn.Module):
    """A model that gives these logits, whatever it is shown."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **net_input):
        return self.logits, {}


def test_the_loss_is_a_sum_over_tokens_without_padding_and_is_divided_by_their_number():
    """Two rows, of three tokens and of one: 4 tokens, neither 2 sentences nor 6 places."""
    vocabulary, pad = 5, 0
    logits = torch.arange(30.0).view(2, 3, vocabulary).sin() * 2
    target = torch.tensor([[3, 4, 1], [1, pad, pad]])
    sample = {
        **{"target": target, "ntokens": 4, "nsentences": 2, "net_input": {}, "num_missing": 0},
        **{"unreadable": [], "num_cut": 0, "id": torch.arange(2)},
    }
    criterion = VideoTranslateCriterion(SimpleNamespace(heads=None, cfg=None))
    loss, sample_size, log = criterion(Fixed(logits), sample)

    def nats(row: int, place: int) -> float:
        values = logits[row, place].tolist()
        return math.log(sum(map(math.exp, values))) - values[int(target[row, place])]

    expected = nats(0, 0) + nats(0, 1) + nats(0, 2) + nats(1, 0)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert sample_size == log["sample_size"] == log["ntokens"] == 4
    right = sum(
        logits[row, place].argmax() == target[row, place]
        for row, place in ((0, 0), (0, 1), (0, 2), (1, 0))
    )
    assert int(log["correct"]) == int(right)


def test_what_is_logged_is_per_token_in_bits_and_per_cent_over_all_processes():
    """Two processes: 3 nats of 2 tokens, 1 right; 5 nats of 6 tokens, 5 right."""
    logs = [
        {"loss": 3.0, "ntokens": 2, "correct": 1, "bad_clips": 1, "cut_targets": 2},
        {"loss": 5.0, "ntokens": 6, "correct": 5, "bad_clips": 0, "cut_targets": 1},
    ]
    with metrics.aggregate(new_root=True) as found:
        VideoTranslateCriterion.reduce_metrics(logs)
    bits = 8 / 8 / math.log(2)
    assert found.get_smoothed_values() == {
        **{"loss": round(bits, 4), "nll_loss": round(bits, 4), "ppl": pytest.approx(2**bits)},
        **{"accuracy": 75.0, "bad_clips": 1, "cut_targets": 3},
    }
    with metrics.aggregate(new_root=True) as found:  # a batch in which nothing could be read
        VideoTranslateCriterion.reduce_metrics([{"loss": 0.0, "ntokens": 0, "correct": 0}])
    assert found.get_smoothed_values()["accuracy"] == 0 == found.get_smoothed_values()["loss"]
    with metrics.aggregate(new_root=True) as found:  # a single token, of three bits
        log = {"loss": 3 * math.log(2), "ntokens": 1, "correct": 1}
        VideoTranslateCriterion.reduce_metrics([log])
    alone = found.get_smoothed_values()
    assert (alone["loss"], alone["ppl"], alone["accuracy"]) == (3, pytest.approx(8), 100)


def test_a_clip_that_was_not_seen_has_no_loss_and_is_not_right():
    logits = torch.arange(30.0).view(2, 3, 5).sin()
    target = logits.argmax(-1).clamp(min=1)
    sample = {
        **{"target": target, "ntokens": 3, "nsentences": 2, "net_input": {}, "num_missing": 1},
        **{"unreadable": ["a"], "num_cut": 0, "id": torch.arange(2)},
        "missing": torch.tensor([True, False]),
    }
    criterion = VideoTranslateCriterion(SimpleNamespace(heads=None, cfg=None))
    loss, _, log = criterion(Fixed(logits), sample)
    seen = -logits[1].log_softmax(-1)[range(3), target[1]].sum()
    assert loss.item() == pytest.approx(seen.item(), rel=1e-6)
    assert int(log["correct"]) == int((logits[1].argmax(-1) == target[1]).sum()) > 0


def test_recall_of_clips_for_a_caption_is_not_that_of_captions_for_a_clip(tmp_path):
    """scores[clip][caption]. Captions find their clips at 1, 1 and 3; clips theirs at 1, 2, 2."""
    scores = [[9.0, 1.0, 5.0], [8.0, 7.0, 6.0], [0.0, 5.0, 4.0]]
    rows = [ClipRow(name, f"{name}.mp4") for name in "abc"]
    records = [{"id": row.id, "scores": own} for row, own in zip(rows, scores, strict=True)]
    found = Retrieval().finish(tmp_path, rows, records)
    assert found["r1"] == pytest.approx(100 * 2 / 3) and found["v2t_r1"] == pytest.approx(100 / 3)
    assert (found["median_rank"], found["v2t_median_rank"]) == (1, 2)
    first = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert '"ranking": ["b", "a", "c"]' in first[2], "clips for the third caption, best first"


def test_one_share_of_masks_is_drawn_for_a_mini_batch_from_0_to_1(tokenizer):
    """Section 4.1: per mini-batch, uniform; neither each clip's own, nor BERT's 0.15."""
    words, noise = "circle " * 40, TextNoise("masked", "batch", 0.0, tokenizer.mask)
    rows = [ClipRow(str(n), f"{n}.mp4", captions=(words,)) for n in range(320)]
    dataset = VideoTextDataset(
        **{"rows": rows, "load_frames": None, "num_video_tokens": 1, "seed": 5, "train": True},
        **{"prompts": [Prompt("caption", "circle", "caption", 40)], "reuse_batch": False},
        text=TextOptions(tokenizer, noise, 512),
    )
    shares = []
    for start in range(0, len(rows), 8):
        clips = [Clip(n, rows[n], None) for n in range(start, start + 8)]
        sources = dataset.collater(clips)["net_input"]["src_tokens"]
        masks = sources.eq(tokenizer.mask).sum(dim=1)
        assert len(set(masks.tolist())) == 1, "the clips of a mini-batch have the same share"
        shares.append(masks[0].item() / len(tokenizer.encode(words)[:40]))
    # 40 draws from U(0, 1): mean 0.5 and deviation 0.289, to four standard errors.
    assert abs(np.mean(shares) - 0.5) < 4 * 0.289 / 40**0.5
    assert min(shares) < 0.15 and max(shares) > 0.85


def test_only_a_target_that_lost_a_token_counts_as_cut(tokenizer):
    long = len(tokenizer.encode("a red circle"))
    for limit, cut in ((long - 1, 1), (long, 0), (long + 1, 0)):
        rows = [ClipRow("a", "a.mp4", captions=("a red circle",)), ClipRow("b", "b.mp4")]
        dataset = VideoTextDataset(
            **{"rows": rows, "load_frames": None, "num_video_tokens": 1, "seed": 5, "train": False},
            **{"prompts": [Prompt("caption", "circle", "caption", limit)], "reuse_batch": False},
            text=TextOptions(tokenizer, TextNoise("masked", "batch", 0.0, tokenizer.mask), 512),
        )
        batch = dataset.collater([Clip(n, row, None) for n, row in enumerate(rows)])
        assert (batch["num_cut"], batch["ntokens"]) == (cut, min(limit, long) + 1)


def test_for_heads_a_batch_counts_its_tokens_and_the_clips_that_have_a_class(tokenizer):
    rows = [ClipRow("a", "a.mp4", verb="cut"), ClipRow("b", "b.mp4", noun="pan"), ClipRow("c", "c")]
    dataset = VideoTextDataset(
        **{"rows": rows, "load_frames": None, "num_video_tokens": 1, "seed": 5, "train": True},
        **{"prompts": [Prompt("classify", "circle", "label", 12)], "reuse_batch": False},
        text=TextOptions(tokenizer, TextNoise("masked", "batch", 0.0, tokenizer.mask), 512),
        heads=HeadTargets({"verb": {"cut": 0}, "noun": {"pan": 0}}),
    )
    batch = dataset.collater([Clip(n, row, None) for n, row in enumerate(rows)])
    tokens = 1 + len(tokenizer.encode("circle")) + 2  # [CLS], prompt, [SEP], </s>
    assert (batch["ntokens"], batch["num_labeled"]) == (3 * tokens, 2)
    assert batch["net_input"]["src_tokens"].shape == (3, tokens)


def test_colors_are_normalized_as_red_green_and_blue_by_the_numbers_of_kinetics():
    """Mean and deviation as torchvision publishes them for its R(2+1)D of Kinetics-400."""
    mean, deviation = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    for channel in range(3):
        frames = torch.zeros(1, 1, 1, 1, 3, dtype=torch.uint8)
        frames[..., channel] = 255
        found = Normalize()(frames, torch.float32).flatten().tolist()
        expected = [((c == channel) - mean[c]) / deviation[c] for c in range(3)]
        assert found == pytest.approx(expected, abs=1e-5)


def test_fused_actions_are_the_likeliest_of_the_mean_of_both_models_first():
    pairs = VerbNounPairs.every(["cut", "wash"], ["cup", "pan"])
    task = VerbNounClassification(pairs, ["verb", "noun"])
    decoder = np.log([0.1, 0.2, 0.3, 0.4])  # cut cup, cut pan, wash cup, wash pan
    verb, noun = np.log([0.9, 0.1]), np.log([0.2, 0.8])
    heads = np.outer(np.exp(verb), np.exp(noun)).ravel()
    mean = (np.exp(decoder) + heads) / 2
    record = task.record(
        ClipRow("a", "a.mp4", verb="wash", noun="pan"),
        [[Prediction({"action": decoder})], [Prediction({"verb": verb, "noun": noun})]],
    )
    names = [("cut", "cup"), ("cut", "pan"), ("wash", "cup"), ("wash", "pan")]
    order = sorted(range(4), key=lambda k: -mean[k])
    assert [tuple(entry[:2]) for entry in record["action"]] == [names[k] for k in order]
    assert record["ranks"]["action"] == 1 + sum(mean > mean[3])
