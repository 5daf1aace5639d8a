"""vt-prepare: what people write by hand becomes a data directory, and mistakes are named."""

import json
import os
import resource
from pathlib import Path

import pytest

from tests import media
from tests.corpora import clip, write_jsonl
from vt_fairseq.corpora import jsonl
from vt_fairseq.corpora.prepare import Probing, VocabularyOptions, misnamed_splits, prepare
from vt_fairseq.corpora.rows import FirstSeen, Source
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary
from vt_fairseq.errors import UserError

SECONDS = 2


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Two good videos of two seconds, one in a folder, and broken ones."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    for name in ("a.mp4", "deep/b.mp4"):
        media.write_numbered(folder / name, 10 * SECONDS, rate=10)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "noise.mp4").write_bytes(b"this is no video" * 100)
    (folder.parent / "outside.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "link.mp4").symlink_to(folder.parent / "outside.mp4")
    return folder


def made(
    tmp_path: Path, videos: Path, *rows, probe=True, workers=2, vocabulary=None, **source
) -> tuple[dict, DataDirectory]:
    entries = jsonl.read(write_jsonl(tmp_path / "clips.jsonl", *rows))
    vocabulary = vocabulary or VocabularyOptions(pieces=60)
    out, opened = tmp_path / "data", Source(entries, videos, {"a": 1}, **source)
    content = prepare("jsonl", opened, out, vocabulary, Probing(probe, workers))
    return content, DataDirectory.open(out)


def rejected(tmp_path: Path) -> list[dict]:
    lines = (tmp_path / "data" / "rejected.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --- the data directory --------------------------------------------------------------------------


def test_a_prepared_directory_has_its_rows_classes_and_vocabulary(tmp_path, videos):
    summary, data = made(
        tmp_path, videos,
        clip(id="1", label="b", verb="open", noun="door"),
        clip(id="2", label="a", video="deep/b.mp4"),
        clip(id="3", label="door", split="test"),
    )  # fmt: skip
    assert summary["splits"] == {
        "train": {"rows": 2, "rejected": 0},
        "test": {"rows": 1, "rejected": 0},
    }
    assert (summary["reasons"], summary["notes"], summary["warnings"]) == ({}, [], [])
    assert (data.corpus, data.video_root, data.settings) == ("jsonl", videos, {"a": 1})
    assert [r.id for r in data.manifest("train")] == ["1", "2"]
    assert data.classes("label") == ["a", "b", "door"]
    assert (data.classes("verb"), data.classes("noun")) == (["open"], ["door"])
    tokenizer = Tokenizer.from_file(data.tokenizer_path)
    assert tokenizer.decode(tokenizer.encode("caption : a red circle")) == "caption : a red circle"
    assert rejected(tmp_path) == []


def test_broken_and_missing_videos_are_rejected_with_reasons(tmp_path, videos):
    summary, data = made(
        tmp_path, videos,
        clip(id="good"),
        clip(id="gone", video="gone.mp4"),
        clip(id="empty", video="empty.mp4", split="test"),
        clip(id="noise", video="noise.mp4"),
        clip(id="link", video="link.mp4"),
        clip(id="late", start=SECONDS + 0.5),
        clip(id="long", start=1, end=SECONDS + 100),
        clip(id="deep", video="deep/b.mp4", split="test"),
        clip(id="name", video="n" * 5000),
        "{",
    )  # fmt: skip
    assert summary["splits"] == {
        "train": {"rows": 2, "rejected": 6},
        "test": {"rows": 1, "rejected": 1},
    }
    # An end beyond the video's is kept: decoding stops where the video does.
    assert [r.id for r in data.manifest("train")] == ["good", "long"]
    found = {r["id"]: r for r in rejected(tmp_path)}
    assert found["gone"]["reason"].startswith("missing video")
    assert found["gone"]["video"] == "gone.mp4"
    assert found["empty"]["reason"].startswith("broken video: ")
    assert found["empty"]["split"] == "test"
    assert found["noise"]["reason"].startswith("broken video: ")
    assert found["link"]["reason"].startswith("outside of the folder of videos: a link")
    assert found["late"]["reason"].startswith("starts after the end: start 2.5 s, the video has 2")
    assert found["name"]["reason"].startswith("missing video")
    assert found[None]["where"] == "clips.jsonl line 10"
    assert summary["reasons"]["broken video"] == 2


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"start": 2, "end": 2}, "bad times: expected start < end"),
        ({"end": 0}, "bad times"),
        ({"start": -0.5}, "bad times"),
        ({"answer": 2, "candidates": ["a", "b"]}, "bad answer: index 2 of 2"),
        ({"answer": -1, "candidates": ["a", "b"]}, "bad answer"),
        ({"answer": 0}, "bad answer: index 0 of 0"),
        ({"answer": 10**30, "candidates": ["a"]}, "bad answer"),
        ({"label": "a\nb"}, "bad text: label has a line break"),
        ({"label": "\ud800"}, "bad text: it has half a character"),
        ({"video": "\ud800.mp4"}, "bad text: it has half a character"),
        ({"video": "http://example.org/a.mp4"}, "not a local video"),
        ({"video": "../a.mp4"}, "outside of --videos"),
        ({"split": "../train"}, "bad split"),
        ({"split": "s" * 300}, "bad split"),
    ],
)
@pytest.mark.parametrize("probe", [True, False])
def test_a_row_that_contradicts_itself_is_rejected_probed_or_not(
    tmp_path, videos, bad, reason, probe
):
    rows = (clip(), json.dumps(clip(id="y", **bad)))
    summary, _ = made(tmp_path, videos, *rows, probe=probe)
    assert summary["splits"] == {"train": {"rows": 1, "rejected": 1}}
    [found] = rejected(tmp_path)
    assert found["id"] == "y"
    assert found["reason"].startswith(reason)


def test_each_video_is_opened_once(tmp_path, videos, monkeypatch):
    import vt_fairseq.video.decoding as video

    opened, real = [], video.probe
    monkeypatch.setattr(
        video, "probe", lambda path, *more: opened.append(path.name) or real(path, *more)
    )
    made(tmp_path, videos, *(clip(id=str(i), start=i / 10000) for i in range(5000)))
    assert opened == ["a.mp4"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((clip(video="gone.mp4"), "{"), "every one of 2 rows was rejected.*line 1: missing video"),
        (("",), "no rows"),
    ],
)
def test_when_no_row_is_left_the_first_reason_is_the_error(tmp_path, videos, rows, message):
    with pytest.raises(UserError, match=message):
        made(tmp_path, videos, *rows)
    assert os.listdir(tmp_path / "data") == []


def test_a_second_run_gives_the_same_bytes(tmp_path, videos):
    rows = [clip(id=str(i), caption=f"a circle {i}", label=f"l{i % 3}") for i in range(20)]
    made(tmp_path, videos, *rows)
    first = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    made(tmp_path, videos, *rows, workers=7)
    assert {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()} == first


def test_a_failing_run_leaves_the_directory_as_it_was(tmp_path, videos):
    made(tmp_path, videos, clip())
    first = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    with pytest.raises(UserError, match="unknown key"):
        made(tmp_path, videos, clip(id="other"), clip(id="y", typo=1))
    assert {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()} == first


# --- what the user should know -------------------------------------------------------------------


def test_rows_that_differ_from_the_published_ones_are_explained(tmp_path, videos):
    found, _ = made(
        tmp_path, videos,
        clip(id="1"), clip(id="2", video="gone.mp4"), clip(id="3", split="valid"),
        published={"train": 2, "valid": 9, "test": 5}, published_at="example.org",
    )  # fmt: skip
    assert found["notes"] == [
        "train: 1 of 2 rows are left out; what is measured on it is measured on 1, published "
        "results on 2",
        "valid: the annotations have 1 rows, fewer than the 9 of the published files; they are "
        "another release, or incomplete",
        "test: the annotations have none of its 5 published rows; they are at example.org",
    ]
    assert json.loads((tmp_path / "data" / "data.json").read_text())["notes"] == found["notes"]


def test_rounded_published_numbers_have_a_tolerance(tmp_path, videos):
    rows = [clip(id=str(i)) for i in range(99)]
    found, _ = made(tmp_path, videos, *rows, published={"train": 100}, tolerance=0.01)
    assert not found["notes"]
    found, _ = made(tmp_path, videos, *rows, published={"train": 102}, tolerance=0.01)
    [note] = found["notes"]
    assert note.startswith("train: the annotations have 99 rows, fewer than the 102")


@pytest.mark.parametrize(
    ("contexts", "wanted", "warned"),
    [
        ([None, None, "said"], False, True),
        ([None, "said"], False, False),
        ([None, None, "said"], True, True),
        ([None, None], True, True),
        ([None, None], False, False),
        (["said"], True, False),
    ],
)
def test_a_context_that_most_rows_lack_is_an_alarm(tmp_path, videos, contexts, wanted, warned):
    rows = [clip(id=str(i), context=context) for i, context in enumerate(contexts)]
    warnings = made(tmp_path, videos, *rows, context=wanted)[0]["warnings"]
    assert bool(warnings) == warned
    if warned:
        having = sum(context is not None for context in contexts)
        assert warnings[0].startswith(
            f"train: only {having} of {len(contexts)} rows have a context"
        )


def test_a_corpus_keeps_its_own_classes_and_their_order(tmp_path, videos):
    rows = [clip(id="1", verb="open"), clip(id="2", verb="close")]
    _, data = made(tmp_path, videos, *rows, classes={"verb": ["take", "open", "close"]})
    assert data.classes("verb") == ["take", "open", "close"]


def test_free_text_where_a_class_belongs_is_refused_before_memory_is_full(
    tmp_path, videos, monkeypatch
):
    monkeypatch.setattr("vt_fairseq.corpora.prepare.MAX_CLASSES", 2)
    rows = [clip(id=str(i), label=f"said {i}") for i in range(3)]
    with pytest.raises(UserError, match=r"clips.jsonl line 3: more than 2 different values of 'l"):
        made(tmp_path, videos, *rows)


def test_a_vocabulary_is_trained_on_a_bounded_sample(tmp_path, videos, monkeypatch):
    monkeypatch.setattr("vt_fairseq.corpora.prepare.VOCABULARY_ROWS", 10)
    seen, model = [], train_vocabulary(["a red circle"], 60)
    monkeypatch.setattr(
        "vt_fairseq.corpora.prepare.train_vocabulary",
        lambda texts, pieces: seen.extend(texts) or model,
    )
    made(tmp_path, videos, *(clip(id=str(i), caption=f"text {i}") for i in range(95)))
    assert [text for text in seen if text.startswith("text")] == [
        f"text {i}" for i in range(0, 95, 10)
    ]


def test_many_keys_are_remembered_in_little_memory():
    seen = FirstSeen()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(seen.earlier(f"some clip {i}", f"line {i}") is None for i in range(500_000))
    assert seen.earlier("some clip 77", "line 999999") == "line 77"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60 * 1024  # KiB; a dictionary of them takes 95 MiB


# --- what the user should know -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (["Train", "valid"], ["split 'Train': did you mean 'train'?"]),
        (
            ["trian", "val"],
            ["split 'trian': did you mean 'train'?", "split 'val': did you mean 'va"],
        ),
        (["train", "validation"], ["split 'validation': did you mean 'valid'?"]),
        (
            ["TRAIN", "train", "Dev"],
            ["split 'TRAIN': did you mean 'train', beside", "split 'Dev': d"],
        ),
        (["train", "valid", "valid1", "dev", "pretrain", "test", "novel", "train_small"], []),
        (["test"], []),
    ],
)
def test_a_split_whose_name_is_misspelled_is_said(splits, said):
    warnings = misnamed_splits(splits)
    assert len(warnings) == len(said)
    assert all(w.startswith(text) for w, text in zip(warnings, said, strict=True)), warnings


def test_a_vocabulary_that_lacks_the_split_train_says_which_may_be_meant(tmp_path, videos):
    with pytest.raises(UserError, match=r"splits Train \(split 'Train': did you mean 'train'\?"):
        made(tmp_path, videos, clip(split="Train"))


def test_captions_that_are_all_equal_and_a_single_class_are_warned_of(tmp_path, videos):
    rows = [clip(id=str(i), label="jump", verb=f"verb {i}") for i in range(10)]
    content, _ = made(tmp_path, videos, *rows, *(clip(id=str(i), split="test") for i in range(9)))
    assert content["warnings"] == [
        f"train: {field} is {text!r} in all 10 rows that were looked at and have one: there is "
        "nothing to learn or to measure in it"
        for field, text in (("caption", "a red circle"), ("label", "jump"))
    ]
    rows[1]["caption"], rows[9]["label"] = "a blue circle", "fall"
    assert made(tmp_path, videos, *rows)[0]["warnings"] == []


def test_the_lengths_of_captions_and_the_share_that_training_cuts_are_counted(tmp_path, videos):
    long = " ".join(["red circle"] * 20)
    rows = [clip(id=str(i), caption=long if i == 0 else f"circle {i}") for i in range(4)]
    content, data = made(tmp_path, videos, *rows, clip(id="x", label="a", split="test"))
    tokenizer = Tokenizer.from_file(data.tokenizer_path)
    short, longest = len(tokenizer.encode("circle 1")), len(tokenizer.encode(long))
    assert short < 20 < longest  # the paper's limit for captions
    assert content["caption_tokens"]["train"] == {
        "texts": 4,
        "median": short,
        "percentile_95": longest,
        "longest": longest,
        "limit": 20,
        "above_limit": 1,
    }


# --- vocabulary ----------------------------------------------------------------------------------


def test_the_vocabulary_is_given_exactly_once(tmp_path):
    for given in ((), (tmp_path / "spiece.model", 60)):
        with pytest.raises(UserError, match=r"exactly one of --vocabulary .* --train-vocabulary"):
            VocabularyOptions(*given)


def test_a_given_vocabulary_is_copied(tmp_path, videos):
    _, data = made(tmp_path, videos, clip())
    spiece = tmp_path / "spiece.model"
    os.rename(data.tokenizer_path, spiece)
    _, data = made(tmp_path, videos, clip(), vocabulary=VocabularyOptions(spiece))
    assert data.tokenizer_path.read_bytes() == spiece.read_bytes()


def test_texts_that_the_vocabulary_cannot_spell_are_counted_and_warned_of_per_split(
    tmp_path, videos
):
    spiece = tmp_path / "spiece.model"
    spiece.write_bytes(train_vocabulary(["a red circle jumps"] * 9, 60))
    rows = [
        clip(id="1"),
        clip(id="2", caption=["红色的圆", "a red 圆"], context="a circle"),
        clip(id="3", split="test"),
    ]
    content, _ = made(tmp_path, videos, *rows, vocabulary=VocabularyOptions(spiece))
    assert content["unknown_text"] == {
        "train": {"texts": 4, "affected": 2, "lost": 1, "rows": 0},
        "test": {"texts": 1, "affected": 0, "lost": 0, "rows": 0},
    }
    [warning] = content["warnings"]
    assert warning.startswith(
        "2 of 4 texts of the split train have characters that the vocabulary lacks, and 1 of them "
        "hold nothing else (the first: '红色的圆')"
    )


def test_a_file_that_is_no_vocabulary_is_refused(tmp_path):
    bad = tmp_path / "bad.model"
    bad.write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"bad.model is not a sentencepiece model"):
        VocabularyOptions(bad)


def test_a_vocabulary_needs_training_rows(tmp_path, videos):
    with pytest.raises(UserError, match="--train-vocabulary needs rows in the split 'train'"):
        made(tmp_path, videos, clip(split="test"))
    assert not (tmp_path / "data" / "data.json").exists()


def test_every_character_of_the_training_texts_can_be_spelled(tmp_path, videos):
    # One line longer than the trainer's longest, 4192 bytes, the only one with a "ž" in it.
    rows = [clip(context="žluť " * 1000, question="which ?")]
    _, data = made(tmp_path, videos, *rows, vocabulary=VocabularyOptions(pieces=200))
    tokenizer = Tokenizer.from_file(data.tokenizer_path)
    for text in ("žluť", "which"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.data
def test_the_captioned_youtube_clips_are_prepared_whole(tmp_path, test_data):
    folder = test_data / "video" / "clips" / "panda70m"
    captions = json.loads((folder / "captions.json").read_text())
    rows = [{"id": c["file"], "video": c["file"], "caption": c["caption"]} for c in captions]
    vocabulary = VocabularyOptions(test_data / "t5" / "spiece.model")
    summary, data = made(tmp_path, folder, *rows, vocabulary=vocabulary)
    assert summary["splits"] == {"train": {"rows": 48, "rejected": 0}}
    assert Tokenizer.from_file(data.tokenizer_path).num_pieces == 32_000


@pytest.mark.data
def test_the_odd_videos_are_sorted_into_readable_and_rejected(tmp_path, test_data):
    names = (
        "decord/video_90.mov", "moviepy/fire2.mp4", "moviepy/result.webm", "moviepy/crunching.mp3",
        "mp4parse/chunk_out_of_range.mp4",
    )  # fmt: skip
    rows = (clip(id=name, video=name) for name in names)
    _, data = made(tmp_path, test_data / "video" / "odd", *rows)
    assert [r.id for r in data.manifest("train")] == list(names[:2])
    assert [r["id"] for r in rejected(tmp_path)] == list(names[2:])
