"""What generation writes has its name when it is whole, whatever number of processes wrote it."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from vt_fairseq.corpora import files, jsonl
from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.evaluation import caption_files
from vt_fairseq.files import result_files
from vt_fairseq.files.result_files import PredictionFiles, Share, read


def write(files: PredictionFiles, *ids: str) -> None:
    files.write(ids, [["a reference"]] * len(ids), list(ids), [-1.0] * len(ids))


def test_the_files_have_their_names_when_the_last_row_is_written(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "predictions.jsonl").write_text('{"id": "old", "prediction": "earlier"}\n')
    files = PredictionFiles(tmp_path, Share(3))
    write(files, "a", "b")
    assert list(read(tmp_path / "predictions.jsonl")) == ["old"], "not thrown away at the start"
    assert not caplog.messages
    write(files, "c")
    assert caplog.messages == [f"wrote {tmp_path}/{{predictions,references}}.jsonl"]
    for name in ("predictions", "references"):
        assert list(read(tmp_path / f"{name}.jsonl")) == ["a", "b", "c"]
    assert {p.name for p in tmp_path.iterdir()} == {"predictions.jsonl", "references.jsonl"}


def test_a_split_none_of_which_could_be_read_is_a_failure_of_all_processes_together(tmp_path):
    lost = {"texts": [None], "scores": [None], "references": [[]]}
    first, second = (PredictionFiles(tmp_path, Share(1, rank, 2)) for rank in (0, 1))
    first.write(["a"], **lost)
    with pytest.raises(RunFailure, match="none of the 2 clips could be read"):
        second.write(["b"], **lost)
    assert not [path for path in tmp_path.iterdir() if "done" not in path.name and path.suffix]
    first, second = (PredictionFiles(tmp_path, Share(1, rank, 2)) for rank in (0, 1))
    first.write(["a"], **lost)
    write(second, "b")
    assert list(read(tmp_path / "predictions.jsonl")) == ["a", "b"]


JSON = json.dumps([{"id": "a", "references": ["b"]}, {"id": "b", "references": ["{"]}])
JSONL = JSON[1:-1].replace("}, ", "}\n")
MANIFEST = '{"id": "a", "video": "a.mp4"}'
OTHER_FORMATS = [
    (JSON.encode(), "a JSON array (jq"),
    (json.dumps(json.loads(JSON), indent=1).encode(), "a JSON array (jq"),
    (JSON.replace("}, ", "},\n").replace("[{", "[\n{").encode(), "a JSON array (jq"),
    (json.dumps({"a": {"b": 1}}, indent=2).replace("\n", "\r\n").encode(), "several lines (jq"),
    (b"id,video,caption\na,a.mp4,{a\n", "'id,video,caption'"),
    (b"\xef\xbb\xbfid\tvideo\n\na\ta.mp4\n", "'id\\tvideo'"),
    (JSONL.encode("utf-16"), "text in UTF-16"),
    (JSONL.encode("utf-16-be"), "text in UTF-16"),
    (b"\x1f\x8b\x08\x00compressed", "'\\x1f\ufffd"),
]
READERS = [
    result_files.read, jsonl.read, caption_files.read_predictions, files.jsonl_records,
    lambda path: caption_files.read_references([path]),
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("content", "found"), OTHER_FORMATS)
def test_a_file_of_another_format_given_as_jsonl_is_told_what_is_wanted(
    tmp_path, reader, content, found
):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError) as error:
        list(reader(tmp_path / "a.jsonl"))
    expected = f"{tmp_path / 'a.jsonl'}: expected jsonl, one JSON object on each line, found "
    assert str(error.value).startswith(expected) and found in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [JSONL, "\ufeff" + JSONL, "\n\n" + JSONL, '{"id": "' + "a" * 9999 + '"}', ""],
)
def test_jsonl_of_every_kind_is_read(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    assert len(read(tmp_path / "a.jsonl")) == content.count('"id"')


@pytest.mark.parametrize("first", ["{", "[1]", "no JSON"])
def test_a_manifest_whose_first_line_is_bad_keeps_the_others(tmp_path, first):
    (tmp_path / "a.jsonl").write_text(f"{first}\n{MANIFEST}\n")
    assert [type(row).__name__ for row in jsonl.read(tmp_path / "a.jsonl")] == ["Rejected", "Entry"]


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


@pytest.mark.slow
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
