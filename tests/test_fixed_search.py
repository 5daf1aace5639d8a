"""Search by steps of fixed shapes writes what fairseq's writes, and each step can be captured.

There is no GPU here. That a CUDA graph would do is shown by ``replaying``: the operations of one
step, again on the same memory, without Python.
"""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.replaying import WAITING, Recorder, Replays
from tests.test_sequence_generator import SEARCHES, assert_same, generator_of, tokens_of
from tests.test_t5 import EOS, NARROW, PAD, UNK, build, build_hf, load_hf, random_ids
from vt_fairseq.errors import UserError
from vt_fairseq.models import step_graphs
from vt_fairseq.models.fixed_search import search_log
from vt_fairseq.models.kv_cache import POSITIONS
from vt_fairseq.models.search_step import Search, SearchState, Sizes, advance
from vt_fairseq.models.step_graphs import StepGraphs

WIDE = replace(NARROW, vocab_size=1024)
MAX_LEN = 16
# Without those that draw.
FIXED = {name: options for name, options in SEARCHES.items() if "sampling" not in options}
FIXED |= {
    f"no {size} tokens twice": {"beam": 3, "no_repeat_ngram_size": size, "max_len_b": 40}
    for size in (1, 2, 3)
}


def model_of(dims, seed=3):
    ours, hf = build(dims), build_hf(dims)
    with torch.no_grad():
        hf.shared.weight[EOS] *= (dims.vocab_size / NARROW.vocab_size) ** 0.5
        if seed != 3:
            torch.manual_seed(seed)
            hf.shared.weight += 0.5 * torch.randn_like(hf.shared.weight)
    load_hf(ours, hf.state_dict())
    return ours


@pytest.fixture(scope="module")
def model():
    return model_of(WIDE)


@pytest.fixture
def replays(model):
    capture = Replays()
    model.decoder.graphs = StepGraphs(capture)
    yield capture
    model.decoder.graphs = None


def written(model, source, options, fixed: bool):
    generator = generator_of(model, options, stock=False)
    generator.fixed_shapes = fixed
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    return generator.generate(None, sample, bos_token=PAD)


def batch(rows=7, longest=12, seed=20, vocabulary=WIDE.vocab_size):
    return random_ids(vocabulary, rows, longest, min(3, longest), seed=seed)


@pytest.mark.parametrize("search", FIXED)
def test_fixed_shapes_write_what_fairseqs_steps_write(model, search):
    found = written(model, batch(), FIXED[search], fixed=True)
    assert_same(found, written(model, batch(), FIXED[search], fixed=False))
    assert len({len(row[0]["tokens"]) for row in found}) > 1
    for row in found:
        for hypothesis in row:  # no view of one long text, and all on the host
            assert hypothesis["positional_scores"].sum() < 0
            hypothesis["positional_scores"].div_(2)  # as fairseq-generate does


def test_120_random_models_batches_and_options_write_the_same():
    rng = random.Random(0)
    texts = set()
    models = [
        (model_of(dims, seed=seed), dims) for seed in range(10, 15) for dims in (NARROW, WIDE)
    ]
    for case in range(120):
        model, dims = models[case % len(models)]
        options = {
            "beam": rng.choice([1, 1, 2, 4, 4, 5]),
            "max_len_b": rng.randint(3, 20),
            "min_len": rng.choice([0, 1, 1, 3]),
            "lenpen": rng.choice([1.0, 0.5, 2.0]),
            "unnormalized": rng.random() < 0.2,
            "unkpen": rng.choice([0.0, 0.0, 1.5]),
            "no_repeat_ngram_size": rng.choice([0, 0, 0, 2, 3]),
            "temperature": rng.choice([1.0, 1.0, 1.7]),
        }
        source = batch(rng.randint(1, 6), rng.randint(3, 20), 1000 + case, dims.vocab_size)
        found = written(model, source, options, fixed=True)
        assert_same(found, written(model, source, options, fixed=False))
        texts |= {tuple(row[0]["tokens"].tolist()) for row in found}
    assert len(texts) > 250


@pytest.mark.parametrize("beam", [1, 4])
def test_a_replayed_step_writes_batch_after_batch_what_fairseqs_steps_write(model, replays, beam):
    options = {"beam": beam, "max_len_b": MAX_LEN}
    sizes = [(7, 12), (8, 16), (5, 9), (7, 14), (2, 3), (8, 11)]
    for number, (rows, longest) in enumerate(sizes):
        source = batch(rows, longest, seed=number)
        found = written(model, source, options, fixed=True)
        assert_same(found, written(model, source, options, fixed=False))
        if number == 0:
            assert len({len(row[0]["tokens"]) for row in found}) > 2
    # 8 rows of 16 tokens, and 2 of 4
    assert len(replays.captured) == 2


def test_a_replayed_search_goes_on_where_its_room_ends(model, replays):
    options = {"beam": 3, "min_len": 2 * POSITIONS + 3, "max_len_b": 3 * POSITIONS}
    options |= {"no_repeat_ngram_size": 4}
    for seed in (1, 2):
        source = batch(seed=seed)
        found = written(model, source, options, fixed=True)
        assert_same(found, written(model, source, options, fixed=False))
    assert len(replays.captured) == 3  # rooms of 32, 64 and 128


def test_a_step_is_captured_anew_where_the_weights_have_moved(model, replays):
    source, weight = batch(), model.decoder.embed_tokens.weight
    before = tokens_of(written(model, source, {"beam": 2}, fixed=True))
    with torch.no_grad():
        given = weight.data
        weight.data = weight.flip(1).contiguous()
    found = tokens_of(written(model, source, {"beam": 2}, fixed=True))
    assert found == tokens_of(written(model, source, {"beam": 2}, fixed=False)) != before
    weight.data = given
    assert tokens_of(written(model, source, {"beam": 2}, fixed=True)) == before
    assert len(replays.captured) == 3


def test_the_steps_used_last_are_kept_as_far_as_their_memory_goes(monkeypatch):
    monkeypatch.setattr(step_graphs, "MOST_BYTES", 100)
    captures = []
    graphs = StepGraphs(lambda run: captures.append(1) or run)

    def state_of(key, size):
        make = lambda: (SimpleNamespace(inner=SimpleNamespace(x=torch.zeros(size))), lambda: None)  # noqa: E731
        return graphs.of(key, make)[0]

    small = [state_of(key, 10) for key in "ab"]  # 40 bytes each
    assert state_of("a", 10) is small[0] and len(captures) == 2
    state_of("c", 10)  # b was used before a
    assert state_of("a", 10) is small[0] and len(captures) == 3
    assert state_of("b", 10) is not small[1] and len(captures) == 4
    large = state_of("large", 1000)
    assert state_of("large", 1000) is large and len(captures) == 5
    assert state_of("a", 10) is not small[0]


def test_a_capture_that_fails_is_said_in_a_line_and_the_steps_are_launched(model, caplog):
    def fails(run):
        run()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    model.decoder.graphs = StepGraphs(fails)
    try:
        for seed in (1, 2):
            source = batch(seed=seed)
            found = written(model, source, {"beam": 4}, fixed=True)
            assert_same(found, written(model, source, {"beam": 4}, fixed=False))
    finally:
        model.decoder.graphs = None
    (record,) = caplog.records
    assert record.getMessage() == (
        "runs without CUDA graphs, which failed here: operation not permitted when stream is "
        "capturing"
    )


@pytest.mark.parametrize("beam", [1, 4])
def test_a_token_is_one_launch_and_at_most_one_wait(model, replays, beam):
    options = {"beam": beam, "max_len_b": MAX_LEN, "no_repeat_ngram_size": 3}
    written(model, batch(), options, fixed=True)  # captures
    replays.launches = 0
    encoder_out = model.encoder(batch(seed=1))
    search = Search(beam, 1, MAX_LEN, PAD, EOS, UNK, no_repeat=3)
    with torch.inference_mode(), Recorder() as recorder:
        log = search_log(model.decoder, encoder_out, search, PAD)
    steps = len(log)
    assert replays.launches == steps > 5
    waits = [name for name in recorder.names if name in WAITING]
    # And the log, once, which on a CPU is there already.
    assert set(waits) == {"is_nonzero"} and len(waits) + 1 <= steps
    assert not WAITING & set(replays.captured[-1])


@pytest.mark.parametrize("beam", [1, 4])
def test_a_step_is_one_graph_for_the_compiler(model, beam):
    search = Search(beam, 1, MAX_LEN, PAD, EOS, UNK, no_repeat=2)
    states = [SearchState(model.decoder, search, Sizes(7, 12, POSITIONS)) for _ in range(2)]
    torch._dynamo.reset()
    compiled = torch.compile(advance, fullgraph=True, backend="eager")
    with torch.no_grad():
        encoder_out = model.encoder(batch())
        for state, step in zip(states, (advance, compiled), strict=True):
            state.begin(model.decoder, encoder_out, search, PAD)
            for _ in range(5):
                step(model.decoder, search, state)
        with (
            Recorder() as recorder
        ):  # outside of inference mode it sees what operations are made of
            advance(model.decoder, search, states[0])
        compiled(model.decoder, search, states[1])
    assert torch.equal(states[0].log, states[1].log) and states[0].log.any()
    assert "bmm" in recorder.names and not WAITING & set(recorder.names)
    torch._dynamo.reset()


def test_a_diverged_model_ends_in_one_line_though_another_sources_scores_are_fine(model):
    encoder_out = model.encoder(batch())
    encoder_out["encoder_out"][0].data[:, 2] = torch.nan
    sample = {"net_input": {"src_tokens": batch(), "encoder_out": encoder_out}}
    for fixed in (True, False):
        generator = generator_of(model, {"beam": 2}, stock=False)
        generator.fixed_shapes = fixed
        with pytest.raises(UserError, match="not finite numbers: the model has diverged"):
            generator.generate(None, sample, bos_token=PAD)


def test_what_was_not_finite_in_one_batch_is_gone_in_the_next(model, replays):
    options = {"beam": 2, "max_len_b": MAX_LEN}
    encoder_out = model.encoder(batch())
    encoder_out["encoder_out"][0].data.fill_(torch.nan)
    sample = {"net_input": {"src_tokens": batch(), "encoder_out": encoder_out}}
    with pytest.raises(UserError):
        generator_of(model, options, stock=False).generate(None, sample, bos_token=PAD)
    shorter = batch(rows=6, longest=10, seed=4)
    found = written(model, shorter, options, fixed=True)
    assert_same(found, written(model, shorter, options, fixed=False))
    assert len(replays.captured) == 1


@pytest.mark.parametrize(
    ("fixed", "more"),
    [(True, {}), (False, {}), (False, {"beam": 1}), (False, {"sampling": True})],
)
def test_a_text_of_which_every_next_token_is_forbidden_ends_in_one_line(model, fixed, more):
    narrow = model_of(replace(NARROW, vocab_size=16))
    options = {"beam": 2, "no_repeat_ngram_size": 1, "min_len": 20, "max_len_b": 20, **more}
    with pytest.raises(UserError, match="every next token is forbidden"):
        written(narrow, batch(3, 5, vocabulary=16), options, fixed=fixed)


@pytest.mark.parametrize(
    ("options", "prefix", "reason"),
    [
        ({"beam": 2, "sampling": True, "sampling_topk": 5}, None, "a search that draws"),
        ({"beam": 2}, torch.full((7, 2), 9), "given beginnings"),
    ],
)
def test_what_takes_fairseqs_steps_is_said_once(model, replays, caplog, options, prefix, reason):
    caplog.set_level("INFO")
    generator = generator_of(model, {"max_len_b": MAX_LEN, **options}, stock=False)
    sample = {"net_input": {"src_tokens": batch()}}
    for _ in range(2):
        generator.generate(None, sample, prefix_tokens=prefix, bos_token=PAD)
    said = [r.getMessage() for r in caplog.records if "CUDA graphs" in r.getMessage()]
    assert said == [f"texts are written without CUDA graphs, for {reason}"]
    assert not replays.captured


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_writes_as_fairseqs_steps_do(dtype):
    half = model_of(WIDE).to(dtype)
    for graphs in (None, StepGraphs(Replays())):
        half.decoder.graphs = graphs
        found = written(half, batch(), {"beam": 4, "max_len_b": MAX_LEN}, fixed=True)
        half.decoder.graphs = None
        expected = written(half, batch(), {"beam": 4, "max_len_b": MAX_LEN}, fixed=False)
        same = [a == b for a, b in zip(tokens_of(found), tokens_of(expected), strict=True)]
        assert sum(same) >= 5  # of 7: rounding decides between what is nearly as likely
        for row, wanted in zip(found, expected, strict=True):
            assert row[0]["score"].item() == pytest.approx(wanted[0]["score"].item(), rel=0.02)


def test_the_recording_that_stands_for_a_graph_notices_what_python_does_in_a_step():
    position, out, steps = torch.zeros(1, dtype=torch.int64), torch.zeros(4), []

    def good():
        out.index_copy_(0, position, position.float() * 10 + 1)
        position.add_(1)

    def bad():
        steps.append(1)
        out[len(steps) - 1] = len(steps)

    for run, expected in ((good, [1, 11, 21, 31]), (bad, [0, 2, 0, 0])):
        position.zero_()
        replay = Replays()(run)
        position.zero_(), out.zero_()
        for _ in range(4):
            replay()
        assert out.tolist() == expected
