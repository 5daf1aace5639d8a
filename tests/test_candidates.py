"""Candidates: the prefix tree against a loop over single pairs, and best-first search."""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from vt_fairseq.candidates import top_k
from vt_fairseq.candidates.likelihood import score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.probabilities import (
    log_softmax,
    mean_likelihood,
    mean_prediction,
    softmax,
)
from vt_fairseq.candidates.texts import candidate_ids
from vt_fairseq.candidates.top_k import Bounds, top_candidates
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.tokenizer import EOS, PAD
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.video_translate import VideoTranslateModel

VIDEO = 303
AWKWARD = [[], [5], [5, 6], [5, 6, 7], [5, 6], [], [9, 5], [9], [8, 8, 8, 8, 8, 8, 8]]
"""Empty, equal, and beginnings of one another."""


@pytest.fixture(scope="module")
def model() -> VideoTranslateModel:
    torch.manual_seed(0)
    return build_model(TinyConfig(), 384, VIDEO).eval()


@pytest.fixture(scope="module")
def clips() -> dict:
    torch.manual_seed(1)
    video = torch.randint(0, 256, (3, 8, 40, 40, 3), dtype=torch.uint8)
    source = torch.tensor([[300, 5, *[VIDEO] * 4, 301, 0, 0], [300, 5, *[VIDEO] * 4, 6, 301, 9]])
    return {"src_tokens": source[[0, 1, 0]], "video": video}


@pytest.fixture(scope="module")
def encoder_out(model, clips) -> dict:
    with torch.no_grad():
        return model.encoder(**clips)


def random_candidates(count: int, seed: int, tokens: int = 200) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(3, tokens, (int(n),), generator=generator).tolist()
        for n in torch.randint(0, 9, (count,), generator=generator)
    ]


@pytest.fixture(scope="module")
def naive(model, clips):
    """log p of one pair: one encoder run, one softmax."""

    @functools.cache
    def single_pair(row: int, *candidate: int) -> float:
        one = {k: v[row : row + 1] for k, v in clips.items()}
        length = int(one["src_tokens"].ne(PAD).sum())
        one["src_tokens"] = one["src_tokens"][:, :length]
        target = torch.tensor([[*candidate, EOS]])
        previous = torch.tensor([[PAD, *candidate]])
        with torch.no_grad():
            logits, _ = model.decoder(previous, encoder_out=model.encoder(**one))
        return logits.log_softmax(-1).gather(2, target.unsqueeze(2)).sum().item()

    return single_pair


@pytest.mark.parametrize("max_nodes", [1, 5, 100, 2048])
def test_scores_equal_a_naive_loop_over_single_pairs(model, naive, encoder_out, max_nodes):
    # Few different tokens, so that they share beginnings.
    candidates = [*AWKWARD, *random_candidates(40, 2, tokens=6)]
    found = score_candidates(model, encoder_out, [PrefixTree.build(candidates)], max_nodes)
    assert [len(row) for row in found] == [49, 49, 49]
    for row in range(3):
        expected = [naive(row, *candidate) for candidate in candidates]
        assert found[row] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("max_nodes", [1, 50, 2048])
def test_clips_may_have_candidates_of_their_own(model, naive, encoder_out, max_nodes):
    candidates = [[*AWKWARD, *random_candidates(30, 3)], [], random_candidates(33, 4)]
    trees = [PrefixTree.build(own) for own in candidates]
    found = score_candidates(model, encoder_out, trees, max_nodes)
    assert [len(row) for row in found] == [39, 0, 33]
    for row, own in enumerate(candidates):
        expected = [naive(row, *candidate) for candidate in own]
        assert found[row] == pytest.approx(expected, abs=1e-4)


def test_no_candidates_at_all_are_no_scores(model, encoder_out):
    nothing = PrefixTree.build([])
    for trees in ([nothing], [nothing] * 3):
        assert [len(row) for row in score_candidates(model, encoder_out, trees)] == [0, 0, 0]


def test_a_tree_has_every_beginning_once_and_knows_every_candidates_tokens():
    candidates = [*AWKWARD, *random_candidates(200, 5, tokens=9)]
    tree = PrefixTree.build(candidates)
    beginnings = {tuple(c[:n]) for c in candidates for n in range(len(c) + 1)}
    assert tree.num_inner == len(beginnings)
    assert len(tree.tokens) == tree.num_inner + len(set(map(tuple, candidates)))
    # Each candidate's tokens are those of the edges that its sum runs over.
    numbers = tree.candidate_sums(np.eye(len(tree.edge_children)))
    for k, candidate in enumerate(candidates):
        edges = np.flatnonzero(numbers[:, k])
        children = tree.edge_children[edges]
        order = np.argsort([tree.depths[p] for p in tree.edge_parents[edges]])
        assert tree.tokens[children[order]].tolist() == [*candidate, EOS]
    assert tree.lengths.tolist() == [len(c) + 1 for c in candidates]


def test_memory_of_scoring_does_not_grow_with_the_candidates(model, encoder_out, monkeypatch):
    largest = []
    packed = model.decoder.packed_features

    def recording(tokens, *rest):
        found = packed(tokens, *rest)
        largest.append(found.size(0) * found.size(1))
        return found

    monkeypatch.setattr(model.decoder, "packed_features", recording)
    tree = PrefixTree.build(random_candidates(300, 6))
    score_candidates(model, encoder_out, [tree], max_nodes=90)
    # 30 nodes of each of 3 clips, and at most the beginnings (8 tokens) of the first of them.
    assert tree.num_inner > 900 and max(largest) <= 3 * (30 + 8)
    assert len(largest) == -(-tree.num_inner // 30)


def test_neither_the_encoder_nor_its_keys_are_computed_again(model, encoder_out, monkeypatch):
    monkeypatch.setattr(model.encoder, "forward", lambda *_, **__: pytest.fail("encoder ran"))
    rows = []
    for layer in model.decoder.layers:
        attention = layer.cross_attention
        attention.k.register_forward_hook(lambda _, x, y: rows.append(x[0].shape[:2]))
    tree = PrefixTree.build(random_candidates(50, 7))
    score_candidates(model, encoder_out, [tree], max_nodes=30)
    source = encoder_out["encoder_padding_mask"][0].shape
    assert rows == [source] * len(model.decoder.layers)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_the_best_first_search_finds_the_top_of_the_full_ranking(model, encoder_out, k, normalized):
    candidates = [*AWKWARD, *random_candidates(150, 8, tokens=12)]
    tree = PrefixTree.build(candidates)
    full = score_candidates(model, encoder_out, [tree])
    full = [row / (tree.lengths if normalized else 1) for row in full]
    found = top_candidates(model, encoder_out, Bounds.of(tree, normalized), k, max_nodes=60)
    for scores, top in zip(full, found, strict=True):
        order = np.argsort(-scores, kind="stable")[:k]
        assert top.scores == pytest.approx(scores[order], abs=1e-4)
        assert scores[top.candidates] == pytest.approx(scores[order], abs=1e-4)
        assert len(set(top.candidates.tolist())) == min(k, len(candidates))


def test_equal_candidates_come_in_their_order(model, encoder_out):
    tree = PrefixTree.build([[7], [5], [7], [5], [5]])
    full = score_candidates(model, encoder_out, [tree])
    best = top_candidates(model, encoder_out, Bounds.of(tree, False), 5)
    for scores, top in zip(full, best, strict=True):
        assert top.candidates.tolist() == np.argsort(-scores, kind="stable").tolist()


class Table:
    """In the place of the decoder: log-probabilities of the edges of a tree."""

    num_clips = 1

    def __init__(self, values: np.ndarray, at_once: int):
        self.values, self.at_once = values, at_once

    def nodes_per_clip(self, max_nodes: int) -> int:
        return self.at_once

    def edges(self, trees: list[PrefixTree], nodes: list[np.ndarray]) -> list[tuple]:
        edges = trees[0].edges_of(nodes[0])[0]
        return [(edges, self.values[edges])]


def test_whatever_is_expanded_first_the_search_ends_with_the_first_of_the_best(monkeypatch):
    """Whole numbers, so that many candidates are equally likely to the last bit."""
    rng = np.random.default_rng(0)
    for round_ in range(20):
        candidates = [rng.integers(3, 6, rng.integers(5)).tolist() for _ in range(20)]
        tree = PrefixTree.build(candidates)
        table = Table(-rng.integers(3, size=len(tree.edge_parents)).astype(float), 1 + round_ % 3)
        monkeypatch.setattr(top_k, "TreeDecoder", lambda *_, table=table: table)
        sums = tree.candidate_sums(table.values)
        for k, normalized in itertools.product((1, 2, 5, 20), (False, True)):
            scores = sums / tree.lengths if normalized else sums
            bounds = Bounds.of(tree, normalized)
            (found,) = top_candidates(SimpleNamespace(decoder=None), {}, bounds, k)
            order = np.argsort(-scores, kind="stable")[:k]
            assert found.candidates.tolist() == order.tolist()
            assert found.scores.tolist() == scores[order].tolist()


def test_the_best_first_search_leaves_out_what_cannot_win(model, encoder_out, monkeypatch):
    taught = build_model(TinyConfig(), 384, VIDEO)
    taught.load_state_dict(model.state_dict())
    one = taught.encoder.reorder_encoder_out(encoder_out, torch.tensor([0]))
    teach(taught.decoder, one, [4, 31, 50])
    candidates = [[v, n, m] for v in range(3, 23) for n in range(30, 45) for m in (50, 51)]
    tree = PrefixTree.build(candidates)
    expanded = []
    find = taught.decoder.log_normalizer

    def recording(features):
        expanded.append(features.size(1))
        return find(features)

    monkeypatch.setattr(taught.decoder, "log_normalizer", recording)
    top = top_candidates(taught, one, Bounds.of(tree, False), 3, max_nodes=8)[0]
    assert tree.num_inner == 921 and sum(expanded) < 100
    full = score_candidates(taught, one, [tree])[0]
    assert top.scores == pytest.approx(np.sort(full)[::-1][:3], abs=1e-3)
    assert candidates[top.candidates[0]] == [4, 31, 50]


def teach(decoder: nn.Module, encoder_out: dict, tokens: list[int]) -> None:
    """Train the decoder until it says ``tokens``."""
    optimizer = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    for _ in range(12):
        logits, _ = decoder(torch.tensor([[PAD, *tokens]]), encoder_out=encoder_out)
        loss = nn.functional.cross_entropy(logits[0], torch.tensor([*tokens, EOS]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decoder.eval()


def test_candidates_are_cut_like_training_targets_and_the_cut_ones_counted():
    letters = SimpleNamespace(encode=lambda text: list(map(ord, text)))
    prompt = Prompt("classify", "classify :", "label", max_target_tokens=2)
    found = candidate_ids(letters, prompt, ["abc", "ab", "", "abcd"])
    assert found == ([[97, 98], [97, 98], [], [97, 98]], 2)


def test_predictions_are_averaged_as_probabilities():
    one, other = np.array([0.0, np.log(3)]), np.array([5.0, 5.0])
    assert np.exp(log_softmax(one)) == pytest.approx([0.25, 0.75]) == softmax(one)
    assert softmax([-np.inf, -np.inf]) == [0.0, 0.0] and softmax([]) == []
    assert np.exp(mean_prediction([one, other])) == pytest.approx([0.375, 0.625])
    # A distribution stays what it is, whatever was added to its scores.
    assert mean_prediction([one]) is one
    assert mean_prediction([one + 7, one - 2]) == pytest.approx(log_softmax(one))
    both = mean_likelihood([np.log([0.2, 0.4]), np.log([0.4, 0.2])])
    assert np.exp(both) == pytest.approx([0.3, 0.3])
    # Scores far below zero keep their differences.
    far = np.array([-2000.0, -2000.0 + np.log(3)])
    assert np.exp(log_softmax(far)) == pytest.approx([0.25, 0.75])
    assert np.exp(mean_prediction([far, far])) == pytest.approx([0.25, 0.75])
