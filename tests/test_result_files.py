"""What generation writes has its name when it is whole, whatever number of processes wrote it."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import PredictionFiles, Share, read


def write(files: PredictionFiles, *ids: str) -> None:
    files.write(ids, [["a reference"]] * len(ids), list(ids), [-1.0] * len(ids))


def test_the_files_have_their_names_when_the_last_row_is_written(tmp_path):
    (tmp_path / "predictions.jsonl").write_text('{"id": "old", "prediction": "earlier"}\n')
    files = PredictionFiles(tmp_path, Share(3))
    write(files, "a", "b")
    assert list(read(tmp_path / "predictions.jsonl")) == ["old"], "not thrown away at the start"
    write(files, "c")
    for name in ("predictions", "references"):
        assert list(read(tmp_path / f"{name}.jsonl")) == ["a", "b", "c"]
    assert {p.name for p in tmp_path.iterdir()} == {"predictions.jsonl", "references.jsonl"}


def test_a_run_that_was_killed_is_named_where_its_result_is_asked_for(tmp_path):
    write(PredictionFiles(tmp_path, Share(3)), "a", "b")
    with pytest.raises(UserError, match=r"no file .*: only predictions.part0of1.jsonl of a run th"):
        read(tmp_path / "predictions.jsonl")


def write_share(folder: Path, rank: int, ids: tuple[str, ...], barrier) -> None:
    files = PredictionFiles(folder, Share(len(ids), rank, 3))
    barrier.wait()
    files.finish_if_whole()
    for name in ids:
        write(files, name)


def test_processes_that_share_a_folder_write_one_result(tmp_path):
    for name in ("predictions.done2of3.jsonl", "references.done2of3.jsonl"):
        (tmp_path / name).write_text(json.dumps({"id": "of an earlier run"}) + "\n")
    context = multiprocessing.get_context("fork")
    barrier, shares = context.Barrier(3), (("a", "d"), ("b",), ())  # the last has no rows
    processes = [
        context.Process(target=write_share, args=(tmp_path, rank, ids, barrier))
        for rank, ids in enumerate(shares)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for name in ("predictions", "references"):
        assert sorted(read(tmp_path / f"{name}.jsonl")) == ["a", "b", "d"]
    assert {p.name for p in tmp_path.iterdir()} == {"predictions.jsonl", "references.jsonl"}


def test_a_second_run_into_the_same_folder_is_refused_and_disturbs_nothing(tmp_path):
    first = PredictionFiles(tmp_path, Share(2))
    write(first, "a")

    def refused() -> None:
        with pytest.raises(UserError, match="another run writes its predictions to"):
            PredictionFiles(tmp_path, Share(5))

    second = multiprocessing.get_context("fork").Process(target=refused)
    second.start()
    second.join(60)
    assert second.exitcode == 0
    write(first, "b")
    assert list(read(tmp_path / "predictions.jsonl")) == ["a", "b"]


def test_a_data_worker_that_outlives_a_killed_run_does_not_keep_the_next_one_out(tmp_path):
    reading, writing = os.pipe()

    def killed() -> None:
        files = PredictionFiles(tmp_path, Share(2))
        write(files, "a")
        if os.fork() == 0:  # has all that the run had open
            os.close(writing)
            os.read(reading, 1)  # until the test ends
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    first = multiprocessing.get_context("fork").Process(target=killed)
    first.start()
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    write(PredictionFiles(tmp_path, Share(2)), "a", "b")
    os.close(writing)
    assert list(read(tmp_path / "predictions.jsonl")) == ["a", "b"]
