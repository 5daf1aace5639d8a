"""Training that waits for its clips says so."""

import pytest
from fairseq.logging import metrics

from tests.commands import PLUGIN, TINY, run
from vt_fairseq.training import data_wait
from vt_fairseq.training.data_wait import DataWait


@pytest.fixture(autouse=True)
def fresh_metrics():
    metrics.reset()
    yield
    metrics.reset()


def test_the_share_is_that_of_time_and_leaves_out_the_start_of_the_workers():
    wait = DataWait(num_workers=1)
    with metrics.aggregate() as found:
        for waited, step in ((60, 1), (1, 3), (0, 4)):  # after the first 1 s beside 7 s of updates
            wait.note(waited, step)
    assert found.get_smoothed_values()["data_wait"] == pytest.approx(100 / 8, abs=0.1)


@pytest.mark.parametrize(("waited", "warned"), [(0.04, False), (0.06, True)])
def test_more_than_a_twentieth_is_warned_of_once(waited, warned, caplog):
    wait = DataWait(num_workers=3)
    wait.note(100, 1)
    for _ in range(4 * data_wait.UPDATES):
        wait.note(waited, 1 - waited)
    said = [r.getMessage() for r in caplog.records if r.name == data_wait.__name__]
    assert len(said) == warned
    assert not warned or (said[0].startswith("6 % of the time of") and "(3 now, " in said[0])


def test_a_training_logs_the_share_in_every_epoch(data_directory, tmp_path):
    """fairseq makes a new iterator for each."""
    log = run(
        *["fairseq-train", data_directory, *PLUGIN, *TINY, "--max-epoch", "3", "--no-save"],
        *["--disable-validation", "--save-dir", tmp_path],
    )
    lines = [line for line in log.splitlines() if "| train_inner |" in line]
    assert len(lines) > 3
    assert all(0 <= float(line.split("data_wait=")[1].split(",")[0]) <= 100 for line in lines[1:])
