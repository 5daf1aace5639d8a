"""MSR-VTT: captions, the 1k-A retrieval split and its training lists; rows looked up by hand."""

import gzip
import json
from pathlib import Path

import pytest

from tests.corpora import (
    by_id,
    outline,
    real_corpus,
    rejected,
    rows,
    vt_prepare,
    warnings_of_rows,
)
from vt_fairseq.corpora.msrvtt import TRAIN_LISTS, open_corpus, read_captions, read_list
from vt_fairseq.miniworld.official_layouts import annotation_files
from vt_fairseq.miniworld.world import SIZES

OVERLAP = (
    "train_9k: 1,990 of its videos are in the official test set; a model that is trained on it "
    "must not be scored on the split test, only on retrieval"
)


real = real_corpus("msrvtt", "msrvtt")


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
    assert warnings_of_rows(content) == [OVERLAP]


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
    assert warnings_of_rows(content) == [OVERLAP]
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


# --- MiniWorld's files ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in annotation_files("msrvtt", SIZES["tiny"]).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_times_of_the_source_are_not_used_and_odd_numbers_of_captions_are_counted(folder):
    source = open_corpus(folder, folder)
    assert {(row.start, row.end) for row in rows(source)["train"]} == {(None, None)}
    assert source.notes == ["40 videos have another number of captions than 20"]


def test_test_videos_in_a_training_list_are_warned_of(folder):
    [warning] = open_corpus(folder, folder).warnings
    assert warning.startswith("train_9k: 5 of its videos are in the official test set")


def test_a_listed_video_without_captions_is_rejected(folder):
    (folder / "MSRVTT_train.7k.csv").write_text("video_id\nvideo0\nvideo77\n")
    [found] = rejected(open_corpus(folder, folder))
    assert (found.id, found.where) == ("video77", "MSRVTT_train.7k.csv line 3")
    assert found.reason.startswith("no caption")


def test_the_same_videos_in_two_files_do_not_have_their_captions_twice(tmp_path):
    def write(name: str, *videos: str) -> None:
        content = {
            "videos": [{"video_id": video, "split": "train"} for video in videos],
            "sentences": [
                {"video_id": video, "caption": f"caption {k} of {video}"}
                for k in range(20)
                for video in videos
            ],
        }
        (tmp_path / name).write_text(json.dumps(content))

    write("videodatainfo_2017.json", "video0", "video1")
    write("train_val_videodatainfo.json", "video1", "video2")
    _, captions = read_captions(tmp_path)
    expected = {f"video{v}": [f"caption {k} of video{v}" for k in range(20)] for v in range(3)}
    assert captions == expected
