"""TVC: the official files, rows looked up in them by hand, and the layout of train and valid."""

import pytest

from tests.corpora import by_id, real_corpus, write_jsonl
from vt_fairseq.corpora.tvc import open_corpus
from vt_fairseq.errors import UserError

real = real_corpus("tvc", "tvc", "--subtitles", "none")


@pytest.mark.data
def test_the_count_is_the_published_one(real):
    data, content = real
    assert data.splits == {"test": {"rows": 5_420, "rejected": 0}}
    assert [note.split(":")[0] for note in content["notes"]] == ["train", "valid"]
    ids = [int(row.id) for row in data.manifest("test")]
    assert (min(ids), max(ids), len(set(ids))) == (102_866, 108_285, 5_420)
    assert not any(row.captions for row in data.manifest("test"))


# clip_id: folder, clip, start, end; from tvc_test_public_release.jsonl.
TEST = {
    "102880": ("castle", "castle_s06e13_seg02_clip_02", 5.41, 7.67),
    "102909": ("friends", "friends_s01e09_seg02_clip_04", 0, 43.06),
    "103042": ("friends", "friends_s05e22_seg02_clip_10", 8.12, 27.73),
    "103903": ("castle", "castle_s08e04_seg02_clip_06", 2.38, 6.65),
    "103949": ("friends", "friends_s09e08_seg02_clip_17", 12.53, 16.82),
    "104224": ("friends", "friends_s01e07_seg02_clip_14", 42.92, 43.82),
    "104229": ("bbt", "s10e04_seg02_clip_07", 59.55, 61.79),
    "104354": ("bbt", "s05e19_seg02_clip_07", 2.17, 6.51),
    "104478": ("friends", "friends_s01e13_seg02_clip_16", 11.2, 13.73),
    "104495": ("castle", "castle_s01e02_seg02_clip_08", 59.36, 61.85),
    "104543": ("bbt", "s02e11_seg02_clip_07", 39.7, 46.21),
    "104581": ("bbt", "s04e04_seg02_clip_00", 26.36, 31.32),
    "104631": ("grey", "grey_s02e01_seg02_clip_02", 8.75, 16.18),
    "105235": ("bbt", "s08e05_seg01_clip_00", 26.24, 30.21),
    "105313": ("friends", "friends_s01e09_seg02_clip_14", 21.05, 24.41),
    "105435": ("friends", "friends_s06e11_seg02_clip_07", 17.39, 30.82),
    "105824": ("friends", "friends_s06e15-16_seg02_clip_12", 18.82, 43.92),
    "106005": ("castle", "castle_s01e02_seg02_clip_02", 0, 1.8),
    "107283": ("friends", "friends_s04e19_seg02_clip_00", 9.77, 13.24),
    "107991": ("castle", "castle_s04e03_seg02_clip_06", 22.38, 24.21),
}


@pytest.mark.data
def test_twenty_rows_are_as_they_stand_in_the_file(real):
    found = by_id(real[0], "test")
    for clip_id, (show, clip, start, end) in TEST.items():
        row = found[clip_id]
        assert (row.video, row.start, row.end) == (f"{show}_frames/{clip}", start, end)


# --- synthetic files -----------------------------------------------------------------------------


def test_descriptions_are_on_one_line_without_any_a_row_is_rejected_and_test_has_none(tmp_path):
    moment = {"vid_name": "s08e08_seg01_clip_00", "ts": [5.8, 8.24]}
    for file, texts in (
        ("tvc_train_release.jsonl", ("Phoebe turns .", " She  waves. ")),
        ("tvc_val_release.jsonl", ("", " ")),
        ("tvc_test_public_release.jsonl", ("held back",)),
    ):
        record = moment | {"clip_id": 7, "descs": [{"desc": text} for text in texts]}
        write_jsonl(tmp_path / file, record)
    train, valid, test = open_corpus(tmp_path, tmp_path, "none").rows
    assert train.row.captions == ("Phoebe turns .", "She waves.")
    assert valid.reason == "empty text: no description has any"
    assert valid.where == "tvc_val_release.jsonl line 1"
    assert test.row.captions == ()


@pytest.mark.data
def test_a_file_of_the_sister_corpus_is_refused(test_data, tmp_path):
    """TVR's release has the same clips and one description per line, under another key."""
    tvr = test_data / "annotations" / "tvc" / "tvr_val_release.jsonl"
    (tmp_path / "tvc_val_release.jsonl").write_bytes(tvr.read_bytes())
    with pytest.raises(UserError, match=r"tvc_val_release.jsonl line 1: expected a .* clip_id"):
        list(open_corpus(tmp_path, tmp_path, "none").rows)
