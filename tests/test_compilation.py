"""``--compile``: one graph of the model and its loss, which trains as without it."""

import copy
import logging
import random
import re
from types import SimpleNamespace

import pytest
import torch
from fairseq.trainer import Trainer

from tests.commands import PLUGIN, TINY, run
from tests.test_model import LONGER, PREVIOUS, TEXT_ONLY, WITH_VIDEO, clips, source
from tests.test_zero import command, output_of, recorded
from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.training.compilation import Compilation, number_of_graphs
from vt_fairseq.training.zero.trainer import DeepSpeedTrainer

RECOMPUTED = {"checkpoint_activations": True, "checkpoint_video_stages": 4}
TARGET = torch.tensor([[11, 12, 13, 1], [14, 1, 0, 0]])
VIDEO = 303
slow = pytest.mark.slow
# One layer each, so that Inductor plans less; others like it would share their kernels.
SHALLOW = "num_layers=1,num_decoder_layers=1"
TIMEOUT = 1500  # seconds, which compiling C++ may take on two cores that are busy otherwise
compiles = pytest.mark.timeout(2 * TIMEOUT)


def build(**options):
    torch.manual_seed(0)
    return build_model(TinyConfig(**options), vocab_size=384, video_id=VIDEO).train()


def loss_of(model, rows, previous, video, target):
    logits, _ = model(rows, previous, video=video)
    return VideoTranslateCriterion.token_loss(logits, target, "sum")


BATCH = source(WITH_VIDEO, LONGER), PREVIOUS.expand(2, -1), clips(2), TARGET


@pytest.fixture
def nothing_built(monkeypatch):
    """A compiler that traces and then runs what it has traced, and that starts anew."""
    compile_ = torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda f, **given: compile_(f, **given, backend="eager"))
    yield
    torch.compiler.reset()
    torch.compiler.set_stance("default")


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float16, RECOMPUTED),
        pytest.param(torch.float32, RECOMPUTED, marks=slow),
        pytest.param(torch.bfloat16, {}, marks=slow),
        pytest.param(torch.bfloat16, RECOMPUTED, marks=slow),
        pytest.param(torch.float16, {}, marks=slow),
    ],
)
def test_model_and_loss_are_one_graph_with_the_gradients_and_statistics_of_eager(dtype, options):
    plain = build(dropout=0.0, **options).to(dtype)
    model = copy.deepcopy(plain)
    torch.compiler.reset()
    before = number_of_graphs()
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    found = compiled(model, *BATCH)
    found[0].backward()
    assert number_of_graphs() == before + 1
    expected = loss_of(plain, *BATCH)
    expected[0].backward()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is b.grad is None or torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b), name


@slow
@compiles
def test_what_is_recomputed_in_a_graph_drops_out_the_same():
    texts = source(TEXT_ONLY, TEXT_ONLY), PREVIOUS.expand(2, -1), None, TARGET
    gradients = []
    for options in ({}, RECOMPUTED):
        torch.compiler.reset()
        model = build(dropout=0.3, t5_dims=SHALLOW, **options)
        compiled = torch.compile(loss_of, fullgraph=True, backend="inductor")
        torch.manual_seed(5)
        compiled(model, *texts)[0].backward()  # the video network drops nothing out
        parameters = model.named_parameters()
        gradients.append({name: p.grad for name, p in parameters if p.grad is not None})
    assert len(gradients[0]) == len(gradients[1]) > 0
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-3, atol=1e-4), name


def test_an_epoch_of_texts_of_many_lengths_makes_at_most_six_graphs(nothing_built):
    model, criterion = build(), VideoTranslateCriterion.__new__(VideoTranslateCriterion)
    torch.nn.Module.__init__(criterion)
    names = list(model.state_dict())
    limit = torch._dynamo.config.recompile_limit
    compilation = Compilation(model, criterion, "model", cuda_graphs=False)
    draw, before, sizes = random.Random(1), number_of_graphs(), set()
    batches = [4] * 29 + [3]  # the last one of an epoch is smaller
    for rows in batches:
        lengths = [16 * draw.randint(1, 4), 16 * draw.randint(1, 2)]
        sizes.add((rows, *lengths))
        tokens = torch.full((rows, lengths[0]), 7)
        tokens[:, 2 : 2 + model.encoder.video.num_tokens(8)] = VIDEO
        target = torch.full((rows, lengths[1]), 9)
        sample = {
            "net_input": {
                "src_tokens": tokens,
                "prev_output_tokens": target,
                "video": torch.zeros(rows, 8, 32, 32, 3, dtype=torch.uint8),
            },
            **{"target": target, "ntokens": target.numel(), "nsentences": rows, "num_missing": 0},
            **{"unreadable": [], "num_cut": 0},
        }
        compilation.fix_sizes(sample)
        compilation.update(lambda given=sample: criterion(model, given)[0].backward())
        assert torch._dynamo.config.recompile_limit == limit, "other functions keep theirs"
    graphs = number_of_graphs() - before
    assert len(sizes) > 6 >= graphs >= 2, graphs
    with compilation.paused(), torch.no_grad():
        criterion(model.eval(), sample)
    assert number_of_graphs() - before == graphs, "validation is not compiled"
    assert list(model.state_dict()) == names


def test_blocks_that_are_alike_share_a_graph_and_recomputed_ones_stay_as_they_are(nothing_built):
    plain = build(dropout=0.0, checkpoint_video_stages=2)
    model, before = copy.deepcopy(plain), number_of_graphs()
    Compilation(model, torch.nn.Identity(), "blocks", cuda_graphs=False)
    loss_of(model, *BATCH)[0].backward()
    loss_of(plain, *BATCH)[0].backward()
    # Layers of the encoder and of the decoder, and the residual blocks of the last two stages.
    assert number_of_graphs() - before == 4
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert a.grad is b.grad is None or torch.equal(a.grad, b.grad), name
    for (name, a), b in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_an_update_that_cannot_be_compiled_is_made_without_the_compiler(caplog, monkeypatch):
    def broken(graph, inputs):
        raise ValueError("no such\nprocessor")

    compile_ = torch.compile
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", lambda f, **given: compile_(f, **given, backend=broken))
    model = build(dropout=0.0)
    compilation = Compilation(model, torch.nn.Identity(), "model", cuda_graphs=False)
    try:
        with caplog.at_level(logging.WARNING):
            loss = compilation.update(lambda: loss_of(model, *BATCH)[0])
        assert torch.equal(loss, loss_of(build(dropout=0.0), *BATCH)[0])
    finally:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
    (line,) = caplog.messages
    assert line.startswith("trains without --compile") and "no such processor" in line
    assert not compilation.active


def test_an_update_that_is_made_anew_counts_its_backward_passes_anew(monkeypatch):
    begun, made = [], iter([torch._dynamo.exc.TorchDynamoException("no"), "done"])

    def train_step(*_, **__):
        if isinstance(result := next(made), Exception):
            raise result
        return result

    monkeypatch.setattr(Trainer, "train_step", train_step)
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: None)
    trainer = object.__new__(DeepSpeedTrainer)
    trainer._optimizer = SimpleNamespace(begin_update=begun.append)
    compilation = Compilation(torch.nn.Identity(), None, "none", cuda_graphs=False)
    compilation.active = True
    assert compilation.update(lambda: trainer._update([{}, {}])) == "done"
    assert begun == [2, 2]


# --- the command ----------------------------------------------------------------------------------


def train(data, out, *options, expected_code=0):
    """What it prints."""
    own = ["--save-dir", out, "--max-update", "6", "--disable-validation", "--actions", "caption"]
    return run(
        "fairseq-train", data, *PLUGIN, *TINY, *own, *options, expected_code=expected_code,
        timeout=TIMEOUT,
    )  # fmt: skip


def losses(log: str) -> list[float]:
    return [float(x) for x in re.findall(r" \| train_inner \| .*? loss=([\d.]+)", log)]


@slow
@compiles
def test_without_a_compiler_training_says_so_and_goes_on(data_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    log = train(data_directory, tmp_path / "run", "--compile", "model")
    assert log.count("trains without --compile, which failed here") == 1
    padded = ["--required-seq-len-multiple", "16"]
    expected = losses(train(data_directory, tmp_path / "plain", *padded))
    assert len(expected) == 6 and losses(log) == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--compile", "model", "--cuda-graphs"], "--cuda-graphs needs a GPU"),
        (["--cuda-graphs"], "--cuda-graphs needs a GPU and --compile model"),
        (
            ["--compile", "blocks", "--optimizer", "deepspeed_adam", "--zero-stage", "3"],
            "--compile blocks does not go with --zero-stage 3",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    data_directory, tmp_path, options, reason
):
    log = train(data_directory, tmp_path, *options, expected_code=2)
    assert reason in log.splitlines()[-1] and "Traceback" not in log


@slow
@compiles
@pytest.mark.parametrize(
    "options",
    [
        ["--compile", "model"],
        ["--compile", "blocks"],
        ["--compile", "model", "--optimizer", "deepspeed_adam", "--zero-stage", "1"],
    ],
)
def test_a_compiled_training_has_the_losses_of_one_that_is_not(data_directory, tmp_path, options):
    same = [o for o in options if o not in ("--compile", "model", "blocks")]
    # 20 clips with short texts make batches of one size, so one graph of the model.
    alike = ["--actions", "caption", "--max-update", "50", "--required-seq-len-multiple", "32"]
    alike += ["--dropout", "0", "--adam-eps", "1e-6", "--batch-size", "4", "--t5-dims", SHALLOW]
    alike += [] if same else ["--optimizer", "adam"]
    compiled = command(data_directory, tmp_path / "compiled", *alike, *options)
    log = output_of(compiled, timeout=TIMEOUT)
    assert "trains without --compile" not in log and "graphs so far" in log
    output_of(command(data_directory, tmp_path / "plain", *alike, *same))
    found, expected = (recorded(tmp_path / name) for name in ("compiled", "plain"))
    assert len(found) == len(expected) == 50
    # Last bits add up: on two threads, eager differs by 2e-5 from itself (compiled_losses.py).
    assert found == pytest.approx(expected, rel=3e-5)
    for update in range(1, 11):
        assert found[update] == pytest.approx(expected[update], rel=1e-6)
    names = [
        list(
            torch.load(tmp_path / name / "save" / "checkpoint_last.pt", weights_only=True)["model"]
        )
        for name in ("compiled", "plain")
    ]
    assert names[0] == names[1]
