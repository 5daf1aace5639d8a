"""Chunks of candidates are one copy, one launch and one wait, and scored as one by one."""

import numpy as np
import pytest
import torch

from tests.replaying import WAITING, Recorder, Replays
from tests.test_candidates import AWKWARD, VIDEO, random_candidates
from vt_fairseq.candidates.likelihood import score_candidates
from vt_fairseq.candidates.packed_nodes import Nodes, NodeSizes, PackedNodes
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.top_k import Bounds, top_candidates
from vt_fairseq.candidates.tree_decoder import TreeDecoder, TreeState, log_probabilities
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.step_graphs import StepGraphs


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(TinyConfig(), 384, VIDEO).eval()


@pytest.fixture
def replays(model):
    yield Replays()
    model.decoder.graphs = None


def encoded(model, rows: int, length: int, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 290, (rows, length), generator=generator)
    tokens[0, length - 2 :] = 0
    with torch.no_grad():
        return model.encoder(tokens)


def test_replayed_chunks_score_batch_after_batch_as_launched_ones(model, replays):
    batches = [(3, 9, 1), (4, 14, 2), (3, 16, 3), (4, 10, 4)]
    shared = [PrefixTree.build([*AWKWARD, *random_candidates(150, seed)]) for seed in (5, 6)]
    for number, (rows, length, seed) in enumerate(batches):
        encoder_out = encoded(model, rows, length, seed)
        own = [PrefixTree.build(random_candidates(20 + 5 * row, row)) for row in range(rows)]
        for trees in ([shared[number % 2]], own):
            model.decoder.graphs = None
            expected = score_candidates(model, encoder_out, trees, max_nodes=100)
            model.decoder.graphs = graphs = getattr(replays, "graphs", StepGraphs(replays))
            replays.graphs = graphs
            found = score_candidates(model, encoder_out, trees, max_nodes=100)
            for values, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(values, wanted, atol=1e-4)
                assert len(set(np.round(values, 3))) > 5
    assert len(replays.captured) < 12 < replays.launches


def test_a_search_that_takes_turns_with_another_keeps_its_own_clips(model, replays):
    tree, model.decoder.graphs = PrefixTree.build(random_candidates(9, 3)), StepGraphs(replays)
    decoders = [TreeDecoder(model.decoder, encoded(model, 2, 8, seed)) for seed in (1, 2)]
    nodes = [np.arange(min(8, tree.num_inner))]
    first, second, again = (decoders[i].edges([tree], nodes)[1][1] for i in (0, 1, 0))
    assert np.array_equal(first, again) and not np.allclose(first, second, atol=1e-3)
    assert len(replays.captured) == 1


def test_the_best_first_search_finds_the_same_with_replayed_chunks(model, replays):
    encoder_out = encoded(model, 3, 9, 1)
    bounds = Bounds.of(PrefixTree.build(random_candidates(200, 8, tokens=12)), False)
    expected = top_candidates(model, encoder_out, bounds, 5, max_nodes=60)
    model.decoder.graphs = StepGraphs(replays)
    for found, wanted in zip(
        top_candidates(model, encoder_out, bounds, 5, max_nodes=60), expected, strict=True
    ):
        assert found.candidates.tolist() == wanted.candidates.tolist()
        assert found.scores == pytest.approx(wanted.scores, abs=1e-4)


def test_a_chunk_is_one_launch_and_nothing_in_it_waits(model, replays):
    model.decoder.graphs = StepGraphs(replays)
    tree = PrefixTree.build(random_candidates(100, 2))
    decoder, nodes = TreeDecoder(model.decoder, encoded(model, 2, 8, 1)), [np.arange(40)]
    decoder.edges([tree], nodes)
    replays.launches = 0
    with Recorder() as recorder:
        decoder.edges([tree], nodes)
    assert replays.launches == 1
    assert not WAITING & {*recorder.names, *replays.captured[0]}
    packed = PackedNodes.of([tree], nodes)
    state = TreeState(model.decoder, packed.sizes, 2, 8)
    with torch.no_grad(), Recorder() as recorder:  # what the operations are made of
        state.fill(model.decoder)
    assert "mm" in recorder.names and not WAITING & set(recorder.names)


def test_a_chunk_is_one_graph_for_the_compiler(model):
    tree = PrefixTree.build(random_candidates(100, 2))
    packed = PackedNodes.of([tree], [np.arange(40)])
    nodes = Nodes.of_block(packed.block, packed.sizes)
    torch._dynamo.reset()
    with torch.no_grad():
        sources = model.decoder.source_of(encoded(model, 2, 8, 1))
        expected = log_probabilities(model.decoder, nodes, *sources)
        compiled = torch.compile(log_probabilities, fullgraph=True, backend="eager")
        found = compiled(model.decoder, nodes, *sources)
    torch._dynamo.reset()
    assert torch.equal(found, expected)


def test_rounded_sizes_are_few_and_hold_what_they_stand_for():
    sizes = [
        NodeSizes(trees, n, n, n) for trees in (1, 3, 9) for n in (0, 1, 7, 8, 9, 63, 64, 65, 300)
    ]
    for size in sizes:
        rounded = size.rounded_up()
        for name in ("trees", "nodes", "expanded", "edges"):
            wanted, given = getattr(size, name), getattr(rounded, name)
            assert wanted <= given <= max(8, wanted + 63)
    assert {s.rounded_up().nodes for s in sizes} == {8, 16, 64, 128, 320}
    assert {s.rounded_up().trees for s in sizes} == {1, 4, 16}
