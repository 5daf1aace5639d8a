"""Subtitles as players show them, from files as people have them."""

import pytest

from vt_fairseq.corpora.subtitles import Subtitle, parse_subtitles
from vt_fairseq.errors import UserError

SRT_WITHOUT_TEXT = """1
00:00:01,000 --> 00:00:02,000

2
00:00:02,000 --> 00:00:03,500
<i>Hello</i> {sighs}
you

3
00:00:04,000 --> 00:00:05,000
It was
1999
"""
SRT_WITHOUT_EMPTY_LINES = """1
00:00:01,000 --> 00:00:02,000
one
2
00:00:02,000 --> 00:00:03,000
two
"""
VTT = """WEBVTT

NOTE not shown

intro
00:01.000 --> 00:02.000 align:start
<v Bob>one

STYLE
::cue { color: red }

last words
01:00:02.000 --> 01:00:03.000
two
"""
VTT_OF_WORDS = """WEBVTT
Kind: captions

00:00:01.000 --> 00:00:02.000 align:start position:0%
salt<00:00:01.250><c> &amp;</c><00:00:01.500><c> pepper</c>

00:00:02.000 --> 00:00:03.000
a &lt;b&gt; c
"""
SRT_AT_THE_TOP = """1
00:00:01,000 --> 00:00:02,000
{\\an8}above &amp; below
"""
ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour
Style: Default,Arial,20,&H00FFFFFF

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,not shown
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\i1}one{\\i0}\\Ntwo
"""


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "empty.srt",
            SRT_WITHOUT_TEXT,
            [("", 1, 2), ("Hello {sighs}\nyou", 2, 3.5), ("It was\n1999", 4, 5)],
        ),
        ("dense.srt", SRT_WITHOUT_EMPTY_LINES, [("one", 1, 2), ("two", 2, 3)]),
        ("names.vtt", VTT, [("one", 1, 2), ("two", 3602, 3603)]),
        ("words.vtt", VTT_OF_WORDS, [("salt & pepper", 1, 2), ("a <b> c", 2, 3)]),
        ("top.srt", SRT_AT_THE_TOP, [("above &amp; below", 1, 2)]),
        ("styled.ass", ASS, [("one\ntwo", 1, 2.5)]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_each_cue_has_its_own_words_and_times(tmp_path, name, content, expected, encoding):
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert parse_subtitles(tmp_path / name) == [Subtitle(*cue) for cue in expected]


def test_quotes_of_windows_are_no_control_characters(tmp_path):
    text = "1\n00:00:01,000 --> 00:00:02,000\nit\u2019s caf\xe9\n"
    (tmp_path / "x.srt").write_bytes(text.encode("cp1252"))
    assert parse_subtitles(tmp_path / "x.srt") == [Subtitle("it\u2019s caf\xe9", 1, 2)]


def test_a_file_without_cues_is_refused_and_an_empty_one_is_not(tmp_path):
    (tmp_path / "x.srt").write_text("<html>not found</html>")
    with pytest.raises(UserError, match=r"x.srt: expected subtitles with HH:MM:SS,mmm -->"):
        parse_subtitles(tmp_path / "x.srt")
    (tmp_path / "x.srt").write_text(" \n")
    assert parse_subtitles(tmp_path / "x.srt") == []
