"""The moving average of the weights that ``--store-ema`` keeps."""

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
from fairseq.dataclass.configs import EMAConfig, FairseqConfig
from omegaconf import OmegaConf
from torch import nn

from tests.commands import PLUGIN, TINY, run
from tests.markdown import blocks
from vt_fairseq import VideoTranslate
from vt_fairseq.models.pretrained.exported import read_model
from vt_fairseq.training.ema import SharedWeightsEMA, average_in_fp32

DECAY = 0.9


class Net(nn.Module):
    """A table with two names, a layer with one, and a norm that counts."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.decoder.weight = self.encoder.weight
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)


def walk(net: Net, ema: SharedWeightsEMA, updates: range) -> list[dict[str, torch.Tensor]]:
    """The weights after each update, which is given to ``ema``."""
    seen = []
    for update in updates:
        generator = torch.Generator().manual_seed(update)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter))
            net.norm.running_mean += 1
            net.norm.num_batches_tracked += 1
        ema.step(net, update)
        seen.append({name: value.double().clone() for name, value in net.state_dict().items()})
    return seen


def averaged(begin: torch.Tensor, values: list[torch.Tensor]) -> torch.Tensor:
    for value in values:
        begin = DECAY * begin + (1 - DECAY) * value
    return begin


def ema_of(net: Net, **options) -> SharedWeightsEMA:
    config = EMAConfig(store_ema=True, ema_decay=DECAY, **options)
    return SharedWeightsEMA(net, config, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_tensor_is_averaged_once_whatever_its_names(dtype):
    torch.manual_seed(0)
    net = Net().to(dtype)
    begin = {name: value.double().clone() for name, value in net.state_dict().items()}
    ema = ema_of(net, ema_fp32=True)
    seen = walk(net, ema, range(1, 8))
    for name, value in ema.fp32_params.items():
        expected = averaged(begin[name], [weights[name] for weights in seen])
        if name.endswith("tracked"):
            expected = torch.tensor(7.0, dtype=torch.float64)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    own = ema.get_model().state_dict()
    assert torch.equal(own["encoder.weight"], own["decoder.weight"])
    torch.testing.assert_close(own["encoder.weight"], ema.fp32_params["decoder.weight"].to(dtype))


def test_an_average_of_every_third_update_goes_on_after_a_restart():
    torch.manual_seed(0)
    net = Net()
    whole = ema_of(net, ema_update_freq=3)
    again = copy.deepcopy(net)
    walk(net, whole, range(1, 10))
    first = ema_of(again, ema_update_freq=3)
    walk(again, first, range(1, 6))
    then = ema_of(again, ema_update_freq=3)
    then.restore(first.get_model().state_dict())
    walk(again, then, range(6, 10))
    expected = whole.get_model().state_dict()
    for name, value in then.get_model().state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("half", [True, False])
def test_of_16_bit_weights_the_average_is_in_fp32(half):
    cfg = OmegaConf.structured(FairseqConfig())
    cfg.ema.store_ema, cfg.common.bf16 = True, half
    average_in_fp32(cfg)
    assert cfg.ema.ema_fp32 is half


def save_average() -> None:
    """Run the lines of the document in the working directory."""
    (block,) = (b for b in blocks(Path("docs/model.md")) if "save_ema_as_checkpoint" in b.text)
    exec(block.text, {})


@pytest.mark.parametrize("precision", [[], pytest.param(["--bf16"], marks=pytest.mark.slow)])
def test_the_documents_lines_make_a_model_of_the_averages_that_is_generated_from_and_exported(
    data_directory, tmp_path, monkeypatch, precision
):
    options = [*TINY, *precision, "--store-ema", "--ema-decay", "0.5", "--max-update", "2"]
    options += ["--disable-validation", "--save-interval-updates", "1"]
    options += ["--save-dir", tmp_path / "checkpoints"]
    run("fairseq-train", data_directory, *PLUGIN, *options)
    monkeypatch.chdir(tmp_path)
    save_average()
    first, second, averages = (
        torch.load(f"checkpoints/{name}.pt")
        for name in ("checkpoint_1_1", "checkpoint_last", "averaged")
    )
    for name, average in averages["model"].items():
        expected = (first["extra_state"]["ema"][name] + second["model"][name]) / 2
        if name.endswith("num_batches_tracked"):
            expected = second["model"][name]
        torch.testing.assert_close(average, expected, rtol=2**-8 if precision else 1e-6, atol=1e-4)
    table = "encoder.embed_tokens.weight"
    assert not torch.equal(averages["model"][table], second["model"][table])
    generate = ["--path", "checkpoints/averaged.pt", "--max-len-b", "3", "--results-path", "found"]
    run("fairseq-generate", data_directory, *PLUGIN, *generate, cwd=tmp_path)
    run(
        "vt-init", "--from-checkpoint", "checkpoints/averaged.pt", "--export", "model", cwd=tmp_path
    )
    for path in ("checkpoints/averaged.pt", "model"):
        assert torch.equal(read_model(Path(path))["model"][table], averages["model"][table])
        VideoTranslate.from_pretrained(path, device="cpu")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_the_documents_lines_run_nothing_of_a_hostile_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"extra_state": {"ema": {}}, "more": Hostile()}, "checkpoints/checkpoint_last.pt")
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        save_average()
    assert not (tmp_path / "ran").exists()
