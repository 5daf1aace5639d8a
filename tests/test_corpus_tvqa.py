"""TVQA: the official files, rows looked up in them by hand, subtitles, and odd times."""

from pathlib import Path

import pytest

from tests.corpora import by_id, outline, real_corpus, rows, warnings_of_rows, write_jsonl
from vt_fairseq.corpora.subtitles import Subtitles, parse_subtitles
from vt_fairseq.corpora.tvqa import open_corpus
from vt_fairseq.errors import UserError

real = real_corpus("tvqa", "tvqa", "--subtitles", "none")


# --- the real files ------------------------------------------------------------------------------


@pytest.mark.data
def test_the_counts_are_the_published_ones_and_the_odd_times_are_counted(real):
    data, content = real
    assert {split: counts["rows"] for split, counts in data.splits.items()} == {
        "test": 7_623, "plus_valid": 3_017,
    }  # fmt: skip
    assert warnings_of_rows(content) == []
    assert content["notes"] == [
        "test: no times ('nan'), so the whole clip is taken (rows: 3)",
        "test: an empty span, taken 1 s longer on both sides (rows: 2)",
        "plus_valid: an empty span, taken 1 s longer on both sides (rows: 2)",
        *(
            f"{split}: the annotations have none of its {rows} published rows; they are at "
            "github.com/jayleicn/TVQA (data), TVQA+ at github.com/jayleicn/TVQAplus"
            for split, rows in (("train", "122,039"), ("valid", "15,253"))
        ),
    ]
    test = list(data.manifest("test"))
    assert all(row.answer is None and len(row.candidates) == 5 for row in test)
    shows = [row.video.split("_frames/")[0] for row in test]
    counts = {show: shows.count(show) for show in set(shows)}
    assert counts == {
        "friends": 1876, "castle": 1834, "bbt": 1533, "house": 1505, "grey": 497, "met": 378,
    }  # fmt: skip
    answers = [row.answer for row in data.manifest("plus_valid")]
    assert [answers.count(k) for k in range(5)] == [604, 622, 589, 599, 603]


# qid: folder, start, end, outline of the question, words of the candidates.
TEST = {
    "137498": ("house", "house_s05e20_seg02_clip_20", 22.45, 28.61, ("How", "Cameron?", 19),
               (9, 8, 9, 6, 8)),
    "140168": ("met", "met_s03e05_seg02_clip_08", 55.15, 63.03, ("What", "date?", 17),
               (3, 3, 5, 4, 5)),
    "140759": ("friends", "friends_s06e15-16_seg02_clip_33", 47.65, 58.47,
               ("How", "threesome.", 12), (1, 1, 1, 1, 1)),
    "141341": ("met", "met_s02e22_seg01_clip_00", 51.68, 61.16, ("What", "wedding?", 14),
               (5, 2, 1, 4, 3)),
    "141888": ("house", "house_s01e08_seg02_clip_03", 30.07, 39.05, ("Why", "home?", 15),
               (3, 7, 6, 5, 10)),
    "143686": ("bbt", "s05e23_seg02_clip_16", 0.0, 6.31, ("Who", "over?", 10), (7, 7, 7, 7, 7)),
    "143987": ("met", "met_s03e13_seg02_clip_10", 0.0, 38.74, ("What", "it?", 15),
               (2, 2, 2, 2, 2)),
    "149349": ("castle", "castle_s02e14_seg02_clip_15", 11.14, 18.57, ("Who", "boy?", 14),
               (1, 2, 2, 1, 3)),
    "149890": ("met", "met_s06e04_seg02_clip_13", 49.82, 55.04, ("How", "street?", 20),
               (2, 2, 2, 2, 2)),
    "151577": ("bbt", "s08e09_seg02_clip_08", 12.69, 59.02, ("Who", "Penny?", 8),
               (1, 1, 1, 1, 1)),
    "152339": ("friends", "friends_s08e15_seg02_clip_07", 48.32, 58.23, ("What", "kicking?", 11),
               (5, 6, 4, 2, 2)),
    # "NaN-NaN", "0-0", "19.18-19.18"
    "137648": ("castle", "castle_s05e08_seg02_clip_03", None, None, ("Who", "Mary?", 14),
               (7, 5, 6, 6, 7)),
    "139509": ("house", "house_s04e16_seg02_clip_10", 0.0, 1.0, ("Where", "flashlight", 10),
               (6, 7, 7, 7, 6)),
    "145670": ("friends", "friends_s10e15_seg02_clip_17", 18.18, 20.18, ("What", "Racheal?", 12),
               (1, 1, 1, 1, 1)),
}  # fmt: skip
# qid: clip, start, end, answer, outlines of the question and of the right candidate.
PLUS = {
    "130528": ("s02e01_seg02_clip_04", 35.35, 43.42, 3, ("What", "?", 17), ("That", ".", 15)),
    "131306": ("s03e05_seg02_clip_00", 0.0, 9.92, 1, ("Whaat", "?", 17), ("Red", "Red", 1)),
    "132588": ("s04e01_seg02_clip_16", 0.9, 16.21, 2, ("How", "?", 12),
               ("embarassed", "embarassed", 1)),
    "130897": ("s09e16_seg02_clip_12", 9.97, 17.22, 2, ("What", ".", 14), ("Raj", ".", 14)),
    "131197": ("s05e12_seg02_clip_15", 12.95, 18.38, 4, ("What", "?", 15), ("A", ".", 3)),
    "136908": ("s04e18_seg02_clip_03", 9.99, 16.35, 1, ("what", "?", 9), ("Priya", ".", 13)),
}  # fmt: skip


@pytest.mark.data
def test_twenty_rows_are_as_they_stand_in_the_files(real):
    data, _ = real
    found = by_id(data, "test")
    for qid, (show, clip, start, end, question, words) in TEST.items():
        row = found[qid]
        assert (row.video, row.group) == (f"{show}_frames/{clip}", clip)
        assert (row.start, row.end) == (start, end and pytest.approx(end))
        assert outline(row.question) == question
        assert tuple(len(c.split()) for c in row.candidates) == words
        assert all(c == c.strip() for c in row.candidates)
    found = by_id(data, "plus_valid")
    for qid, (clip, start, end, answer, question, right) in PLUS.items():
        row = found[qid]
        assert (row.video, row.start, row.end) == (f"bbt_frames/{clip}", start, end)
        assert row.answer == answer
        assert (outline(row.question), outline(row.candidates[answer])) == (question, right)


# --- synthetic files -----------------------------------------------------------------------------

CLIP = "met_s06e22_seg01_clip_02"


def record(**more) -> dict:
    answers = {f"a{k}": f"answer {k}" for k in range(5)}
    return {
        "qid": 7, "q": "What is it?", **answers, "answer_idx": 4, "ts": "1.21-8.49",
        "vid_name": CLIP, "show_name": "How I Met You Mother", **more,
    }  # fmt: skip


SUBTITLES = {
    "vid_name": CLIP,
    "sub": [
        {"text": "Ted : before", "start": 0.0, "end": 1.2},
        {"text": "Robin : across the start", "start": 1.1, "end": 2.0},
        {"text": "Ted :  inside", "start": 4.0, "end": 5.0},
        {"text": "Robin : at the end", "start": 8.49, "end": 9.0},
    ],
}
SRT = (
    "1\n00:00:01,000 --> 00:00:02,500\nRobin: caf\xe9\nnext line\n\n"
    "2\n00:00:09,000 --> 01:00:10,000\nlate\n"
)


def opened(tmp_path: Path, *records: dict, subtitles: str):
    write_jsonl(tmp_path / "a" / "tvqa_train.jsonl", *records)
    return open_corpus(tmp_path / "a", tmp_path / "v", subtitles)


@pytest.mark.parametrize(
    ("subtitles", "context"),
    [
        ("none", None),
        ("span", "Robin : across the start Ted : inside"),
        ("whole", "Ted : before Robin : across the start Ted : inside Robin : at the end"),
    ],
)
def test_subtitles_are_those_of_the_span_of_the_whole_clip_or_none(tmp_path, subtitles, context):
    write_jsonl(tmp_path / "a" / "tvqa_preprocessed_subtitles.jsonl", SUBTITLES)
    [row] = rows(opened(tmp_path, record(), subtitles=subtitles))["train"]
    assert row.context == context


def test_a_row_without_times_has_the_whole_clip_and_all_of_its_subtitles(tmp_path):
    write_jsonl(tmp_path / "a" / "tvqa_preprocessed_subtitles.jsonl", SUBTITLES)
    source = opened(tmp_path, record(ts="nan-nan"), subtitles="span")
    [row] = rows(source)["train"]
    assert (row.start, row.end) == (None, None)
    assert row.context.startswith("Ted : before") and row.context.endswith("at the end")
    assert source.notes == ["train: no times ('nan'), so the whole clip is taken (rows: 1)"]


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_srt_files_of_both_encodings_are_read(tmp_path, encoding, newline):
    folder = tmp_path / "a" / "tvqa_subtitles"
    folder.mkdir(parents=True)
    (folder / f"{CLIP}.srt").write_bytes(SRT.replace("\n", newline).encode(encoding))
    [row, other] = rows(
        opened(tmp_path, record(), record(qid=8, vid_name="s01e01_seg01_clip_00"), subtitles="span")
    )["train"]
    assert row.context == "Robin: café next line"
    assert other.context is None
    [first, second] = parse_subtitles(folder / f"{CLIP}.srt")
    assert (first.start, first.end, second.start, second.end) == (1.0, 2.5, 9.0, 3610.0)


def test_an_srt_file_without_times_is_refused(tmp_path):
    (tmp_path / "x.srt").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"x.srt: expected subtitles with HH:MM:SS,mmm -->"):
        parse_subtitles(tmp_path / "x.srt")


def test_subtitles_that_are_asked_for_must_be_there(tmp_path):
    with pytest.raises(UserError, match=r"no subtitles in .* published at .* --subtitles none"):
        opened(tmp_path, record(), subtitles="span")


def test_damaged_subtitles_are_refused_with_their_clip(tmp_path):
    path = write_jsonl(
        tmp_path / "s.jsonl", {"vid_name": "x", "sub": [{"text": "a", "start": "soon", "end": 2}]}
    )
    with pytest.raises(UserError, match=r"s.jsonl, x: expected a number as start, found 'soon'"):
        Subtitles(path).of("x")
