"""What the end of a training says of a model that does not look at its videos."""

import logging
import re
from types import SimpleNamespace

import pytest

from tests.commands import PLUGIN, TINY, run
from vt_fairseq.training import blank_check

LINE = r"valid: accuracy ([\d.]+) with the video, ([\d.]+) on blank video"


def test_the_end_of_training_has_the_last_validation_and_that_of_blank_video(
    data_directory, tmp_path
):
    options = [*TINY, "--max-update", "6", "--save-dir", tmp_path]
    log = run("fairseq-train", data_directory, *PLUGIN, *options)
    seen, blank = re.search(LINE, log).groups()
    assert float(seen) == float(re.findall(r"valid \| .*?\| accuracy ([\d.]+)", log)[-1])
    checkpoint = ["--path", tmp_path / "checkpoint_last.pt", "--batch-size", "8"]
    validated = run("fairseq-validate", data_directory, *PLUGIN, *checkpoint, "--blank-video")
    assert float(blank) == float(re.findall(r"\| accuracy ([\d.]+)", validated)[-1])
    assert log.index("done training") < log.index("on blank video")


@pytest.mark.slow
def test_two_processes_with_sharded_parameters_compare_as_one_does(data_directory, tmp_path):
    engine = ["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--zero-stage", "3"]
    several = ["--distributed-world-size", "2", "--max-update", "2", "--save-dir", tmp_path]
    log = run("fairseq-train", data_directory, *PLUGIN, *TINY, *engine, *several)
    (pair,) = re.findall(LINE, log)
    checkpoint = ["--path", tmp_path / "checkpoint_last.pt", "--batch-size", "8"]
    validated = run("fairseq-validate", data_directory, *PLUGIN, *checkpoint, "--blank-video")
    expected = float(re.findall(r"\| accuracy ([\d.]+)", validated)[-1])
    assert float(pair[1]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(
    ("seen", "blank", "rows", "clear"),
    [
        # Two standard errors of the difference: 9.2, 9.9 and 2.0 points.
        (80.0, 60.0, 200, True),
        (65.0, 60.0, 200, False),
        (60.0, 60.0, 5000, False),
        (62.0, 59.9, 5000, True),
        (40.0, 70.0, 5000, False),
        (0.0, 0.0, 5, False),
    ],
)
def test_a_gain_within_two_standard_errors_is_a_warning(caplog, seen, blank, rows, clear):
    with caplog.at_level(logging.INFO):
        blank_check.say_difference("valid", "accuracy", seen, blank, rows)
    (record,) = caplog.records
    assert record.levelno == (logging.INFO if clear else logging.WARNING)
    assert f"accuracy {seen:.2f} with the video, {blank:.2f} on blank video" in record.message
    assert clear or f"of {rows} rows that is no clear gain" in record.message


@pytest.mark.parametrize(
    ("most", "validated_at", "blank_video", "steps", "said"),
    [
        (4, 7, False, None, "valid has 5 rows, more than --blank-check 4 compares"),
        (0, 7, False, None, ""),
        (9, 7, False, 1, ""),  # the last validation is of a part of the split
        (9, 6, False, None, ""),  # the last validation is of an update before the last
        (9, 7, True, None, ""),
    ],
)
def test_nothing_is_run_where_it_is_too_much_or_has_nothing_to_compare_with(
    caplog, most, validated_at, blank_video, steps, said
):
    task = SimpleNamespace(
        cfg=SimpleNamespace(blank_check=most, blank_video=blank_video),
        validated=[{"num_updates": validated_at, "accuracy": 50.0}],
        dataset=lambda split: range(5),
    )
    options = SimpleNamespace(dataset=SimpleNamespace(valid_subset="valid", max_valid_steps=steps))
    trainer = SimpleNamespace(task=task, cfg=options, get_num_updates=lambda: 7)
    with caplog.at_level(logging.INFO):
        blank_check.compare_with_blank(trainer)
    assert [record.message for record in caplog.records] == ([said] if said else [])
