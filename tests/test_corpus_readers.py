"""What the readers of official files refuse, and where they look for videos: on MiniWorld's files.

What each reader makes of its corpus's real files stands in test_corpus_NAME.py.
"""

import os
from pathlib import Path

import pytest

from tests.corpora import rejected, rows
from vt_fairseq.corpora.files import VideoFinder
from vt_fairseq.corpora.registry import SUBTITLED, corpus_reader
from vt_fairseq.corpora.rows import Source
from vt_fairseq.errors import UserError
from vt_fairseq.miniworld.official_layouts import LAYOUTS, annotation_files
from vt_fairseq.miniworld.world import SIZES
from vt_fairseq.video.names import similar_file

FILES = {corpus: annotation_files(corpus, SIZES["tiny"]) for corpus in LAYOUTS}
WHOLE = None  # in place of a text to replace: the whole file


def opened(corpus: str, tmp_path: Path, file: str, text: str | None) -> Source:
    """The corpus with ``text`` in one of its files, or without that file."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name, content in (FILES[corpus] | {file: text}).items():
        if content is not None:
            (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    options = {"subtitles": "none"} if corpus in SUBTITLED else {}
    return corpus_reader(corpus)(folder, tmp_path / "videos", **options)


MISTAKES = {  # (corpus, file): (text, what is written in its place, error)
    ("epic-kitchens", "EPIC_train_action_labels.csv"): (
        ("00:00:00.20", "1.5 s", r"labels.csv line 2: expected HH:MM:SS.ss as start"),
        ("00:00:02.40", "", r"labels.csv line 3: expected HH:MM:SS.ss as start"),
        ("00:00:02.00", "00:61:02.00", r"line 2: expected HH:MM:SS.ss as stop"),
        (
            "triangle:pink,11,",
            "triangle:pink,99,",
            r"noun_class 99 is not in EPIC_noun_c",
        ),
        ("rise,0,", "rise,,", r"line 2: expected a whole number as verb_class"),
        (",['triangle:pink'],[11]", "", r"line 2: expected 14 fields, found 12"),
        ("P01_01", " ", r"line 2: video_id is empty"),
        ("0,P01,", "0,P,", r"line 2: expected a whole number as the number of participant_id"),
        ("verb_class", "verbclass", r"labels.csv: no column verb_class; expected .* found uid"),
        (WHOLE, "\udc80\x04\udc95pickle", r"labels.csv is not csv as published"),
    ),
    ("howto100m", "HowTo100M_v1.csv"): (
        ("task_id", "task", r"HowTo100M_v1.csv: no column task_id"),
        (",102\n", ",999\n", r"v1.csv line 2: task_id 999 is not in task_ids.csv"),
        (",102\n", ",tea\n", r"v1.csv line 2: expected a whole number as task_id"),
    ),
    ("tvqa", "tvqa_train.jsonl"): (
        ('"0.2-2.0"', '"1.21"', r"line 1: expected ts as START-END or \[START, END\]"),
        ('"0.2-2.0"', '"one-two"', r"tvqa_train.jsonl line 1: expected a number as ts, found 'one"),
        ('"0.2-2.0"', "null", r"line 1: expected ts as"),
        ('"answer_idx": 1', '"answer_idx": null', r"a whole number as answer_idx, found None"),
        ('"answer_idx": 1', '"answer_idx": -1', r"expected a whole number as answer_idx"),
        ('"what colour is the triangle that rises ?"', "5", r"expected q to be str, found 5"),
        ('"qid": 1,', '"qid": "x",', r"line 2: expected a whole number as qid"),
        ("s01e01_seg02_clip_00", "../../etc", r"'../../etc' is no clip of TVQA's six shows"),
        ('"q": ', '"Q": ', r"tvqa_train.jsonl line 1: no key 'q'; found "),
        ("}\n", "\n", r"tvqa_train.jsonl line 1: expected a JSON object"),
        (WHOLE, "PK\x03\x04\udcff", r"tvqa_train.jsonl: expected jsonl, one JSON object on each"),
    ),
    ("tvc", "tvc_train_release.jsonl"): (
        ("[0.2, 2.0]", "[1.0]", r"release.jsonl line 1: expected ts as .* found \[1.0\]"),
        ("[0.2, 2.0]", '["a", 2]', r"line 1: expected a number as ts, found 'a'"),
        ('"descs": [', '"descs": null, "x": [', r"line 1: expected descs to be list, found None"),
        ('"descs": [', '"descs": ["text", ', r"line 1: expected a desc to be dict"),
        ('"clip_id": 0', '"clip_id": null', r"line 1: expected a whole number as clip_id"),
    ),
    ("youcook2", "youcookii_annotations_trainval.json"): (
        ('"training"', '"test"', r"video -jBBbDAVFef: expected subset training or validation"),
        ("[0.2, 2.0]", "[1]", r"annotation 0: expected segment to be \[start, end\]"),
        ("[0.2, 2.0]", '["soon", 2]', r"annotation 0: expected a number as segment, found 'soon'"),
        ('"a red square slides"', '" "', r"video -jBBbDAVFef annotation 1: sentence is empty"),
        ('"sentence"', '"text"', r"annotation 0: no key 'sentence'"),
        ('"annotations": [', '"annotations": {}, "x": [', r"expected annotations to be list"),
        ('"database"', '"videos"', r"trainval.json: no key 'database'; found videos"),
        ("}}}", "", r"trainval.json is not json as published"),
        (WHOLE, "[]", r"trainval.json: expected the file to be dict"),
    ),
    ("youcook2", "validation_youcook.csv"): (
        ("end,", "", r"validation_youcook.csv: no column end; expected end, start"),
        ("2.0,0.2,", "2.0,x,", r"youcook.csv line 2: expected a number as start"),
        (",-AWVy2HCOXj\n", "\n", r"line 2: expected 5 fields, found 4"),
        (WHOLE, "", r"validation_youcook.csv: no column end, start"),
    ),
    ("msrvtt", "train_val_videodatainfo.json"): (
        (
            '"split": "train"',
            '"split": "dev"',
            r"\[0\]: expected split train, .* found 'dev'",
        ),
        ('"split"', '"x"', r"train_val_videodatainfo.json videos\[0\]: no key 'split'; found cat"),
        ('"video_id": "video0", "sen', '"sen', r"sentences\[0\]: no key 'video_id'"),
        ('"a pink triangle rises"', "5", r"sentences\[0\]: expected caption to be str"),
        ('"videos": [', '"videos": {}, "x": [', r"info.json: expected videos to be list"),
    ),
    # A copy with semicolons is in circulation.
    ("msrvtt", "MSRVTT_JSFUSION_test.csv"): (
        ("key,vid_key,video_id,", "key;vid_key;video_id;", r"no column key, vid_key, video_id"),
    ),
}


@pytest.mark.parametrize(
    ("corpus", "file", "old", "new", "message"),
    [(*place, *mistake) for place, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_mistake_in_an_official_file_is_refused_with_its_place(
    tmp_path, corpus, file, old, new, message
):
    text = FILES[corpus][file]
    assert old is WHOLE or old in text
    with pytest.raises(UserError, match=message):
        list(opened(corpus, tmp_path, file, text.replace(old, new, 1) if old else new).rows)


@pytest.mark.parametrize(
    ("corpus", "file", "published_at"),
    [
        ("epic-kitchens", "EPIC_train_action_labels.csv", "github.com/epic-kitchens"),
        ("epic-kitchens", "EPIC_noun_classes.csv", "github.com/epic-kitchens"),
        ("howto100m", "raw_caption.json", "di.ens.fr"),
        ("howto100m", "HowTo100M_v1.csv", "di.ens.fr"),
        ("howto100m", "task_ids.csv", "di.ens.fr"),
        ("youcook2", "youcookii_annotations_trainval.json", "youcook2.eecs.umich.edu"),
    ],
)
def test_a_missing_file_is_named_with_where_it_is_published(tmp_path, corpus, file, published_at):
    with pytest.raises(UserError, match=rf"no {file}.* it is published at {published_at}"):
        opened(corpus, tmp_path, file, None)


@pytest.mark.parametrize(
    ("corpus", "files"),
    [("tvqa", "tvqa_train.jsonl, tvqa_val"), ("msrvtt", "videodatainfo_2017.json, MSRVTT_data")],
)
def test_a_folder_without_any_of_the_files_names_them_and_where_they_are(tmp_path, corpus, files):
    with pytest.raises(UserError, match=rf"none of {files}.* they are published at"):
        corpus_reader(corpus)(tmp_path, tmp_path)


def test_without_youcook2s_retrieval_file_there_is_no_retrieval_split(tmp_path):
    source = opened("youcook2", tmp_path, "validation_youcook.csv", None)
    assert set(rows(source)) == {"train", "valid"}


@pytest.mark.parametrize(
    ("corpus", "file", "first", "line"),
    [
        ("epic-kitchens", "EPIC_train_action_labels.csv", 1, 2),
        ("tvqa", "tvqa_train.jsonl", 0, 1),
    ],
)
def test_a_repeated_id_is_rejected_and_names_the_first(tmp_path, corpus, file, first, line):
    text = FILES[corpus][file]
    [found] = rejected(opened(corpus, tmp_path, file, text + text.splitlines()[first]))
    assert found.reason == f"duplicate id: '0' is also in {file} line {line}"


@pytest.mark.parametrize(
    ("corpus", "default", "others"),
    [
        (
            "epic-kitchens",
            "P01/P01_01.MP4",
            ("P01_01.MP4", "P01/P01_01.mp4", "train/P01/P01_01.MP4"),
        ),
        ("youcook2", "-jBBbDAVFef.mp4", ("-jBBbDAVFef.webm", "training/101/-jBBbDAVFef.mkv")),
        ("msrvtt", "video0.mp4", ("TrainValVideo/video0.mp4", "all/video0.avi")),
        (
            "tvqa",
            "friends_frames/friends_s01e01_seg02_clip_01",
            (
                "friends_s01e01_seg02_clip_01",
                "frames_hq/friends_frames/friends_s01e01_seg02_clip_01",
                "friends_s01e01_seg02_clip_01.mp4",
                "friends_frames/friends_s01e01_seg02_clip_01.mkv",
            ),
        ),
        # The Big Bang Theory has no show in the names of its clips.
        ("tvqa", "bbt_frames/s01e01_seg02_clip_00", ("bbt/s01e01_seg02_clip_00.mp4",)),
    ],
)
def test_videos_lie_in_the_official_folders_or_flat(tmp_path, corpus, default, others):
    for number, path in enumerate((None, default, *others)):
        root = tmp_path / str(number)
        root.mkdir()
        if path is not None:
            (root / "videos" / path).parent.mkdir(parents=True)
            (root / "videos" / path).touch()
        train = rows(opened(corpus, root, "none", None))["train"]
        assert (path or default) in {row.video for row in train}


@pytest.mark.parametrize(
    "there", ["a.mov", "a.MKV", "a.flv", "a.m4v", "a.mp4.webm", "a.Mp4", "a.VOB", "a.gif"]
)
def test_a_video_of_any_usual_suffix_in_any_case_is_found(tmp_path, there):
    for other in ("b.mp4", "aa.mp4", "a.txt", "a.mp4.part", there):
        (tmp_path / other).touch()
    assert VideoFinder(tmp_path).find("none/a", "a") == there


def test_of_several_files_the_most_usual_suffix_is_taken(tmp_path):
    for name in ("a.webm", "a.mp4", "a.mp4.mkv", "a.MP4"):
        (tmp_path / name).touch()
    assert VideoFinder(tmp_path).find("a") == "a.MP4"
    assert VideoFinder(tmp_path).find("a.mp4") == "a.mp4.mkv"
    assert VideoFinder(tmp_path, default=".MP4").find("c") == "c.MP4"


def test_a_folder_of_frames_is_preferred_where_there_can_be_one(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a").mkdir()
    assert VideoFinder(tmp_path, frames=True).find("a") == "a"
    assert VideoFinder(tmp_path).find("a") == "a.mp4"


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("a.mp4", "a.MKV"),
        ("a.mp4", "A.mp4"),
        ("a.mp4", "a.f137.webm"),
        ("a.mp4", "a"),
        ("a.mp4.mkv", "a.mkv"),
    ],
)
def test_a_file_with_a_similar_name_is_found(tmp_path, wanted, there):
    for other in ("b.mp4", "ab.mp4", "a1.mp4"):
        (tmp_path / other).touch()
    assert similar_file(tmp_path / wanted) is None
    assert similar_file(tmp_path / "no folder" / wanted) is None
    (tmp_path / there).touch()
    os.utime(tmp_path, (1, 1))  # the folder has changed, whatever the clock's resolution
    assert similar_file(tmp_path / wanted) == there
