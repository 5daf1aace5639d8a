"""Preparation in shards: any of them alone, in any order, joined to what one run makes."""

import json
from pathlib import Path

import pytest

from tests.conftest import run_main
from vt_fairseq.corpora import jsonl
from vt_fairseq.corpora.prepare import Probing, VocabularyOptions, prepare
from vt_fairseq.corpora.rows import Source
from vt_fairseq.corpora.shards import Shard, join, prepare_shard
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import UserError

PIECES = VocabularyOptions(pieces=60)
PROBING = Probing(probe=False)
SHARDS = 3


@pytest.fixture
def corpus(tmp_path) -> Path:
    """5,000 clips of 50 videos in two splits, some of them wrong."""
    rows = [
        {
            "id": f"{v}-{i}",
            "video": f"v{v}.mp4",
            "caption": f"a circle {v % 7}",
            "label": f"l{v % 5}",
            "split": "test" if v % 10 == 9 else "train",
            "start": i,
            "end": i if (v, i) in ((3, 7), (11, 0)) else i + 1,
        }
        for v in range(50)
        for i in range(100)
    ]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    return tmp_path


def source(corpus: Path, **settings) -> Source:
    return Source(jsonl.read(corpus / "c.jsonl"), corpus, {"probed": False} | settings)


def shard(corpus: Path, k: int, n: int = SHARDS) -> dict:
    return prepare_shard("jsonl", source(corpus), corpus / "data", Shard(k, n), PROBING)


def test_joined_shards_are_what_one_run_makes(corpus):
    whole = prepare("jsonl", source(corpus), corpus / "whole", PIECES, PROBING)
    counts = [shard(corpus, k)["splits"] for k in (2, 3, 1)]
    assert all(count["train"]["rows"] > 500 for count in counts)
    joined = join(corpus / "data", PIECES)
    assert {**joined, "first_rejected": None} == {**whole, "first_rejected": None}
    one, other = DataDirectory.open(corpus / "whole"), DataDirectory.open(corpus / "data")
    for split in ("train", "test"):
        assert sorted(one.manifest(split), key=str) == sorted(other.manifest(split), key=str)
    for name in ("labels.txt", "spiece.model"):
        assert (corpus / "whole" / name).read_bytes() == (corpus / "data" / name).read_bytes()
    lines = [sorted((corpus / d / "rejected.jsonl").read_text().split("\n")) for d in
             ("whole", "data")]  # fmt: skip
    assert lines[0] == lines[1] and len(lines[0]) == 4
    assert joined["reasons"] == {"bad times": 2, "bad JSON": 1}


def test_all_clips_of_a_video_are_in_one_shard(corpus):
    seen = {}
    for k in range(1, SHARDS + 1):
        shard(corpus, k)
        for row in DataDirectory.open(corpus / "data" / "shards" / f"{k}-of-3").manifest("train"):
            assert seen.setdefault(row.video, k) == k
    assert len(seen) == 45


def test_a_shard_that_is_whole_is_not_made_again(corpus):
    first = shard(corpus, 1)
    manifest = corpus / "data" / "shards" / "1-of-3" / "train.arrow"
    before = manifest.stat().st_mtime_ns
    (corpus / "c.jsonl").unlink()

    def unread():
        raise AssertionError("the rows are read")
        yield

    again = Source(unread(), corpus, {"probed": False})
    assert prepare_shard("jsonl", again, corpus / "data", Shard(1, 3), PROBING) == first
    assert manifest.stat().st_mtime_ns == before


def test_an_interrupted_shard_is_made_again(corpus):
    def interrupted():
        for i, entry in enumerate(jsonl.read(corpus / "c.jsonl")):
            if i == 3000:
                raise KeyboardInterrupt
            yield entry

    broken = Source(interrupted(), corpus, {"probed": False})
    with pytest.raises(KeyboardInterrupt):
        prepare_shard("jsonl", broken, corpus / "data", Shard(1, 1), PROBING)
    with pytest.raises(UserError, match=r"expected all shards of one --shard K/N in .*found none"):
        join(corpus / "data", PIECES)
    assert shard(corpus, 1, 1)["splits"]["train"]["rows"] == 4498
    join(corpus / "data", PIECES)


def test_missing_shards_are_named(corpus):
    shard(corpus, 2)
    with pytest.raises(UserError, match=r"is not whole: make --shard 1/3, 3/3 first"):
        join(corpus / "data", PIECES)
    assert not (corpus / "data" / "data.json").exists()


def test_shards_of_another_division_or_other_settings_are_refused(corpus):
    shard(corpus, 1)
    with pytest.raises(UserError, match=r"1-of-3 was made with another settings: .* remove"):
        other = source(corpus, subtitles="whole")
        prepare_shard("jsonl", other, corpus / "data", Shard(1, 3), PROBING)
    shard(corpus, 2, 2)
    with pytest.raises(UserError, match=r"found shards of \[2, 3\]: remove those of the other"):
        join(corpus / "data", PIECES)


def test_an_empty_shard_is_right_and_nothing_at_all_is_an_error(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "a", "video": "a.mp4", "end": 0}\n')
    for k in (1, 2):
        shard(tmp_path, k, 2)
    with pytest.raises(UserError, match=r"every one of 1 rows was rejected; the first is c.jsonl"):
        join(tmp_path / "data", PIECES)


def test_the_commands_prepare_shards_and_join_them(corpus, capsys):
    prepare_command = "vt_fairseq.cli.prepare"
    options = ["--annotations", str(corpus / "c.jsonl"), "--videos", str(corpus), "--skip-probe"]
    out = ["--out", str(corpus / "data")]
    for k in ("1/2", "2/2"):
        run_main(prepare_command, "jsonl", *options, *out, "--shard", k)
    run_main(prepare_command, "join", *out, "--train-vocabulary", "60")
    assert "train       4,498           3" in capsys.readouterr().out
    assert len(DataDirectory.open(corpus / "data").manifest("train")) == 4498
