"""MSR-VTT: captions, the 1k-A retrieval split and its training lists; rows looked up by hand."""

import gzip
import json
from pathlib import Path

import pytest

from tests.corpora import by_id, outline, prepare_real, rejected, rows, vt_prepare
from vt_fairseq.corpora.msrvtt import TRAIN_LISTS, open_corpus, read_list

OVERLAP = (
    "train_9k: 1,990 of its videos are in the official test set; a model that is trained on it "
    "must not be scored on the split test, only on retrieval"
)


@pytest.fixture(scope="module")
def real(test_data, tmp_path_factory):
    return prepare_real("msrvtt", "msrvtt", test_data, tmp_path_factory.mktemp("msrvtt"))


@pytest.fixture(scope="module")
def official_schema(test_data, tmp_path_factory):
    """The official info file's list of 10,000 videos; 7,110 of them have sentences (Italian)."""
    folder, out = tmp_path_factory.mktemp("info"), tmp_path_factory.mktemp("msrvtt_info")
    real = test_data / "annotations" / "msrvtt"
    [info] = real.glob("videodatainfo*.json.gz")
    (folder / "videodatainfo_2017.json").write_bytes(gzip.decompress(info.read_bytes()))
    for path in real.glob("*.csv"):
        (folder / path.name).write_bytes(path.read_bytes())
    return vt_prepare("msrvtt", folder, out, test_data / "t5" / "spiece.model")


# --- the real files ------------------------------------------------------------------------------


@pytest.mark.data
def test_the_test_set_has_2990_videos_with_20_captions_and_1k_a_is_inside(real):
    data, content = real
    test = by_id(data, "test")
    assert data.splits["test"] == {"rows": 2_990, "rejected": 0}
    assert {len(row.captions) for row in test.values()} == {20}
    retrieval = list(data.manifest("retrieval"))
    assert data.splits["retrieval"] == {"rows": 1_000, "rejected": 0}
    assert {row.id for row in retrieval} <= set(test)
    assert len({row.captions for row in retrieval}) == 995
    assert content["warnings"] == [OVERLAP]


@pytest.mark.data
def test_the_official_split_and_the_training_lists_have_the_published_sizes(official_schema):
    data, content = official_schema
    assert {split: sum(counts.values()) for split, counts in data.splits.items()} == {
        "train": 6_513, "valid": 497, "test": 2_990,
        "train_7k": 7_010, "train_9k": 9_000, "retrieval": 1_000,
    }  # fmt: skip
    assert {split: counts["rejected"] for split, counts in data.splits.items()} == {
        "train": 0, "valid": 0, "test": 2_890, "train_7k": 0, "train_9k": 1_903, "retrieval": 0,
    }  # fmt: skip
    assert content["reasons"] == {"no caption": 4_793}
    assert {len(row.captions) for row in data.manifest("train")} == {20}
    official = {s: {r.id for r in data.manifest(s)} for s in ("train", "valid")}
    listed = {row.id for row in data.manifest("train_7k")}
    assert listed == official["train"] | official["valid"]
    assert content["warnings"] == [OVERLAP]
    assert (
        "test: 2,890 of 2,990 rows are left out; what is measured on it is measured on 100, "
        "published results on 2,990"
    ) in content["notes"]


# position in MSRVTT_JSFUSION_test.csv: video, outline of the sentence.
RETRIEVAL = {
    9: ("video9779", ("fireworks", "sky", 10)),
    374: ("video8482", ("late", "preview", 5)),
    385: ("video7220", ("threee", "voice", 7)),
    428: ("video7597", ("a", "car", 7)),
    592: ("video8499", ("men", "room", 5)),
    806: ("video9807", ("a", "outside", 8)),
    861: ("video9579", ("two", "voices", 7)),
}
# video: outlines of its first and its last caption.
TEST = {
    "video7201": (("a", "dog", 10), ("a", "it", 13)),
    "video7497": (("a", "studio", 10), ("a", "east", 11)),
    "video7751": (("a", "up", 6), ("two", "camera", 7)),
    "video7814": (("a", "played", 6), ("several", "shown", 7)),
    "video8864": (("a", "shooting", 11), ("a", "news", 7)),
    "video9564": (("a", "models", 7), ("someone", "origami", 4)),
    "video9908": (("a", "shown", 6), ("teacher", "childrens", 4)),
}
LISTS = {
    "train_7k": {2015: "video2814", 6190: "video6572", 6713: "video733"},
    "train_9k": {5642: "video5642", 7572: "video7878", 8396: "video9122"},
}


@pytest.mark.data
def test_twenty_rows_are_as_they_stand_in_the_files(real, test_data):
    data, _ = real
    retrieval = data.manifest("retrieval")
    for index, (video, sentence) in RETRIEVAL.items():
        row = retrieval[index]
        assert (row.id, row.video, row.start, row.end) == (video, f"{video}.mp4", None, None)
        assert [outline(c) for c in row.captions] == [sentence]
    test = by_id(data, "test")
    for video, (first, last) in TEST.items():
        row = test[video]
        assert row.video == f"{video}.mp4"
        assert (outline(row.captions[0]), outline(row.captions[-1])) == (first, last)
    for split, expected in LISTS.items():
        listed = read_list(test_data / "annotations" / "msrvtt" / TRAIN_LISTS[split])
        assert {index: listed[index][1] for index in expected} == expected


# --- synthetic files -----------------------------------------------------------------------------


def video(number: int, split: str) -> dict:
    return {
        "category": 9, "url": "https://www.youtube.com/watch?v=x", "video_id": f"video{number}",
        "start time": 137.72, "end time": 149.44, "split": split, "id": number,
    }  # fmt: skip


def sentence(number: int, caption: str) -> dict:
    return {"caption": caption, "video_id": f"video{number}", "sen_id": number}


def write(folder: Path, name: str, videos: list, sentences: list) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"info": {}, "videos": videos, "sentences": sentences}))
    return folder


SENTENCES = [sentence(1, "b one"), sentence(0, "a  one"), sentence(1, "b two"), sentence(2, "c")]


def test_sentences_are_grouped_by_video_and_times_of_the_source_are_not_used(tmp_path):
    videos = [video(0, "train"), video(1, "validate"), video(2, "test")]
    source = open_corpus(write(tmp_path, "videodatainfo_2017.json", videos, SENTENCES), tmp_path)
    found = rows(source)
    assert {s: [r.captions for r in r] for s, r in found.items()} == {
        "train": [("a one",)], "valid": [("b one", "b two")], "test": [("c",)],
    }  # fmt: skip
    assert (found["train"][0].start, found["train"][0].end) == (None, None)
    assert source.notes == ["3 videos have another number of captions than 20"]


def test_the_two_official_halves_are_read_together(tmp_path):
    write(tmp_path, "train_val_videodatainfo.json", [video(0, "train")], SENTENCES[1:2])
    write(tmp_path, "test_videodatainfo.json", [video(2, "test")], SENTENCES[3:])
    assert set(rows(open_corpus(tmp_path, tmp_path))) == {"train", "test"}


def test_training_lists_have_all_captions_and_the_overlap_is_warned_of(tmp_path):
    write(tmp_path, "videodatainfo_2017.json", [video(1, "train"), video(2, "test")], SENTENCES)
    (tmp_path / "MSRVTT_train.9k.csv").write_text("video_id\nvideo1\nvideo2\n")
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nvideo1\n")
    source = open_corpus(tmp_path, tmp_path)
    found = rows(source)
    assert [r.captions for r in found["train_9k"]] == [("b one", "b two"), ("c",)]
    assert [r.id for r in found["train_7k"]] == ["video1"]
    [warning] = source.warnings
    assert warning.startswith("train_9k: 1 of its videos are in the official test set")


def test_a_listed_video_without_captions_is_rejected(tmp_path):
    write(tmp_path, "videodatainfo_2017.json", [video(0, "train")], SENTENCES)
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nvideo0\nvideo77\n")
    [found] = rejected(open_corpus(tmp_path, tmp_path))
    assert (found.id, found.where) == ("video77", "MSRVTT_train.7k.csv line 3")
    assert found.reason.startswith("no caption")
