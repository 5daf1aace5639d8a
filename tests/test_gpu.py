"""What only a GPU can show; skipped where torch sees none."""

import os
import re
import subprocess
from copy import deepcopy

import numpy as np
import pytest
import torch

from tests.commands import PLUGIN, TINY, command_line
from tests.test_t5 import Ids
from vt_fairseq.candidates.likelihood import score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.models.architectures import architecture, build_model
from vt_fairseq.models.batch_norm import BatchNorm
from vt_fairseq.models.half_precision_linear import Fp32OutputLinear
from vt_fairseq.models.sequence_generator import SharedSourceGenerator
from vt_fairseq.models.step_graphs import CudaGraphs, StepGraphs
from vt_fairseq.models.video_translate import VideoTranslateModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")
VOCABULARY, VIDEO = 384, 300


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """No tf32: these tests compare with a CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference relative to the norm of what is expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm())


def tiny() -> VideoTranslateModel:
    """The tiny model with random weights on the CPU."""
    torch.manual_seed(0)
    return build_model(architecture("video_translate_tiny"), VOCABULARY, VIDEO)


def inputs(device: str) -> dict[str, torch.Tensor]:
    """Four clips with prompts and targets."""
    random = torch.Generator().manual_seed(1)
    source = torch.randint(5, 200, (4, 12), generator=random)
    source[:, 2:6] = VIDEO
    frames = torch.randint(0, 256, (4, 8, 40, 40, 3), dtype=torch.uint8, generator=random)
    target = torch.randint(5, 200, (4, 7), generator=random)
    made = {"src_tokens": source, "prev_output_tokens": target, "video": frames}
    return {name: tensor.to(device) for name, tensor in made.items()}


def test_a_gpu_computes_what_a_cpu_does():
    on_cpu = tiny()
    on_gpu = deepcopy(on_cpu).cuda()
    logits = on_cpu(**inputs("cpu"))[0], on_gpu(**inputs("cuda"))[0]
    assert relative(logits[1], logits[0]) < 1e-4
    for found in logits:
        found.log_softmax(-1)[..., 7].sum().backward()
    for (name, cpu), gpu in zip(on_cpu.named_parameters(), on_gpu.parameters(), strict=True):
        if cpu.grad.norm() > 1e-4:
            assert relative(gpu.grad, cpu.grad) < 1e-2, name


@pytest.mark.parametrize("beam", [1, 4])
def test_captured_steps_write_and_score_what_a_cpu_does(beam):
    on_cpu = tiny().eval()
    on_gpu = deepcopy(on_cpu).cuda()
    tree = PrefixTree.build([[7, 9], [7, 8, 11], [30], []])
    ids = Ids(on_cpu.decoder.embed_tokens.num_embeddings)
    for rows in (4, 3):
        texts, scores = [], []
        for model, graphs in (
            (on_cpu, None),
            (on_gpu, None),
            (on_gpu, StepGraphs(CudaGraphs(torch.device("cuda")))),
        ):
            model.decoder.graphs = graphs
            device = model.decoder.embed_tokens.weight.device
            given = inputs(str(device))
            given = {name: given[name][:rows] for name in ("src_tokens", "video")}
            generator = SharedSourceGenerator([model], ids, beam_size=beam, max_len_b=40)
            found = generator.generate(None, {"net_input": given}, bos_token=0)
            texts.append([row[0]["tokens"].tolist() for row in found])
            with torch.no_grad():
                scores.append(np.stack(score_candidates(model, model.encoder(**given), [tree])))
            assert graphs is None or graphs.works
            model.decoder.graphs = None
        assert texts[0] == texts[1] == texts[2]
        np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)
        np.testing.assert_allclose(scores[2], scores[0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_model_in_half_precision_stays_near_fp32(dtype):
    expected = tiny().cuda().eval()(**inputs("cuda"))[0]
    found = tiny().to("cuda", dtype).eval()(**inputs("cuda"))[0]
    assert found.dtype == torch.float32
    assert relative(found, expected) < (0.01 if dtype == torch.float16 else 0.08)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_with_fp32_results_do_not_round_on_tensor_cores(dtype):
    torch.manual_seed(0)
    layer = Fp32OutputLinear(1024, 256).to("cuda", dtype)
    x = (200 * torch.randn(3, 50, 1024, device="cuda")).to(dtype).requires_grad_()
    found = layer(x)
    exact = x.double() @ layer.weight.double().T
    assert found.dtype == torch.float32
    assert relative(found, exact) < 1e-5
    found.square().mean().backward()
    grad = 2 * exact / exact.numel()
    assert relative(layer.weight.grad, grad.flatten(0, 1).T @ x.double().flatten(0, 1)) < 1e-2
    assert relative(x.grad, grad @ layer.weight.double()) < 1e-2


def test_results_beyond_the_range_of_fp16_stay_finite():
    layer = Fp32OutputLinear(1024, 8).to("cuda", torch.float16)
    torch.nn.init.constant_(layer.weight, 10.0)
    found = layer(torch.full((2, 1024), 100.0, device="cuda", dtype=torch.float16))
    assert torch.equal(found, torch.full_like(found, 1024 * 1000.0))


def call(command: str, *arguments) -> str:
    """Output of a command that succeeds, in a process that has not seen the GPU yet."""
    process = subprocess.run(
        command_line(command, *arguments),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-3000:]
    return output


@pytest.mark.parametrize(
    "options",
    [
        "--optimizer adam",
        "--optimizer adam --fp16 --fp16-no-flatten-grads",
        "--optimizer deepspeed_adam --adam-backend torch --zero-stage 2 --bf16",
        "--optimizer deepspeed_adam --adam-backend torch --zero-stage 3 --fp16",
    ],
)
def test_the_commands_train_generate_and_score(options, data_directory, tmp_path):
    plugin = [option for option in PLUGIN if option != "--cpu"]
    common = [data_directory, *plugin]
    training = [*TINY, "--save-dir", tmp_path, "--max-update", "12", "--no-epoch-checkpoints"]
    log = call("fairseq-train", *common, *training, *options.split())
    losses = [float(loss) for loss in re.findall(r"train_inner \|.*? loss=([\d.]+)", log)]
    assert losses[-1] < losses[0]
    checkpoint = tmp_path / "checkpoint_last.pt"
    written = call(
        "fairseq-generate",
        *[*common, "--path", checkpoint, "--gen-subset", "test", "--action", "caption"],
        *["--beam", "4", "--batch-size", "4"],
    )
    assert "D-0\t" in written
    call(
        "vt-score",
        *["vqa", data_directory, "--path", checkpoint, "--split", "test", "--out", tmp_path / "s"],
    )
    assert (tmp_path / "s" / "metrics.json").exists()


@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_of_channels_in_the_last_place_is_pytorchs(training):
    torch.manual_seed(0)
    ours = BatchNorm(16).cuda().train(training)
    plain = torch.nn.BatchNorm3d(16).cuda().train(training)
    x = torch.randn(4, 16, 3, 5, 6, device="cuda")
    found = ours(x.contiguous(memory_format=torch.channels_last_3d))
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)
