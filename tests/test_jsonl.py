"""The jsonl manifest: one row's mistake is that row's, a misspelled key is the file's."""

import json
from pathlib import Path

import pytest

from tests.corpora import clip, write_jsonl
from vt_fairseq.corpora import jsonl
from vt_fairseq.corpora.rows import Entry, Rejected, local_video
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError


def read(tmp_path: Path, *rows) -> list[Entry | Rejected]:
    return list(jsonl.read(write_jsonl(tmp_path / "clips.jsonl", *rows), tmp_path))


# --- the jsonl manifest --------------------------------------------------------------------------


def test_every_key_of_a_row_is_read(tmp_path):
    [entry] = read(
        tmp_path,
        clip(
            start=1, end=2.5, caption=["one", "two"], label="l", verb="v", noun="n", question="q ?",
            candidates=["x", "y"], answer=1, context="c", group="g", split="val",
        ),
    )  # fmt: skip
    assert entry.split == "val"
    assert entry.where == "clips.jsonl line 1"
    assert entry.row == ClipRow(
        "x", "a.mp4", 1.0, 2.5, ("one", "two"), "l", "v", "n", "q ?", ("x", "y"), 1, "c", "g"
    )


def test_a_row_may_have_nothing_but_its_video(tmp_path):
    [entry] = read(tmp_path, {"id": "x", "video": "a.mp4", "start": None})
    assert (entry.split, entry.row) == ("train", ClipRow("x", "a.mp4"))


@pytest.mark.parametrize("text", ["two\u2028lines", "next\x85line", "😀", "naïve 日本語", 'a"b\\c'])
def test_unicode_stays_in_its_row(tmp_path, text):
    line = json.dumps(clip(caption=text), ensure_ascii=False)
    entries = read(tmp_path, line, clip(id="y"))
    assert [e.row.captions for e in entries] == [(text,), ("a red circle",)]


def test_a_byte_order_mark_blank_lines_and_carriage_returns_are_no_mistakes(tmp_path):
    entries = read(tmp_path, b"\xef\xbb\xbf" + json.dumps(clip()).encode() + b"\r", "", "  ")
    assert [e.row.id for e in entries] == ["x"]


def test_a_misspelled_key_stops_with_file_line_key_and_the_known_ones(tmp_path):
    with pytest.raises(
        UserError,
        match=r"clips.jsonl line 2: unknown key 'captoin' \(did you mean 'caption'\?\); known .*id",
    ):
        read(tmp_path, clip(), clip(id="y", captoin="typo"))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "bad JSON"),
        ("[1]", "bad JSON: found list, not an object"),
        ("[" * 100_000, "bad JSON"),
        (b'{"id": "\xff"}', "bad JSON"),
        ('{"id": "y", "video": "a.mp4", "start": NaN}', "bad times: start is nan"),
        ('{"id": "y", "video": "a.mp4", "end": 1e999}', "bad times: end is inf"),
        ('{"id": "y", "video": "a.mp4", "end": 1%s}' % ("0" * 400), "bad times"),
        ({"video": "a.mp4"}, "missing id"),
        ({"id": "y"}, "missing video"),
        (clip(id=7), "wrong type: id must be text, found 7 (int)"),
        (clip(id=""), "empty text: id"),
        (clip(id="y", caption=" "), "empty text: caption"),
        (clip(id="y", caption=["a", 1]), "wrong type: caption"),
        (clip(id="y", caption={"a": 1}), "wrong type: caption must be a list"),
        (clip(id="y", start="1"), "wrong type: start must be a number"),
        (clip(id="y", start=True), "wrong type: start"),
        (clip(id="y", answer=True, candidates=["a", "b"]), "wrong type: answer"),
        (clip(id="y", answer=1.0, candidates=["a", "b"]), "wrong type: answer"),
        (clip(id="y", split=3), "wrong type: split"),
        (clip(), "duplicate id: 'x' is also in clips.jsonl line 1"),
    ],
)
def test_a_mistake_in_one_row_is_rejected_with_its_reason(tmp_path, bad, reason):
    good, found, after = read(tmp_path, clip(), bad, clip(id="z"))
    assert isinstance(good, Entry)
    assert isinstance(after, Entry)
    assert isinstance(found, Rejected)
    assert found.reason.startswith(reason)
    assert found.where == "clips.jsonl line 2"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no jsonl manifest at .*gone.jsonl"):
        list(jsonl.read(tmp_path / "gone.jsonl", tmp_path))


# --- subtitles -----------------------------------------------------------------------------------

SRT = """1
00:00:01,000 --> 00:00:02,000
Good <i>morning</i>.

2
00:00:03,000 --> 00:00:04,500
Who is there?
"""


def test_the_context_of_a_row_is_what_its_subtitles_say_in_its_span(tmp_path):
    (tmp_path / "talks").mkdir()
    (tmp_path / "talks" / "a.srt").write_text(SRT)
    spans = [{}, {"start": 2, "end": 4}, {"end": 1.5}, {"start": 2, "end": 3}, {"start": 9}]
    rows = [clip(id=str(k), subtitles="talks/a.srt", **span) for k, span in enumerate(spans)]
    entries = read(tmp_path, *rows, clip(subtitles=None, context="given"))
    both = "Good morning. Who is there?"
    expected = [both, "Who is there?", "Good morning.", None, None, "given"]
    assert [entry.row.context for entry in entries] == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"subtitles": "none.srt"}, "bad subtitles: no file"),
        ({"subtitles": "no.srt"}, "bad subtitles: "),
        ({"subtitles": "folder"}, "bad subtitles: "),
        ({"subtitles": "../secret.srt"}, "bad subtitles: outside of --videos"),
        ({"subtitles": "http://a/b.srt"}, "bad subtitles: not a local"),
        ({"subtitles": "link.srt"}, "bad subtitles: outside of the folder of videos"),
        ({"subtitles": "a\0.srt"}, "bad subtitles: "),
        ({"subtitles": "a" * 5000}, "bad subtitles: "),
        ({"subtitles": ["a.srt"]}, "wrong type: subtitles must be the name of a file"),
        ({"subtitles": " "}, "empty text: subtitles"),
        ({"subtitles": "a.srt", "context": "c"}, "two contexts"),
    ],
)
def test_subtitles_that_cannot_be_read_are_that_rows_mistake(tmp_path, row, reason):
    videos = tmp_path / "videos"
    (videos / "folder").mkdir(parents=True)
    for name in ("videos/a.srt", "secret.srt"):
        (tmp_path / name).write_text(SRT)
    (videos / "no.srt").write_text("no subtitles")
    (videos / "link.srt").symlink_to(tmp_path / "secret.srt")
    good, found = read(videos, clip(id="y", subtitles="a.srt"), clip(**row))
    assert isinstance(good, Entry) and isinstance(found, Rejected)
    assert found.reason.startswith(reason) and "secret.srt" not in str(found.reason)
    if row["subtitles"] == "link.srt":
        path = write_jsonl(videos / "clips.jsonl", clip(**row))
        [entry] = jsonl.read(path, videos, follow_links=True)
        assert entry.row.context == "Good morning. Who is there?"


# --- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("a.mp4", "a.mp4"),
        ("./deep//b.mp4", "deep/b.mp4"),
        ("deep/../a.mp4", "a.mp4"),
        ("/root/a b.mp4", "a b.mp4"),
        ("12:30.mp4", "12:30.mp4"),
        ("naïve 😀;$(x).mp4", "naïve 😀;$(x).mp4"),
        ("..a.mp4", "..a.mp4"),
        ("-xbTvALWCIg.mp4", "-xbTvALWCIg.mp4"),
    ],
)
def test_local_paths_become_relative(video, expected):
    assert local_video(video, Path("/root")) == expected


@pytest.mark.parametrize(
    "video",
    [
        "http://example.org/a.mp4", "rtsp://x", "file:/etc/passwd", "concat:a.mp4|b.mp4", "data:,x",
        "pipe:0", "subfile,,start,0,end,0,,:/etc/passwd", "../a.mp4", "deep/../../a.mp4",
        "..", ".", "/etc/passwd", "/rootless/a.mp4", "a\nb.mp4", "a\x00b.mp4",
    ],
)  # fmt: skip
def test_everything_else_is_refused(video):
    with pytest.raises(ValueError):
        local_video(video, Path("/root"))
