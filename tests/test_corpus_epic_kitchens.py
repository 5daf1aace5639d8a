"""EPIC-Kitchens-55: the official CSVs, their counts, and rows looked up in them by hand."""

import pytest

from tests.corpora import by_id, real_corpus, rows
from vt_fairseq.corpora.epic_kitchens import open_corpus
from vt_fairseq.miniworld.official_layouts import annotation_files
from vt_fairseq.miniworld.world import SIZES

real = real_corpus("epic-kitchens", "epic_kitchens_55")


# --- the real files ------------------------------------------------------------------------------


@pytest.mark.data
def test_the_counts_are_the_published_ones(real):
    data, content = real
    assert {split: counts["rows"] for split, counts in data.splits.items()} == {
        "train": 23_191, "valid": 5_281, "test_s1": 8_047, "test_s2": 2_929,
    }  # fmt: skip
    assert content["notes"] == content["warnings"] == []
    # Every class of the challenge, at the line of its number, though train shows 119 and 321.
    verbs, nouns = data.classes("verb"), data.classes("noun")
    assert (len(verbs), len(nouns)) == (125, 352)
    assert (verbs[0], verbs[12], nouns[0], nouns[2]) == ("take", "turn on", "nothing", "dust pan")
    shown = [row for split in ("train", "valid") for row in data.manifest(split)]
    assert len({row.verb for row in shown}) == 119
    assert len({row.noun for row in shown}) == 321
    assert len({row.label for row in shown}) == len(data.classes("label")) == 2_513
    assert {row.video[:3] for row in data.manifest("train")}.isdisjoint(
        {row.video[:3] for row in data.manifest("valid")}
    )


# uid: video, start, stop, verb, noun, narration; from EPIC_train_action_labels.csv and the tables.
TRAIN = {
    "1740": ("P01_09", 2940.02, 2941.82, "turn off", "tap", "turn off tap"),
    "3667": ("P01_18", 2424.24, 2425.49, "take", "chopping board", "take cutting board"),
    "9721": ("P04_21", 146.72, 150.14, "put", "kitchen towel", "put kitchen roll in bin"),
    "10449": ("P05_03", 574.88, 575.63, "put", "spoon", "place wooden spoon on refrigerator"),
    "15033": ("P08_23", 159.36, 173.95, "cut", "spring onion", "cut spring onion"),
    "15561": ("P08_27", 170.05, 173.27, "wash", "chopping board", "washing cutting board"),
    "16616": ("P10_04", 1497.06, 1501.65, "crush", "garlic", "hit the garlic using knife"),
    "28626": ("P22_17", 526.59, 527.44, "open", "basket", "open basket"),
    "30949": ("P24_08", 1302.73, 1303.48, "put", "plate", "put down plate"),
}
VALID = {
    "33151": ("P27_06", 701.74, 703.55, "open", "tap", "open tap"),
    "33339": ("P28_01", 259.01, 259.83, "put", "spatula", "put down spatula"),
    "33384": ("P28_02", 74.63, 75.5, "take", "washing liquid", "take dish washing liquid"),
    "35495": ("P29_03", 1000.94, 1001.83, "put", "fork", "put down fork"),
    "35675": ("P29_03", 1690.39, 1692.65, "put", "scale", "put scale in cupboard"),
    "35684": ("P29_03", 1730.92, 1732.19, "turn off", "tap", "turn off tap"),
    "37086": ("P30_05", 1271.54, 1272.98, "sample", "chilli", "taste"),
}
TESTS = {
    "test_s1": {"14318": ("P08_17", 1.84, 3.62), "23090": ("P22_01", 515.76, 516.68)},
    "test_s2": {"17029": ("P11_03", 81.1, 82.6), "20965": ("P18_07", 146.56, 148.43)},
}


@pytest.mark.data
def test_twenty_rows_are_as_they_stand_in_the_files(real):
    data, _ = real
    for split, expected in (("train", TRAIN), ("valid", VALID)):
        found = by_id(data, split)
        for uid, (video, start, end, verb, noun, narration) in expected.items():
            row = found[uid]
            assert (row.video, row.group) == (f"{video[:3]}/{video}.MP4", video)
            assert (row.start, row.end) == (start, end)
            assert (row.verb, row.noun, row.label) == (verb, noun, f"{verb} {noun}")
            assert row.captions == (narration,)
    for split, expected in TESTS.items():
        found = by_id(data, split)
        for uid, (video, start, end) in expected.items():
            row = found[uid]
            assert (row.video, row.start, row.end) == (f"{video[:3]}/{video}.MP4", start, end)
            assert (row.verb, row.noun, row.label, row.captions) == (None, None, None, ())


# --- synthetic files -----------------------------------------------------------------------------


def test_columns_are_read_by_name_and_class_keys_become_readable(tmp_path):
    files = annotation_files("epic-kitchens", SIZES["tiny"]) | {
        "EPIC_verb_classes.csv": "verb_id,class_key\n0,turn-on\n",
        "EPIC_train_action_labels.csv": "noun_class,verb_class,stop_timestamp,start_timestamp,"
        "narration,video_id,uid,participant_id\n"
        "1,0,01:00:02.25,00:00:01.50,take it,P26_01,3,P26\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    source = open_corpus(tmp_path, tmp_path)
    row = rows(source)["valid"][0]
    assert (row.id, row.label, row.start, row.end) == ("3", "turn on red square", 1.5, 3602.25)
    assert source.notes == [  # the nouns are MiniWorld's
        "verbs: 1 classes, the published table has 125",
        "nouns: 25 classes, the published table has 352",
    ]
