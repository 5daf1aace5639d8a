"""YouCook2: captioning split and HowTo100M's retrieval protocol, with rows looked up by hand."""

import json
from pathlib import Path

import pytest

from tests.corpora import by_id, outline, prepare_real, rows
from vt_fairseq.corpora.youcook2 import open_corpus
from vt_fairseq.errors import UserError


@pytest.fixture(scope="module")
def real(test_data, tmp_path_factory):
    return prepare_real("youcook2", "youcook2", test_data, tmp_path_factory.mktemp("youcook2"))


# --- the real files ------------------------------------------------------------------------------


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


# --- synthetic files -----------------------------------------------------------------------------


def write(folder: Path, retrieval: str | None = None, **video) -> Path:
    folder.mkdir(exist_ok=True)
    annotation = {"segment": [90, 102], "id": 0, "sentence": "spread it"}
    entry = {"duration": 200, "subset": "training", "recipe_type": "113"}
    entry |= {"annotations": [annotation]} | video
    content = json.dumps({"database": {"-Ld3aX16zBg": entry}})
    (folder / "youcookii_annotations_trainval.json").write_text(content)
    if retrieval is not None:
        (folder / "validation_youcook.csv").write_text(retrieval)
    return folder


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("-Ld3aX16zBg.webm", "-Ld3aX16zBg.webm"),
        ("training/113/-Ld3aX16zBg.mkv", "training/113/-Ld3aX16zBg.mkv"),
        (None, "-Ld3aX16zBg.mp4"),
    ],
)
def test_videos_lie_flat_or_in_the_official_folders(tmp_path, path, expected):
    if path:
        (tmp_path / "v" / path).parent.mkdir(parents=True)
        (tmp_path / "v" / path).touch()
    [row] = rows(open_corpus(write(tmp_path / "a"), tmp_path / "v"))["train"]
    assert row.video == expected


def test_without_the_retrieval_file_there_is_no_retrieval_split(tmp_path):
    assert set(rows(open_corpus(write(tmp_path), tmp_path))) == {"train"}


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"subset": "test"}, r"trainval.json video -Ld3aX16zBg: expected subset training or val"),
        ({"annotations": [{"id": 3, "segment": [1], "sentence": "x"}]},
         r"trainval.json video -Ld3aX16zBg annotation 3: expected segment to be \[start, end\]"),
        ({"annotations": [{"id": 3, "segment": ["soon", 2], "sentence": "x"}]},
         r"annotation 3: expected a number as segment, found 'soon'"),
        ({"annotations": [{"id": 3, "segment": [1, 2], "sentence": " "}]},
         r"annotation 3: sentence is empty"),
        ({"annotations": [{"id": 3, "segment": [1, 2]}]}, r"annotation 3: no key 'sentence'"),
        ({"annotations": {}}, r"video -Ld3aX16zBg: expected annotations to be list"),
    ],
)  # fmt: skip
def test_a_wrong_video_is_refused_with_its_file_and_place(tmp_path, video, message):
    with pytest.raises(UserError, match=message):
        list(open_corpus(write(tmp_path, **video), tmp_path).rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("start,task,text,video_id\n", r"validation_youcook.csv: no column end; expected end, st"),
        ("end,start,task,text,video_id\n9,x,1,t,v\n", r"youcook.csv line 2: expected a number as"),
        ("end,start,task,text,video_id\n9,1,1,t\n", r"line 2: expected 5 fields, found 4"),
        ("", r"validation_youcook.csv: no column end, start"),
    ],
)
def test_a_wrong_retrieval_file_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        list(open_corpus(write(tmp_path, retrieval=content), tmp_path).rows)


def test_another_file_and_a_cut_off_one_are_refused(tmp_path):
    folder = write(tmp_path)
    path = folder / "youcookii_annotations_trainval.json"
    whole = path.read_text()
    for content, message in (
        (whole[:40], r"trainval.json is not json as published"),
        ("[]", r"trainval.json: expected the file to be dict"),
        ('{"videos": {}}', r"trainval.json: no key 'database'; found videos"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            list(open_corpus(folder, tmp_path).rows)
    path.unlink()
    with pytest.raises(UserError, match=r"no youcookii_.* it is published at youcook2"):
        open_corpus(folder, tmp_path)
