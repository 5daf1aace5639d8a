"""What --freeze-video and --freeze-text freeze is in the checkpoints as it was, to the bit."""

import os

import fairseq_cli.train
import pytest
import torch

from tests import killing

REAL_VALIDATION = fairseq_cli.train.validate
NETWORK = "encoder.video.network."
LAST = tuple(NETWORK + name for name in ("layer4.", "feature_norm."))


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        (["--freeze-video", "all"], lambda name: not name.startswith(NETWORK)),
        (
            ["--freeze-video", "all-but-last", "--freeze-text"],
            lambda name: (
                name.startswith(LAST)
                or (name.startswith("encoder.video.") and not name.startswith(NETWORK))
            ),
        ),
    ],
)
def test_weights_and_running_statistics_that_are_frozen_stay_to_the_bit_and_all_others_move(
    data_directory, tmp_path, options, trained
):
    more = ["--video-network", "tiny", "--frame-size", "32", "--num-frames", "8"]
    more += ["--keep-interval-updates", "-1", "--validate-interval-updates", "2"]
    more += ["--max-epoch", "2", *killing.PLAIN, *options]
    cfg = killing.configuration(data_directory, tmp_path / "save", more, 4)

    def change() -> None:
        fairseq_cli.train.validate = REAL_VALIDATION

    _, status = os.waitpid(killing.start(cfg, tmp_path / "record", change=change), 0)
    assert os.waitstatus_to_exitcode(status) == 0, (tmp_path / "record.log").read_text()[-2000:]
    states = [
        torch.load(next((tmp_path / "save").glob(name)), weights_only=False)["model"]
        for name in ("checkpoint_*_1.pt", "checkpoint_last.pt")
    ]
    moved = {name for name, first in states[0].items() if not torch.equal(first, states[1][name])}
    frozen = {name for name in states[0] if not trained(name)}
    assert not moved & frozen
    statistics = {name for name in frozen if "running_" in name or "num_batches" in name}
    assert statistics, "BatchNorm is among what is frozen"
    assert len(moved) > 0.8 * len(states[0].keys() - frozen)
