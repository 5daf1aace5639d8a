"""YouCook2: captioning split and HowTo100M's retrieval protocol, with rows looked up by hand."""

import pytest

from tests.corpora import by_id, outline, real_corpus

real = real_corpus("youcook2", "youcook2")


@pytest.mark.data
def test_the_counts_are_the_published_ones(real):
    data, content = real
    assert {split: counts["rows"] for split, counts in data.splits.items()} == {
        "train": 10_337, "valid": 3_492, "retrieval": 3_350,
    }  # fmt: skip
    videos = {split: {row.group for row in data.manifest(split)} for split in data.splits}
    assert {split: len(names) for split, names in videos.items()} == {
        "train": 1_333, "valid": 457, "retrieval": 436,
    }  # fmt: skip
    assert videos["retrieval"] < videos["valid"] and not videos["train"] & videos["valid"]
    assert content["warnings"] == []
    assert content["notes"] == [
        "retrieval: 2 rows are one segment, oJZUxU9szWA 120-252 s; their scores tie"
    ]
    assert len({row.captions for row in data.manifest("retrieval")}) == 3_273


@pytest.mark.data
def test_every_retrieval_clip_is_a_segment_of_the_validation_set(real):
    data, _ = real
    segments = {(r.group, r.start, r.end) for r in data.manifest("valid")}
    assert all((r.group, r.start, r.end) in segments for r in data.manifest("retrieval"))


# split: (video, annotation id or row): start, end, outline of the sentence.
ROWS = {
    "train": {
        "SlR-Yh3gebM_5": (180, 206, ("add", "blender", 8)),
        "BFz-pqB2Opw_0": (60, 77, ("add", "chicken", 12)),
        "9gCiWOadMuc_2": (88, 93, ("add", "pepper", 4)),
        "HxehEvClhQI_2": (82, 113, ("add", "mix", 7)),
        "LA6DXaQ5vGQ_3": (113, 122, ("add", "pan", 10)),
        "vmTP3k22f0I_5": (173, 190, ("spread", "basil", 13)),
        "f9mlIEtVt5s_2": (58, 78, ("heat", "it", 15)),
        "oP6PR4KfH0A_4": (137, 147, ("add", "tray", 5)),
    },
    "valid": {
        "3dUm-m3iFaI_6": (261, 280, ("pour", "garlic", 11)),
        "N35UyfIwhVI_2": (65, 87, ("mix", "together", 8)),
        "ffyHeyRpYvo_2": (64, 74, ("brown", "aside", 13)),
        "eHk6NSLGAkc_7": (136, 148, ("simmer", "soup", 3)),
        "-Ju39A-G0Dk_7": (247, 256, ("add", "pot", 6)),
        "m9gNbLw0Dcg_0": (72, 85, ("add", "wok", 5)),
    },
    "retrieval": {
        "a4RwXrA1hiE_0074": (100, 113, ("heat", "pan", 10)),
        "c9eELn4axpg_0093": (116, 139, ("lay", "rack", 7)),
        "5Pa79r5Q-ZI_1464": (120, 127, ("divide", "jar", 10)),
        "DrXVuj1Qowo_1655": (108, 119, ("close", "min", 19)),
        "IDu5czNIM1w_2248": (23, 44, ("peel", "them", 6)),
        "2IcWR76i1bo_3071": (126, 130, ("shred", "cauliflowers", 7)),
    },
}


@pytest.mark.data
def test_twenty_rows_are_as_they_stand_in_the_files(real):
    assert sum(map(len, ROWS.values())) == 20
    for split, expected in ROWS.items():
        found = by_id(real[0], split)
        for name, (start, end, sentence) in expected.items():
            row = found[name]
            video = name.rpartition("_")[0]
            assert (row.video, row.group) == (f"{video}.mp4", video)
            assert (row.start, row.end) == (start, end)
            [caption] = row.captions
            assert outline(caption) == sentence
