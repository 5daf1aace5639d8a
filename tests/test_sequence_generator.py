"""Generation without copies writes what fairseq's and Hugging Face's write, and copies nothing."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_generator import SequenceGenerator

from tests.test_t5 import (
    EOS,
    NARROW,
    PAD,
    Ids,
    build,
    build_hf,
    generate_hf,
    load_hf,
    random_ids,
)
from vt_fairseq.models.best_tokens import BLOCK, top_by_blocks
from vt_fairseq.models.half_precision_linear import vocabulary_linear
from vt_fairseq.models.kv_cache import POSITIONS, KeyValueCache
from vt_fairseq.models.sequence_generator import SharedSourceGenerator
from vt_fairseq.models.video_translate import MultimodalEncoder
from vt_fairseq.task import VideoTranslateTask

# More blocks of outputs than a beam wants continuations.
WIDE = replace(NARROW, vocab_size=1024)
MAX_LEN = 16
SEARCHES = {
    "greedy": {"beam": 1},
    "beam": {"beam": 4, "nbest": 4},
    "length penalty": {"beam": 3, "lenpen": 2.0, "temperature": 1.5, "unkpen": 0.5},
    "least length": {"beam": 2, "min_len": 9},
    "sampling top-k": {"beam": 3, "sampling": True, "sampling_topk": 5},
    "sampling": {"beam": 2, "sampling": True},
    "longer than the first room": {"beam": 2, "min_len": POSITIONS + 5, "max_len_b": 90},
}


@pytest.fixture(scope="module", params=[NARROW, WIDE], ids=["narrow", "wide"])
def models(request):
    ours, hf = build(request.param), build_hf(request.param)
    with torch.no_grad():  # as likely an end among 1,024 tokens as among 96
        hf.shared.weight[EOS] *= (request.param.vocab_size / NARROW.vocab_size) ** 0.5
    load_hf(ours, hf.state_dict())
    return ours, hf


@pytest.fixture(scope="module")
def source(models):
    return random_ids(models[1].config.vocab_size, 7, 12, 3, seed=20)


def generator_of(model, options: dict, stock: bool, more=()) -> SequenceGenerator:
    """What the task builds, or with ``stock`` what fairseq builds by itself; ``more`` models."""
    task = object.__new__(VideoTranslateTask)
    task.cfg, task.datasets = (
        SimpleNamespace(results_path=None, num_frames=8, cuda_graphs=False),
        {},
    )
    task.dictionary, task._share = Ids(model.decoder.embed_tokens.num_embeddings), None
    for one in (model, *more):
        one.heads, one.encoder.video.num_tokens = None, lambda frames: frames // 8
    config = GenerationConfig(**{"max_len_b": MAX_LEN, **options})
    kwargs = {"seq_gen_cls": SequenceGenerator} if stock else {}
    return task.build_generator([model, *more], config, **kwargs)


def written(model, source, options: dict, stock: bool = False, prefix=None) -> list[list[dict]]:
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    generator = generator_of(model, options, stock)
    torch.manual_seed(5)
    return generator.generate(None, sample, prefix_tokens=prefix, bos_token=PAD)


def tokens_of(rows: list[list[dict]]) -> list[list[list[int]]]:
    return [[hypothesis["tokens"].tolist() for hypothesis in row] for row in rows]


def assert_same(found: list[list[dict]], expected: list[list[dict]]) -> None:
    assert tokens_of(found) == tokens_of(expected)
    for name in ("score", "positional_scores"):
        for row, wanted in zip(found, expected, strict=True):
            for a, b in zip(row, wanted, strict=True):
                torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_tasks_generator_writes_what_fairseqs_own_writes(models, source, search):
    found = written(models[0], source, SEARCHES[search])
    assert_same(found, written(models[0], source, SEARCHES[search], stock=True))
    assert len({tuple(row[0]["tokens"].tolist()) for row in found}) > 3


@pytest.mark.parametrize("beam", [1, 4])
def test_prefix_tokens_lead_to_what_fairseqs_own_writes(models, source, beam):
    prefix = random_ids(NARROW.vocab_size, 7, 3, 1, seed=21)
    found = written(models[0], source, {"beam": beam}, prefix=prefix)
    assert_same(found, written(models[0], source, {"beam": beam}, stock=True, prefix=prefix))
    for row, wanted in zip(found, prefix, strict=True):
        kept = wanted[wanted.ne(PAD)]
        assert torch.equal(row[0]["tokens"][: len(kept)], kept)


@pytest.mark.parametrize("beam", [1, 4])
def test_texts_and_scores_are_hugging_faces(models, source, beam):
    model, hf = models
    texts, scores = generate_hf(hf, source, beam, MAX_LEN)
    found = written(model, source, {"beam": beam})
    assert [row[0]["tokens"].tolist() for row in found] == texts
    if beam > 1:
        found_scores = torch.stack([row[0]["score"] for row in found])
        torch.testing.assert_close(found_scores, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_clip_in_a_batch_is_described_as_alone_though_others_end_earlier(models, source, beam):
    found = written(models[0], source, {"beam": beam})
    assert len({len(row[0]["tokens"]) for row in found}) > 1
    alone = [written(models[0], row[row.ne(PAD)].unsqueeze(0), {"beam": beam})[0] for row in source]
    assert_same(found, alone)


def test_an_ensemble_writes_what_fairseqs_own_writes(models, source):
    torch.manual_seed(6)
    other = build(replace(NARROW, vocab_size=models[1].config.vocab_size))
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    ids = Ids(models[1].config.vocab_size)
    both = [
        kind([models[0], other], ids, beam_size=3, max_len_b=MAX_LEN).generate(
            None, sample, bos_token=PAD
        )
        for kind in (SharedSourceGenerator, SequenceGenerator)
    ]
    assert_same(*both)


def test_sources_are_projected_once_and_nothing_of_the_encoder_is_repeated(
    models, source, monkeypatch
):
    model, beam = models[0], 4
    projected, reordered = [], []
    hooks = [
        projection.register_forward_hook(lambda _, inputs, __: projected.append(len(inputs[0])))
        for layer in model.decoder.layers
        for projection in (layer.cross_attention.k, layer.cross_attention.v)
    ]
    theirs = MultimodalEncoder.reorder_encoder_out
    monkeypatch.setattr(
        MultimodalEncoder,
        "reorder_encoder_out",
        lambda *args: reordered.append(1) or theirs(*args),
    )
    counts = {}
    for stock in (False, True):
        projected.clear(), reordered.clear()
        written(model, source, {"beam": beam}, stock)
        counts[stock] = list(projected), len(reordered)
    for hook in hooks:
        hook.remove()
    times = 2 * len(model.decoder.layers)
    assert counts[False] == ([len(source)] * times, 0)
    assert counts[True][0] == [beam * len(source)] * times and counts[True][1] > 1


def test_a_cache_is_allocated_once_and_copied_only_when_the_order_changes():
    source = [torch.randn(3, 4, 5, 8) for _ in range(2)]
    cache = KeyValueCache([tuple(source)], torch.zeros(3, 1, 1, 5))
    same, swapped = torch.arange(6), torch.arange(6).view(3, 2).flip(1).flatten()
    addresses, expected = [], torch.empty(6, 4, 0, 8)
    for step in range(1, 7):
        new = torch.randn(6, 4, 1, 8)
        keys, values = cache.extended(0, new, -new)
        expected = torch.cat((expected, new), dim=2)
        assert torch.equal(keys, expected) and torch.equal(values, -expected)
        addresses.append(keys.data_ptr())
        order = swapped if step == 3 else same
        cache.reorder(order)
        expected = expected[order]
    assert len(set(addresses[:3])) == len(set(addresses[3:])) == 1
    assert addresses[2] != addresses[3]
    assert cache.sources[0][0] is source[0]


@pytest.mark.parametrize("shape", [(3, 5 * BLOCK), (2, 4, 8 * BLOCK), (3, 96), (2, 2 * BLOCK)])
def test_the_highest_by_blocks_are_the_highest(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values[..., 3] = -torch.inf
    for k in (1, 2, 6):
        for found, expected in zip(top_by_blocks(values, k), values.topk(k), strict=True):
            assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("outputs", [96, 3 * BLOCK])
def test_a_wide_linear_map_in_blocks_is_the_linear_map(outputs):
    x, weight = torch.randn(5, 1, 64), torch.randn(outputs, 64)
    torch.testing.assert_close(vocabulary_linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
