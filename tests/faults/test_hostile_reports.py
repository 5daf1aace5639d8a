"""Folders that attack ``vt-report``: links, pipes, lines that cost a square, endless numbers."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.corpora import write_jsonl
from tests.reports import page_of
from vt_fairseq.corpora.subtitles import parse_subtitles
from vt_fairseq.errors import UserError
from vt_fairseq.report.content import read_content
from vt_fairseq.report.logs import read_log

SECRET = "a line of another user"
START = "2026-11-28 12:00:00 | INFO |"


@pytest.fixture(autouse=True)
def opening_a_pipe_ends_in_an_error():
    """It would wait forever; a device gives bytes forever."""

    def stop(*_: object) -> None:
        raise TimeoutError("a pipe or a device was opened")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def results(folder: Path) -> Path:
    """Results that can be shown."""
    write_jsonl(folder / "predictions.jsonl", {"id": "a", "prediction": "it slides"})
    write_jsonl(folder / "references.jsonl", {"id": "a", "references": ["it slides"]})
    return folder


def put(kind: str, path: Path, secret: Path) -> None:
    """Something else than a file at ``path``."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": secret, "device": "/dev/zero", "broken": "nothing"}[kind])


@pytest.mark.parametrize("kind", ["pipe", "link", "device", "broken"])
@pytest.mark.parametrize(
    "name", ["predictions.jsonl", "references.jsonl", "settings.json", "metrics.json", "a.log"]
)
def test_what_is_no_plain_file_is_named_and_not_opened(tmp_path, kind, name):
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"id": SECRET, "prediction": SECRET, "accuracy": 7.0}))
    folder = tmp_path / "folder"
    results(folder / "good")
    put(kind, results(folder / "bad") / name, secret)
    content = read_content([folder], [], 1)
    assert [r.path.name for r in content.results][-1] == "good"
    assert any(f"{folder}/bad/{name} is a link, a pipe or a device" in n for n in content.notes)
    assert SECRET not in page_of(folder)


@pytest.mark.parametrize("name", ["data.json", "rejected.jsonl", "test.arrow"])
def test_a_data_directory_with_a_link_is_not_opened(tmp_path, name):
    results(tmp_path / "results")
    (tmp_path / "data").mkdir()
    known = {"format": 1, "corpus": "jsonl", "video_root": "/", "settings": {}, "splits": {}}
    (tmp_path / "data" / "data.json").write_text(json.dumps(known))
    put("device", tmp_path / "data" / name, tmp_path)
    content = read_content([tmp_path / "results"], [tmp_path / "data"], 1)
    assert not content.rejected
    assert any(f"data/{name} is a link, a pipe or a device" in note for note in content.notes)


# --- lines ----------------------------------------------------------------------------------------

LONG = 200_000
LINES = {
    "digits": f"{START} train_inner | epoch 001:  1 / 2 {'1' * LONG}",
    "words": f"{START} train_inner | epoch 001:  1 / 2 {'a1' * LONG}",
    "values": f"{START} train_inner | epoch 001:  1 / 2 " + "a=1." * LONG,
    "exponents": f"{START} train_inner | epoch 001:  1 / 2 a=1e{'1' * LONG}x",
    "bars": f"{START} valid | epoch 001 | valid on 'valid' subset " + "| a 1" * LONG,
    "a number": f"{START} valid | epoch 001 | valid on 'valid' subset | a {'1' * LONG}x",
    "scales": f"{START} train | 'video_lr_scale': {'1' * LONG}.{'1.' * LONG}",
    "heads": f"{START} train | 'video_lr_scale': 1 " + "'heads': '" * LONG,
    "unread": f"{START} task | cannot read clip {'a' * LONG}",
    "names": f"{START} {'a|' * LONG} | b",
    "starts": f"{START} a" * LONG,
}


@pytest.mark.parametrize("kind", LINES)
def test_a_long_line_of_a_log_takes_time_in_proportion(tmp_path, kind):
    (tmp_path / "a.log").write_text(LINES[kind] + "\n")
    begin = time.process_time()
    read_log(tmp_path / "a.log")
    assert time.process_time() - begin < 3  # 15 s and more where it grew with the square


SUBTITLES = ("1" * LONG, "1:" * LONG, "00:00:00,000" + " " * LONG, "a" + "\n " * LONG)


@pytest.mark.parametrize("text", SUBTITLES, ids=["digits", "hours", "blanks", "blank lines"])
def test_a_long_line_of_subtitles_takes_time_in_proportion(tmp_path, text):
    (tmp_path / "a.srt").write_text(text)
    begin = time.process_time()
    with pytest.raises(UserError, match="expected subtitles"):
        parse_subtitles(tmp_path / "a.srt")
    assert time.process_time() - begin < 3


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_of_hundreds_of_digits_are_left_out_or_named_and_the_rest_is_shown(
    tmp_path, digits
):
    huge = "9" * digits
    results(tmp_path / "good")
    (tmp_path / "good" / "metrics.json").write_text(f'{{"accuracy": 50.0, "r1": {"9" * 400}}}')
    log = tmp_path / "a.log"
    log.write_text(
        f"{START} train_inner | epoch 001:  1 / 2 loss={huge}, num_updates=1\n"
        f"{START} train_inner | epoch 001:  1 / 2 loss=2, num_updates={huge}\n"
        f'{START} train_inner | {{"loss": {huge}, "num_updates": 2}}\n'
        f"{START} train_inner | epoch 001:  1 / 2 loss=2, lr={huge}, num_updates=3\n"
        f"{START} train | 'video_lr_scale': {huge}, 'head_lr_scale': 1.2.3\n"
    )
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "predictions.jsonl").write_text(f'{{"id": "a", "prediction": 0, "scores": [{huge}]}}\n')
    write_jsonl(bad / "references.jsonl", {"id": "a", "answer": 0})
    content = read_content([tmp_path], [], 1)
    assert [result.path.name for result in content.results] == ["good"]
    metrics = content.results[0].metrics
    assert metrics["accuracy"] == 50.0 and "r1" not in metrics
    assert any(f"{bad}/predictions.jsonl line 1: expected" in note for note in content.notes)
    (training,) = content.trainings
    assert training.inner[3] == {"loss": 2.0, "num_updates": 3.0}
    assert training.not_finite >= 3
    page_of(tmp_path)
