"""Half precision, recomputation and monitors through the engine; real processes."""

import json
import struct
from pathlib import Path

import pytest
import torch

from tests.test_zero import EVERY_STAGE, difference, recorded, train, zero

# Four frames would be two in the later layers, for which torch 2.13 computes wrong bf16 gradients
# of convolutions over time on CPUs (docs/deepspeed.md).
EIGHT_FRAMES = ["--num-frames", "8"]
EVERYTHING = ["--checkpoint-activations", "--checkpoint-video-stages", "4"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_recomputation_does_not_change_the_losses(data_directory, tmp_path, stage):
    options = [*zero(stage), "--max-update", "12", "--update-freq", "2", "--no-save"]
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
    options += ["--deepspeed-config", config] if stage == 3 else []
    train(data_directory, tmp_path / "plain", *options, processes=2)
    train(data_directory, tmp_path / "frugal", *options, *EVERYTHING, processes=2)
    expected, found = recorded(tmp_path / "plain"), recorded(tmp_path / "frugal")
    assert len(found) == 12 and difference(expected, found) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_bf16_trains_as_with_fairseqs_trainer_and_goes_on_to_the_last_digit(
    data_directory, tmp_path, stage
):
    options = [*EIGHT_FRAMES, "--bf16", "--lr", "1e-4", "--ddp-backend", "legacy_ddp"]
    options += ["--save-interval-updates", 6, "--max-update", 12]
    train(data_directory, tmp_path / "fairseq", *zero(0), *options, processes=2)
    train(data_directory, tmp_path / "zero", *zero(stage), *options, processes=2)
    expected, found = recorded(tmp_path / "fairseq"), recorded(tmp_path / "zero")
    assert expected[1] - expected[12] > 0.5
    assert difference(expected, found) < 0.02  # gradients are summed in another order, in bf16
    saved = tmp_path / "zero" / "save"
    weights = torch.load(saved / "checkpoint_last.pt", weights_only=True)["model"]
    trained = weights["decoder.layers.0.self_attention.q.weight"]
    assert torch.equal(trained, trained.bfloat16().to(trained.dtype))
    again = ["--restore-file", saved / "checkpoint_2_6.pt"]
    train(data_directory, tmp_path / "again", *zero(stage), *options, *again, processes=2)
    resumed = recorded(tmp_path / "again")
    assert min(resumed) == 7 and difference(found, resumed) == 0


def scalars(events: Path) -> dict[str, list[float]]:
    """Numbers in a file of tensorboard events: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[float]] = {}
    data = events.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        for value in Event.FromString(data[12 : 12 + length]).summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
        data = data[12 + length + 4 :]
    return found


def test_tensorboard_shows_the_losses(data_directory, tmp_path):
    pytest.importorskip("tensorboardX")
    train(
        *[data_directory, tmp_path / "run", *zero(2), "--max-update", 3, "--no-save"],
        *["--tensorboard-logdir", tmp_path / "tensorboard"],
    )
    (events,) = (tmp_path / "tensorboard" / "train_inner").iterdir()
    assert len(scalars(events)["loss"]) == 3 and min(scalars(events)["gnorm"]) > 0
