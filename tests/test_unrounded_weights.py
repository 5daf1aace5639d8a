"""In half precision the optimizer's fp32 weights begin at what was rounded for the model."""

import logging
from pathlib import Path

import pytest
import torch
from fairseq import utils
from torch import Tensor, nn

from tests.checkpoints import changed
from tests.commands import PLUGIN, ROOT, launcher, run
from tests.commands import TINY as TRAINING
from tests.test_zero import output_of, zero
from vt_fairseq.models.pretrained.exported import read_model, write_exported
from vt_fairseq.training.half_precision_state import WEIGHTS
from vt_fairseq.training.unrounded_weights import saved_weights, trained_weights, unrounded

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
HEADS = ["--heads", "label", "--criterion", "video_translate_classification"]
SLOW = pytest.mark.slow


def beginning(
    data: Path, out: Path, *options: str | Path, processes: int = 1
) -> list[dict[str, Tensor]]:
    """The fp32 weights before the first update, as each process has them; it is then made."""
    out.mkdir(exist_ok=True)
    script = [ROOT / "tests" / "beginning.py", out / "weights", data, *PLUGIN, *TRAINING]
    options = (*options, "--max-update", "1", "--disable-validation", "--save-dir", out / "save")
    if processes == 1:
        run(*map(str, [*script, *options]))
    else:
        output_of([*launcher(processes), *map(str, [*script, *options])])
    return [torch.load(f"{out / 'weights'}.{rank}") for rank in range(processes)]


def weights_in(checkpoint: Path) -> dict[str, Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


def assert_begins_at(found: dict[str, Tensor], expected: dict[str, Tensor], precision: str) -> None:
    """To the bit; and the model's 16-bit weights would have been others."""
    assert len(found) > 30
    rounded = 0
    for name, weight in found.items():
        assert weight.dtype == torch.float32 and torch.equal(weight, expected[name]), name
        rounded += not torch.equal(weight, weight.to(DTYPES[precision]).float())
    assert rounded > 20


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize(
    ("stage", "processes"),
    [
        (0, 1),
        (2, 1),
        (3, 2),  # whose sizes two processes do not divide evenly
        *(pytest.param(stage, 2, marks=SLOW) for stage in (0, 1, 2)),
        *(pytest.param(stage, 1, marks=SLOW) for stage in (1, 3)),
    ],
)
def test_fine_tuning_begins_at_the_weights_on_disk(
    data_directory, tmp_path, trained, precision, stage, processes
):
    options = [*zero(stage), f"--{precision}", "--finetune-from-model", trained, "--no-save"]
    for found in beginning(data_directory, tmp_path, *options, processes=processes):
        assert_begins_at(found, weights_in(trained), precision)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_a_reset_optimizer_begins_at_the_weights_on_disk(data_directory, tmp_path, trained, stage):
    options = ["--restore-file", trained, "--reset-optimizer", "--reset-dataloader", "--no-save"]
    (found,) = beginning(data_directory, tmp_path, *zero(stage), "--bf16", *options)
    assert_begins_at(found, weights_in(trained), "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_a_checkpoint_without_the_optimizers_state_is_gone_on_from_at_its_weights(
    data_directory, tmp_path, trained, stage
):
    """As of ``--no-save-optimizer-state``."""
    start = changed(trained, tmp_path / "init.pt", lambda state: state.pop("last_optimizer_state"))
    options = ["--restore-file", start, "--reset-dataloader", "--no-save"]
    (found,) = beginning(data_directory, tmp_path, *zero(stage), "--bf16", *options)
    assert_begins_at(found, weights_in(trained), "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_fine_tuning_begins_at_the_weights_of_an_exported_folder(
    data_directory, tmp_path, trained, stage
):
    folder = tmp_path / "exported"
    folder.mkdir()
    write_exported(read_model(trained), folder)
    options = [*zero(stage), "--fp16", "--finetune-from-model", folder, "--no-save"]
    (found,) = beginning(data_directory, tmp_path, *options)
    assert_begins_at(found, weights_in(trained), "fp16")


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=SLOW), pytest.param(3, marks=SLOW)])
def test_new_heads_begin_where_they_were_before_they_were_rounded(
    data_directory, tmp_path, trained, stage
):
    options = [*zero(stage), "--bf16", "--finetune-from-model", trained, *HEADS, "--no-save"]
    (found,) = beginning(data_directory, tmp_path, *options)
    new = found.pop("heads.label.weight")
    assert not torch.equal(new, new.bfloat16().float())
    del found["heads.label.bias"]  # zeros
    assert_begins_at(found, weights_in(trained), "bf16")


def test_fine_tuning_from_a_run_in_bf16_begins_at_what_its_optimizer_had(data_directory, tmp_path):
    """Its model's weights are rounded. The encoder alone goes on, with a new head."""
    first = tmp_path / "first"
    from_scratch = beginning(data_directory, first, *zero(0), "--bf16", "--no-epoch-checkpoints")[0]
    assert any(not torch.equal(w, w.bfloat16().float()) for w in from_scratch.values())
    saved = torch.load(first / "save" / "checkpoint_last.pt", weights_only=True)
    expected = dict(zip(from_scratch, saved["last_optimizer_state"][WEIGHTS], strict=True))
    options = ["--bf16", "--finetune-from-model", first / "save" / "checkpoint_last.pt", *HEADS]
    (found,) = beginning(data_directory, tmp_path / "then", *zero(0), *options, "--no-save")
    for name in [name for name in found if name.startswith("heads.")]:
        del found[name]
    assert found.keys() < expected.keys()
    assert_begins_at(found, expected, "bf16")


class Net(nn.Module):
    """Two layers that share a weight, one of them frozen otherwise, and a norm's statistics."""

    def __init__(self):
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.last.weight = self.first.weight
        self.frozen.requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES.values())
def test_weights_that_an_optimizer_saved_without_names_are_found_by_their_values(dtype):
    torch.manual_seed(0)
    net = Net()
    exact = [p.detach().clone() for p in net.parameters() if p.requires_grad]
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    model = utils.move_to_cpu(net.to(dtype).state_dict())  # as fairseq saves it
    state = {"model": model, "last_optimizer_state": {WEIGHTS: exact}}
    found = saved_weights(state)
    assert found.keys() == state["model"].keys()
    assert len(names) == 5 and "last.weight" not in names
    for name, weight in zip(names, exact, strict=True):
        assert torch.equal(found[name], weight) and found[name].dtype == torch.float32
    assert found["frozen.weight"] is state["model"]["frozen.weight"]


@pytest.mark.parametrize(
    ("saved", "now"), [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]
)
def test_the_fp32_weights_of_a_run_in_the_other_16_bit_type_are_taken(saved, now):
    """The model's were rounded twice, which gives others than once."""
    torch.manual_seed(0)
    net = nn.Linear(64, 64)
    weights = trained_weights(net)
    net.to(saved).to(now)
    assert not torch.equal(net.weight, weights["weight"].to(now))
    found = unrounded(net, weights)
    assert torch.equal(found[net.weight], weights["weight"])
    assert torch.equal(found[net.bias], weights["bias"])


def test_only_what_became_the_models_weights_when_rounded_is_taken(caplog):
    torch.manual_seed(0)
    net = Net()
    weights = trained_weights(net)
    net.half()
    assert weights["first.weight"].dtype == torch.float32
    with torch.no_grad():
        net.first.bias.add_(1)
    with caplog.at_level(logging.WARNING):
        found = unrounded(net, weights)
    assert found.keys() == {net.first.weight, net.last.bias, net.norm.weight, net.norm.bias}
    assert "1 parameters start from weights that were rounded to 16 bits: first.bias" in caplog.text


@pytest.mark.parametrize("before", [torch.float32, *DTYPES.values()])
def test_weights_that_were_rounded_before_are_taken_and_named(before, caplog):
    torch.manual_seed(0)
    net = Net().to(before).float()
    weights = trained_weights(net)
    net.bfloat16()
    with caplog.at_level(logging.WARNING):
        found = unrounded(net, weights)
    assert {p for p in net.parameters() if p.requires_grad} >= found.keys() > {net.first.weight}
    line = "1 parameters start from weights that were rounded to 16 bits: first.weight"
    assert (line in caplog.text) == (before != torch.float32)
