"""The command vt-prepare: tables, exit codes, help, and a MiniWorld made and prepared."""

import functools
from pathlib import Path

import pytest

from tests import media
from tests.corpora import clip, write_jsonl
from vt_fairseq.cli import prepare
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder with one good video, a.mp4."""
    return media.write_numbered(tmp_path_factory.mktemp("videos") / "a.mp4", 10).parent


@pytest.fixture
def vt_prepare(call_main):
    """(*arguments) -> exit code, stdout, stderr."""
    return functools.partial(call_main, prepare.main)


def test_the_command_prints_a_table_and_the_reasons(tmp_path, videos, vt_prepare):
    manifest = tmp_path / "c.jsonl"
    write_jsonl(manifest, clip(), clip(id="y", video="gone.mp4"), "{")
    out = tmp_path / "data"
    code, printed, error = vt_prepare(
        "jsonl", "--annotations", manifest, "--videos", videos, "--out", out,
        "--train-vocabulary", 60,
    )  # fmt: skip
    assert (code, error) == (0, "")
    assert printed.splitlines()[:2] == [
        "split        rows    rejected",
        "train           1           2",
    ]
    assert "rejected 1: missing video" in printed
    assert "no rows of the split valid: give it some, or train with" in printed
    tokens = len(Tokenizer.from_file(out / "spiece.model").encode(clip()["caption"]))
    assert (
        f"captions of train: median {tokens} tokens, 95th percentile {tokens}, longest {tokens}; "
        "none is cut at 20, the default"
    ) in printed
    assert str(out / "rejected.jsonl") in printed
    assert DataDirectory.open(out).settings == {"annotations": str(manifest), "probed": True}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["jsonl", "--train-vocabulary", "60"], "jsonl needs --annotations PATH and --videos DIR"),
        (["jsonl"], "expected exactly one of --vocabulary"),
        (
            ["jsonl", "--train-vocabulary", "60", "--videos", ".", "--annotations", "g"],
            "manifest at",
        ),
        (["miniworld", "--train-vocabulary", "60", "--size", "huge"], "invalid choice: 'huge'"),
        (["miniworld", "--train-vocabulary", "60", "--videos", "."], "or neither to make a world"),
        (["nothing", "--train-vocabulary", "60"], "no corpus 'nothing'"),
        (["jsonl", "--workers", "0"], "expected a number from 1 on, found '0'"),
        (["jsonl", "--shard", "3/2"], "expected K/N, K from 1 to N, found '3/2'"),
        (["jsonl", "--shard", "0/2"], "expected K/N"),
        (["jsonl", "--shard", "1/2", "--train-vocabulary", "9"], "give it to vt-prepare join"),
        (["miniworld", "--shard", "1/2"], "--shard is not for miniworld"),
        (["join"], "expected exactly one of --vocabulary"),
        (["jsonl", "--subtitles", "span"], "--subtitles is for tvqa, tvc, not for jsonl"),
        (["miniworld", "--as", "ucf101"], "invalid choice: 'ucf101' (choose from"),
        (["jsonl", "--as", "tvqa"], "--as is for miniworld, not for jsonl"),
    ],
)
def test_a_mistake_in_the_command_ends_in_exit_2_and_says_so(tmp_path, vt_prepare, args, message):
    code, _, error = vt_prepare(*args, "--out", tmp_path / "data")
    assert code == 2 and message in error
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("broken", [None, b"no video"])
def test_a_split_all_of_whose_videos_are_missing_or_broken_ends_in_exit_1(
    tmp_path, videos, vt_prepare, broken
):
    for name, content in (("a.mp4", (videos / "a.mp4").read_bytes()), ("b.mp4", broken)):
        if content is not None:
            (tmp_path / "videos").mkdir(exist_ok=True)
            (tmp_path / "videos" / name).write_bytes(content)
    rows = [clip(), clip(id="y", split="test", video="b.mp4")]
    arguments = ["jsonl", "--videos", tmp_path / "videos", "--out", tmp_path / "data"]
    arguments += ["--annotations", write_jsonl(tmp_path / "c.jsonl", *rows)]
    code, printed, error = vt_prepare(*arguments, "--train-vocabulary", "60")
    assert code == 1 and error.startswith("vt-prepare: error: no row is left of test (1 rows): ")
    assert "train           1           0" in printed
    assert len(DataDirectory.open(tmp_path / "data").manifest("train")) == 1
    # A bad row, which names no split, or a video that is missing beside others, is no such thing.
    spiece = (tmp_path / "data" / "spiece.model").rename(tmp_path / "spiece.model")
    rows = [clip(split="test"), clip(id="y", split="test", video="gone.mp4"), "{"]
    write_jsonl(tmp_path / "c.jsonl", *rows)
    assert vt_prepare(*arguments, "--vocabulary", spiece)[0] == 0


def test_a_vocabulary_that_is_too_small_is_refused_before_a_video_is_copied(
    tmp_path, videos, vt_prepare
):
    rows = [clip(caption="žluť 红"), clip(id="y", caption="Ω", split="test")]
    arguments = ["jsonl", "--videos", videos, "--out", tmp_path / "data", "--transcode", "16"]
    arguments += ["--annotations", write_jsonl(tmp_path / "c.jsonl", *rows), "--train-vocabulary"]
    # Three ids of T5's, and the characters of the prompts, of žluť and of 红, with the space.
    least = 3 + len(set("caption : classify : answer : " + "žluť 红"))
    for pieces in (5, least - 1):
        code, _, error = vt_prepare(*arguments, pieces)
        assert code == 2 and error == (
            f"vt-prepare: error: --train-vocabulary: a vocabulary of {pieces} pieces is too small: "
            f"one for each character of the training texts takes at least {least}\n"
        )
        assert not (tmp_path / "data").exists()
    assert vt_prepare(*arguments, least)[0] == 0
    assert [path.name for path in (tmp_path / "data" / "videos").iterdir()] == ["a.mp4"]


def test_an_output_that_is_a_file_is_refused(tmp_path, videos, vt_prepare):
    (tmp_path / "data").write_text("mine")
    code, _, error = vt_prepare(
        "jsonl", "--annotations", write_jsonl(tmp_path / "c.jsonl", clip()), "--videos", videos,
        "--out", tmp_path / "data", "--train-vocabulary", 60,
    )  # fmt: skip
    assert (code, (tmp_path / "data").read_text()) == (2, "mine")
    assert "data is a file" in error


def test_captions_that_training_cuts_are_said_with_the_option_that_cuts_none(
    tmp_path, videos, vt_prepare
):
    rows = [clip(id=str(i), caption=f"circle {i}" * (1 + 19 * (i == 0))) for i in range(4)]
    out = tmp_path / "data"
    _, printed, _ = vt_prepare(
        "jsonl", "--annotations", write_jsonl(tmp_path / "c.jsonl", *rows), "--videos", videos,
        "--out", out, "--train-vocabulary", 60,
    )  # fmt: skip
    longest = len(Tokenizer.from_file(out / "spiece.model").encode(rows[0]["caption"]))
    cuts_none = f"--max-target-tokens caption={longest} cuts none"
    assert f"longest {longest}; 25.0% would be cut at 20, the default: {cuts_none}" in printed


def test_miniworld_is_made_and_prepared_in_one_command(tmp_path, vt_prepare):
    out = tmp_path / "data"
    args = ("miniworld", "--size", "tiny", "--train-vocabulary", 300, "--out", out)
    code, printed, error = vt_prepare(*args)
    assert code == 0, error
    data = DataDirectory.open(out)
    assert data.video_root == out / "world" / "videos"
    assert all(counts["rejected"] == 0 for counts in data.splits.values())
    assert {"train", "valid", "test", "novel", "retrieval"} <= set(data.splits)
    novel = {row.label for row in data.manifest("novel")}
    assert novel <= set(data.classes("label"))
    assert vt_prepare(*args)[1] == printed
