"""Predicted memory against memory counted on the CPU, and against figures computed elsewhere."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.commands import ROOT
from tests.commands import run as run_command
from vt_fairseq.cli.memory import main
from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.errors import UserError
from vt_fairseq.models.activation_checkpointing import checkpointed
from vt_fairseq.models.architectures import T5LargeConfig, TinyConfig, VideoTranslateConfig
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.training.memory.activations import training_memory
from vt_fairseq.training.memory.prediction import (
    CONTEXT,
    GIB,
    VIDEO_ID,
    BatchShape,
    Run,
    Setup,
    build,
    count_training,
    first_sufficient,
    predict,
    states,
    suggestions,
)

SMALL = BatchShape(rows=2, frames=8, size=32, source=9, target=5)
FP32 = Setup(precision="fp32", zero_stage=0)
LARGE = 801_160_071  # t5-large and R(2+1)D-34
FRUGAL = {"checkpoint_activations": True, "checkpoint_video_stages": 4}


def tiny_run(**options) -> Run:
    return Run(TinyConfig(**options), SMALL, FP32)


def loss_of(model: VideoTranslateModel) -> torch.Tensor:
    """Loss of a batch of the shape SMALL, written down apart from the package's prediction."""
    source = torch.full((SMALL.rows, SMALL.source), 7)
    source[:, : model.encoder.video.num_tokens(SMALL.frames)] = VIDEO_ID
    target = torch.randint(3, 90, (SMALL.rows, SMALL.target))
    video = torch.randint(0, 256, (SMALL.rows, SMALL.frames, 32, 32, 3), dtype=torch.uint8)
    logits, _ = model(source, target, video=video)
    return F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum"
    )


def kept_bytes(model: VideoTranslateModel) -> int:
    """Bytes that autograd keeps when the forward pass is done, told apart by their addresses."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = []
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        loss_of(model)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for address, size in storages.items() if address not in own)


@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": 0.1}, {"freeze_video": "all-but-last"}, {"video_pooling": "temporal"}],
)
def test_predicted_activations_are_to_the_byte_what_autograd_keeps_on_the_cpu(options):
    run = tiny_run(**options)
    assert predict(run).training.activations == kept_bytes(build(run, "cpu"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        FRUGAL,
        {"checkpoint_activations": True, "dropout": 0.1},
        {"checkpoint_video_stages": 2, "freeze_video": "all-but-last"},
    ],
)
def test_a_real_training_step_has_the_peaks_predicted_on_the_meta_device(options):
    run = tiny_run(**options)
    predicted, real = predict(run).training, count_training(build(run, "cpu"), SMALL)
    assert real.activations == predicted.activations
    # Kernels of the devices make different intermediate results.
    assert real.peak == pytest.approx(predicted.peak, rel=0.1)
    assert real.with_gradients == pytest.approx(predicted.with_gradients, rel=0.1)


def test_predicted_states_are_to_the_byte_those_of_a_real_step_of_adam():
    run = tiny_run(freeze_video="all-but-last")
    model = build(run, "cpu")
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained)
    loss_of(model).backward()
    adam.step()
    found = predict(run).states
    moments = [s[key] for s in adam.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert found.optimizer == sum(t.nbytes for t in moments)
    assert found.gradients == sum(p.grad.nbytes for p in trained)
    assert found.parameters == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def test_gradients_come_one_by_one_beside_the_activations():
    """Of two layers, those of the second are there before those of the first are needed."""
    layers = [nn.Linear(64, 64, bias=False, device="meta") for _ in range(2)]

    def loss() -> torch.Tensor:
        return layers[1](layers[0](torch.ones(1, 64, device="meta")).exp()).sum()

    found = training_memory([p for layer in layers for p in layer.parameters()], (), loss)
    matrix, row = 64 * 64 * 4, 64 * 4
    assert found.peak < matrix + 8 * row  # where one has been made and is not yet told apart
    assert 2 * matrix < found.with_gradients < 2 * matrix + 8 * row


def test_an_update_of_one_micro_batch_begins_without_gradients():
    one, two = (states(1000, 1000, Setup("fp16", 0, update_freq=n)) for n in (1, 2))
    assert (one.waiting, two.waiting) == (0, 2000) and one.gradients == two.gradients == 2000
    prediction = predict(replace(tiny_run(), setup=Setup("fp32", 0, update_freq=2)))
    several = prediction.states.gradients + prediction.training.peak
    assert prediction.backward == several > predict(tiny_run()).backward


@pytest.mark.parametrize(
    ("precision", "stage", "in_the_step", "parts"),
    [("fp16", 1, 6, 4), ("bf16", 2, 6, 4), ("fp16", 3, 6, 10), ("fp32", 2, 4, 4)],
)
def test_the_optimizers_step_copies_gradients_where_the_optimizer_is(
    precision, stage, in_the_step, parts
):
    """Bytes a parameter: of half precision a flat copy, then fp32; offloaded, fp32 on the CPU."""
    here = states(1000, 1000, Setup(precision, stage))
    at_once = states(1000, 1000, Setup(precision, stage, stepped_at_once=1.0))
    offloaded = states(1000, 1000, Setup(precision, stage, offload_optimizer=True))
    assert (here.optimizer, at_once.step, here.cpu) == (12_000, in_the_step * 1000, 0)
    assert here.step == -(-in_the_step * 1000 // parts)
    assert (offloaded.optimizer, offloaded.step, offloaded.cpu) == (0, 0, 16_000)


class Block(nn.Linear):
    """Keeps 5 tensors of its input's size while it runs: its input and four exponentials."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        for _ in range(4):
            x = x.exp()
        return x


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_under_recomputation_is_what_is_left_and_one_blocks_own(device):
    size = 16 * 64 * 4  # bytes of an activation
    with torch.device(device):
        blocks = [Block(64, 64, bias=False) for _ in range(3)]

    def kept(call) -> int:
        def loss() -> torch.Tensor:
            x = torch.ones(16, 64, device=device, requires_grad=True)
            for block in blocks:
                x = call(block, x)
            return x.sum()

        parameters = [p for block in blocks for p in block.parameters()]
        return training_memory(parameters, (), loss).activations

    # One tensor is both the last exponential of a block and the input of the next.
    assert kept(lambda block, x: block(x)) == (1 + 3 * 4) * size
    # Three inputs and what the last block keeps beside its own.
    assert kept(checkpointed) == (3 + 4) * size


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        (Setup("fp32", 0), 11.94),
        (Setup("fp16", 1), 11.94),
        (Setup("fp16", 2), 11.94),
        (Setup("bf16", 1, 8), 4.10),
        (Setup("bf16", 2, 8), 2.80),
        (Setup("bf16", 3, 8), 1.49),
        (Setup("fp16", 1, 128), 3.05),
        (Setup("fp16", 2, 128), 1.57),
        (Setup("fp16", 3, 128), 0.09),
        (Setup("fp16", 2, 1, offload_optimizer=True), 2.98),
        (Setup("fp16", 2, 8, offload_optimizer=True), 1.68),
        (Setup("fp16", 0), 11.94),
    ],
)
def test_states_of_the_large_model_are_those_computed_by_hand(setup, expected):
    found = states(LARGE, LARGE, setup)
    kept = (found.parameters + found.gradients + found.optimizer) / GIB
    assert kept == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("dtype", "stages", "expected"),
    [
        (torch.float16, 0, 5.96),
        (torch.float32, 0, 11.92),
        (torch.float16, 4, 1.78),
        (torch.float32, 4, 3.56),
    ],
)
def test_activations_of_the_video_network_at_batch_8(dtype, stages, expected):
    with torch.device("meta"):
        network = R2Plus1D(R2PLUS1D_DIMS["34"]).to(dtype)
    network.checkpoint_video_stages = stages

    def loss() -> torch.Tensor:
        return network(torch.empty(8, 3, 32, 112, 112, device="meta", dtype=dtype)).sum()

    found = training_memory(network.parameters(), network.buffers(), loss)
    assert found.activations / GIB == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("size", "tokens", "plain"),
    [("small", 24, 0.12), ("base", 24, 0.31), ("large", 24, 0.79), ("large", 64, 2.37)],
)
def test_activations_of_t5_in_fp16_are_at_most_a_plain_fp16_t5s_in_spite_of_fp32_parts(
    size, tokens, plain
):
    config = VideoTranslateConfig(t5_size=size, video_network="tiny")
    model = build(Run(config, BatchShape(), Setup("fp16")))

    def loss() -> torch.Tensor:
        with torch.device("meta"):
            ids = torch.zeros(8, tokens, dtype=torch.long)
        return model(ids, ids)[0].sum()

    found = training_memory(model.parameters(), model.buffers(), loss)
    assert 0.6 * plain < found.activations / GIB <= plain


@pytest.mark.slow
def test_the_promised_runs_fit_their_cards():
    large = Run(T5LargeConfig(), BatchShape(), Setup("fp16", 2))
    assert predict(large).fits_v100() == {"16 GB": False, "32 GB": True}
    for cured in (
        replace(large, setup=Setup("fp16", 1, 8)),
        replace(large, setup=Setup("fp16", 2, 1, offload_optimizer=True)),
        replace(large, setup=Setup("fp16", 2, 128)),
    ):
        assert predict(cured).fits_v100() == {"16 GB": True, "32 GB": True}
    for rows in (2, 4):  # one V100, and nothing offloaded
        setup = Setup("fp16", 0, update_freq=8 // rows)
        config = T5LargeConfig(checkpoint_video_stages=4)
        assert predict(Run(config, BatchShape(rows), setup)).fits_v100()["16 GB"]
    options, prediction = first_sufficient(large, "16 GB")
    assert options.endswith("--zero-stage 2 --gpus 8") and prediction.fits_v100()["16 GB"]


def test_cures_come_in_order_and_end_with_one_clip():
    large = Run(T5LargeConfig(), BatchShape(), Setup("fp16", 0))
    options = [options for options, _ in suggestions(large)]
    both = "--checkpoint-video-stages 4 --checkpoint-activations"
    assert options[:4] == [
        "--checkpoint-video-stages 4",
        both,
        f"{both} --zero-stage 2 --gpus 8",
        f"{both} --zero-stage 2 --offload-optimizer cpu",
    ]
    assert [text.split()[-2:] for text in options[4:]] == [
        ["--batch-size", rows] for rows in ("4", "2", "1")
    ]
    impossible = Run(TinyConfig(), BatchShape(rows=1, frames=2**17, source=2**16), Setup())
    assert first_sufficient(impossible, "16 GB") is None


@pytest.mark.slow
def test_more_of_anything_needs_more_and_every_measure_needs_less():
    base = Run(TinyConfig(), replace(SMALL, rows=4), Setup("fp32", 1, 2))

    def total(**changes) -> int:
        return predict(replace(base, **changes)).total

    for field, value in {"rows": 8, "frames": 16, "size": 64, "source": 40, "target": 20}.items():
        assert total(batch=replace(base.batch, **{field: value})) > total(), field
    assert total(setup=Setup("fp16", 1, 2)) < total()
    assert total(setup=Setup("fp32", 1, 8)) < total()
    assert total(setup=Setup("fp32", 2, 2)) < total()
    assert total(setup=Setup("fp32", 1, 2, reduce_bucket_size=1000)) < total()
    assert total(setup=Setup("fp32", 1, 2, offload_optimizer=True)) < total()
    assert total(config=TinyConfig(freeze_video="all")) < total()
    stages = [
        predict(replace(base, config=TinyConfig(checkpoint_video_stages=n))).training.activations
        for n in range(5)
    ]
    assert stages == sorted(stages, reverse=True) and stages[4] < stages[0]


def test_the_optimizers_step_counts_where_it_needs_more_than_the_activations():
    prediction = predict(Run(T5LargeConfig(**FRUGAL), BatchShape(rows=1), Setup("fp16", 1)))
    found = prediction.states
    assert found.step > prediction.training.peak
    kept = found.parameters + found.gradients + found.optimizer + found.buckets
    assert prediction.total == kept + found.step + CONTEXT


@pytest.mark.parametrize(
    ("name", "setup", "options"),
    [
        ("fp16, ZeRO-2", Setup("fp16", 2), {}),
        ("fp16, ZeRO-3", Setup("fp16", 3), {}),
        ("fp16, ZeRO-2, stage 1 recomputed", Setup("fp16", 2), {"checkpoint_video_stages": 1}),
        ("fp16, ZeRO-2, stages 1-4 recomputed", Setup("fp16", 2), {"checkpoint_video_stages": 4}),
        ("fp16, ZeRO-2, all recomputed", Setup("fp16", 2), FRUGAL),
    ],
)
def test_a_gpu_took_no_more_than_predicted_and_hardly_less(name, setup, options):
    file = ROOT / "benchmarks" / "results" / "gpu_memory_nvidia_h200.json"
    measured = json.loads(file.read_text())["measured"][name]["peak_allocated_gb"] * 1e9
    setup = replace(setup, stepped_at_once=1.0)  # as the engine did when that was measured
    predicted = predict(Run(T5LargeConfig(**options), BatchShape(), setup)).total - CONTEXT
    assert measured <= predicted <= 1.1 * measured


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (Setup("fp16", 0, offload_optimizer=True), "needs ZeRO"),
        (Setup("fp16", 2, 0), "at least one GPU"),
        (Setup("fp8"), "precision"),
    ],
)
def test_impossible_setups_are_the_users_mistake(setup, message):
    with pytest.raises(UserError, match=message):
        states(10, 10, setup)


def test_a_source_without_room_for_the_video_is_the_users_mistake():
    with pytest.raises(UserError, match="at least 8 source tokens"):
        predict(replace(tiny_run(), batch=BatchShape(source=3, frames=8 * 2)))


TINY_COMMAND = [
    *["--arch", "video_translate_tiny", "--batch-size", "2", "--num-frames", "8"],
    *["--frame-size", "32", "--source-tokens", "9", "--target-tokens", "5"],
]


def test_the_console_command_prints_every_term_and_what_fits():
    text = run_command("vt-memory", *TINY_COMMAND, "--offload-optimizer", "cpu")
    assert text.startswith("GiB on each GPU\n")
    for term in ("parameters", "activations", "buckets", "context", "total", "cpu  "):
        assert f"\n{term}" in text
    assert "16 GB V100: fits" in text and "32 GB V100: fits" in text


@pytest.fixture
def command(call_main):
    """Runs vt-memory in this process: exit code, stdout and stderr."""
    return partial(call_main, main)


def test_the_commands_json_is_the_librarys_prediction(command):
    _, out, _ = command(
        *TINY_COMMAND,
        *["--json", "--dtype", "fp32", "--zero-stage", "0", "--dropout", "0.1"],
        *["--checkpoint-activations", "--checkpoint-video-stages", "2"],
    )
    report = json.loads(out)
    options = {"checkpoint_activations": True, "checkpoint_video_stages": 2, "dropout": 0.1}
    expected = predict(tiny_run(**options))
    assert report["gpu_gib"]["activations"] == round(expected.training.activations / GIB, 3)
    assert report["gpu_gib"]["total"] == round(expected.total / GIB, 3)
    assert sum(report["gpu_gib"].values()) == pytest.approx(2 * expected.total / GIB, abs=0.005)
    assert report["fits_v100"] == {"16 GB": True, "32 GB": True} and report["suggestion"] == {}


def test_the_command_names_the_first_suggestion_that_is_enough(command):
    code, out, _ = command(*TINY_COMMAND, "--batch-size", "8192")
    assert code == 0
    assert "16 GB V100: does not fit; with --checkpoint-video-stages 4" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--arch", "video_translate_t5_giant"],
            "expected one of video_translate, video_translate_t5_base",
        ),
        (["--zero-stage", "0", "--offload-optimizer", "cpu"], "needs ZeRO"),
        (["--checkpoint-video-stages", "9"], "from 0 to 4"),
        (["--batch-size", "0"], "positive sizes"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(command, arguments, message):
    code, out, err = command(*arguments)
    assert code == 2 and not out
    assert message in err and err.startswith("vt-memory: error: ") and err.count("\n") == 1


def test_help_shows_an_example_and_the_models_options(command):
    code, out, _ = command("--help")
    assert code == 0 and "example:" in out and "--help-model" in out
    code, out, _ = command("--help-model")
    assert code == 0 and "--checkpoint-video-stages" in out and "--t5-size" in out
    assert command("--version")[1].startswith("vt-memory ")
