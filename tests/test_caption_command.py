"""vt-caption: from files to text, jsonl and subtitles, whatever lies in the folder."""

import importlib.metadata
import io
import json
import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import av
import pyarrow.parquet
import pytest

from tests.commands import command_line, environment
from tests.media import write_folder, write_numbered
from vt_fairseq import Decoding
from vt_fairseq.cli.caption import main
from vt_fairseq.cli.caption_formats import SegmentResult, as_srt, as_text, as_vtt, clock
from vt_fairseq.cli.caption_progress import Progress
from vt_fairseq.cli.inputs import find_videos, read_labels
from vt_fairseq.cli.progress import progress
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.errors import UserError
from vt_fairseq.inference.outputs import Caption, Choice, Text
from vt_fairseq.video.decoding import probe
from vt_fairseq.video.frame_sampling import equal_segments, regular_segments

# Texts that are not empty.
SAMPLED = ["--decoding", "topk", "--sampling-topk", "50", "--max-target-tokens", "5"]


@pytest.fixture(scope="module")
def videos(data_directory) -> list[str]:
    found = (data_directory / "world" / "videos").glob("train-*.mp4")
    return [str(path) for path in sorted(found)[:3]]


@pytest.fixture
def caption(trained, call_main):
    """Run the command; return exit code, stdout, stderr."""
    return partial(call_main, main, "--path", trained, "--device", "cpu")


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n") if line]


def subtitles(path: Path) -> list[tuple[float, float, str]]:
    """Cues as FFmpeg, which is in most players, reads them: start and end in s, text."""
    if path.stat().st_size == 0:  # no caption of the video has text
        return []
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        tick = float(stream.time_base)
        return [
            (p.pts * tick, (p.pts + p.duration) * tick, bytes(p).decode())
            for p in container.demux(stream)
            if p.size
        ]


def test_every_video_gets_a_line_of_text_as_the_api_has_it(caption, vt, videos):
    code, out, err = caption(*videos, *SAMPLED)
    decoding = Decoding("topk", topk=50, max_tokens=5)
    expected = [" ".join(one.text.split()) for one in vt.caption(videos, decoding=decoding)]
    assert any(expected)
    assert (code, err) == (0, "")
    assert out == "".join(f"{v}: {t}\n" for v, t in zip(videos, expected, strict=True))


def test_segments_cover_the_video_and_have_the_captions_of_their_times(caption, vt, videos):
    code, out, _ = caption(videos[0], "--every", "2.5", "--format", "jsonl", "--batch-size", "3")
    found = objects(out)
    duration = probe(videos[0])
    assert code == 0 and len(found) == round(duration / 2.5) > 2
    assert [one["start"] for one in found] == [0, *(one["end"] for one in found[:-1])]
    assert found[-1]["end"] == pytest.approx(duration)
    for one in found:
        alone = vt.caption(videos[0], start=one["start"], end=one["end"])
        assert (one["video"], one["text"]) == (videos[0], alone.text)
        assert one["score"] == pytest.approx(alone.score, abs=1e-4)
    code, out, _ = caption(*videos[:2], "--segments", "2", "--format", "jsonl")
    assert [(o["video"], o["start"] == 0) for o in objects(out)] == [
        (v, first) for v in videos[:2] for first in (True, False)
    ]


@pytest.mark.parametrize("suffix", ["srt", "vtt"])
def test_subtitles_are_files_that_ffmpeg_reads_with_the_segments_times(
    caption, videos, tmp_path, suffix
):
    arguments = [*videos, "--segments", "3", "--format", suffix, "--out", tmp_path, *SAMPLED]
    code, out, err = caption(*arguments)
    assert (code, out, err) == (0, "", "")
    files = sorted(tmp_path.glob("[!.]*"))
    assert [f.name for f in files] == [f"{Path(v).stem}.{suffix}" for v in videos]
    cues = 0
    for path, video in zip(files, videos, strict=True):
        times = equal_segments(probe(video), 3)
        for start, end, text in subtitles(path):
            assert any(abs(start - a) + abs(end - b) < 2e-3 for a, b in times) and text
            cues += 1
    code, out, _ = caption(*videos, "--segments", "3", "--format", "jsonl", *SAMPLED)
    assert cues == sum(bool(one["text"].strip()) for one in objects(out)) > 0


def test_one_videos_subtitles_go_to_stdout(caption, videos, tmp_path):
    code, out, _ = caption(videos[0], "--format", "srt", *SAMPLED)
    (tmp_path / "one.srt").write_text(out)
    ((start, end, text),) = subtitles(tmp_path / "one.srt")
    assert code == 0 and start == 0 and text
    assert end == pytest.approx(probe(videos[0]), abs=1e-3)


def test_times_have_hours_and_round_to_milliseconds():
    assert clock(3725.0996, ".") == "01:02:05.100"
    assert clock(59.9999, ",") == "00:01:00,000"
    assert clock(0.0, ",") == "00:00:00,000"


def test_captions_cannot_break_subtitles_or_lines():
    nasty = Caption((Text("a <b>\n\n00:00 --> x & y", -1.0),))
    said = [
        SegmentResult("a.mp4", 0.0, 1.5, 2, result=nasty),
        SegmentResult("a.mp4", 1.5, 3.0, 2, error="broken"),
    ]
    said.append(SegmentResult("a.mp4", 3.0, 4.0, 2, result=Caption((Text("", -1.0),))))
    assert as_srt(said, 1) == "1\n00:00:00,000 --> 00:00:01,500\na <b> 00:00 -> x & y\n"
    assert as_vtt(said, 1).endswith("\na &lt;b&gt; 00:00 -&gt; x &amp; y\n")
    assert as_vtt(said, 1).startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n")
    assert as_text(said, 1).count("\n") == 2


def test_several_candidates_are_listed_best_first(caption, videos):
    options = ["--num-candidates", "3", "--beam", "2"]
    _, out, _ = caption(videos[0], *options, "--format", "jsonl")
    (found,) = objects(out)
    assert len(found["candidates"]) == 3
    assert found["candidates"][0] == {"text": found["text"], "score": found["score"]}
    _, out, _ = caption(videos[0], *options)
    assert len(out.splitlines()) == 4 and f"{found['score']:8.2f}" in out


def test_questions_are_answered_freely_or_of_candidates(caption, vt, videos):
    question, candidates = "what is it ?", ["a red circle", "green"]
    code, out, _ = caption(videos[0], "--ask", question, "--format", "jsonl")
    (found,) = objects(out)
    assert code == 0 and found["question"] == question
    assert found["text"] == vt.generate(videos[0], "answer", question=question).text
    options = ["--ask", question, "--candidates", *candidates]
    _, out, _ = caption(videos[0], *options, "--format", "jsonl")
    (found,) = objects(out)
    expected = vt.answer(videos[0], question, candidates)
    assert found["text"] == expected.text
    assert [c["text"] for c in found["candidates"]] == [candidates[k] for k in expected.order]
    assert found["score"] == pytest.approx(expected.score, abs=1e-4)
    assert sum(c["probability"] for c in found["candidates"]) == pytest.approx(1)
    _, out, _ = caption(videos[0], *options)
    assert out.startswith(f"{videos[0]}: {expected.text}\n") and out.count("%") == 2


def test_classes_of_a_file_are_ranked_and_the_top_ones_shown(caption, vt, videos, tmp_path):
    names = [f"a {color} {shape}" for color in ("red", "blue") for shape in ("circle", "star")]
    labels = tmp_path / "labels.txt"
    labels.write_text("\ufeff" + "\r\n".join([*names, "", "  "]), encoding="utf-8")
    _, out, _ = caption(*videos, "--classify", labels, "--top-k", "2", "--format", "jsonl")
    for found, expected in zip(objects(out), vt.classify(videos, names), strict=True):
        assert [c["text"] for c in found["candidates"]] == [names[k] for k in expected.order[:2]]


@pytest.mark.parametrize("text", ['["red", "blue"]', '[\n "red"\n]', '{"id": "a"}\n{"id": "b"}\n'])
def test_json_in_the_place_of_class_names_is_told_what_is_wanted(tmp_path, text):
    (tmp_path / "labels").write_text(text)
    with pytest.raises(UserError, match="expected one class name per line, found JSON"):
        read_labels(tmp_path / "labels")
    (tmp_path / "labels").write_text("[MASK]\n{red}\n")
    assert read_labels(tmp_path / "labels") == ["[MASK]", "{red}"]


def test_videos_are_ranked_by_a_query(caption, vt, videos):
    _, out, _ = caption(*videos, "--rank", "a red circle", "--top-k", "2", "--format", "jsonl")
    expected = vt.rank("a red circle", videos)[:2]
    assert [o["video"] for o in objects(out)] == [videos[one.index] for one in expected]
    assert [o["rank"] for o in objects(out)] == [1, 2]
    _, out, _ = caption(*videos, "--rank", "a red circle")
    assert out.splitlines()[0].split()[-1] == videos[expected[0].index]
    assert len(out.splitlines()) == 3


def test_a_broken_video_is_named_and_the_rest_goes_on(caption, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(Path(videos[0]).read_bytes()[:3000])
    given = [videos[0], broken, videos[1], tmp_path / "none.mp4"]
    code, out, err = caption(*given, "--format", "jsonl", "--batch-size", "1")
    assert code == 1
    assert [o["video"] for o in objects(out)] == list(map(str, given))
    assert ["error" in o for o in objects(out)] == [False, True, False, True]
    lines = err.splitlines()
    assert lines[0].startswith(
        f"vt-caption: error: {broken}: an MP4 or MOV file, cut off or damaged"
    )
    assert lines[1] == f"vt-caption: error: {given[3]}: no such file" and len(lines) == 2
    code, out, err = caption(*given, "--segments", "2", "--format", "srt", "--out", tmp_path / "o")
    written = {path.stem for path in (tmp_path / "o").glob("[!.]*")}
    assert code == 1 and written == {Path(v).stem for v in videos[:2]}


def test_a_video_that_is_cut_off_is_captioned_as_far_as_it_goes(caption, tmp_path):
    good = write_numbered(tmp_path / "good.mp4", 100, muxer_options={"movflags": "faststart"})
    data = good.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(len(data) * 0.8)])
    code, out, _ = caption(tmp_path / "cut.mp4", "--segments", "4", "--format", "jsonl")
    found = objects(out)
    assert code == 0 and not any("error" in one for one in found)
    # 100 frames at 25 a second are 4 s; a fifth of the bytes is missing.
    assert 2.5 < max(one["end"] for one in found) < 3.6


def test_folders_patterns_frames_and_lists_are_found(videos, tmp_path, monkeypatch):
    world = tmp_path / "my [world]"
    (world / "deep").mkdir(parents=True)
    for name in ("b.MP4", "a.mkv", ".hidden.mp4", "notes.txt", "deep/c.webm"):
        (world / name).write_bytes(b"x")
    write_folder(world / "frames", 2)
    (world / "frames" / "labels.json").write_bytes(b"x")
    notes: list[str] = []
    found = ["a.mkv", "b.MP4", "deep/c.webm", "frames"]
    assert find_videos([str(world)], note=notes.append) == [str(world / name) for name in found]
    assert notes == [f"left out of {world}, by their names: notes.txt, frames/labels.json"]
    (tmp_path / "x[1].mp4").write_bytes(b"x")
    assert find_videos([str(tmp_path / "x[1].mp4")]) == [str(tmp_path / "x[1].mp4")]
    assert find_videos([f"{tmp_path}/**/*.webm"]) == [str(world / "deep" / "c.webm")]
    assert find_videos(["none.mp4"]) == ["none.mp4"]
    stdin = io.TextIOWrapper(io.BytesIO(b"b b.mp4\r\n\n\xff.mp4\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert find_videos(["a.mp4", "-"]) == ["a.mp4", "b b.mp4", "\udcff.mp4"]
    (tmp_path / "empty").mkdir()
    for name in (str(tmp_path / "empty"), f"{tmp_path}/*.avi"):
        with pytest.raises(UserError, match=r"holds no videos|nothing matches"):
            find_videos([name])


def test_a_list_on_stdin_and_names_that_are_no_text(caption, videos, tmp_path, monkeypatch):
    odd = tmp_path / "-odd\udcff.mp4"
    odd.write_bytes(Path(videos[0]).read_bytes())
    lines = f"{videos[1]}\n".encode() + bytes(odd) + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    code, out, err = caption("-", "--format", "jsonl")
    assert (code, err) == (0, "")
    assert [one["video"] for one in objects(out)] == [videos[1], str(odd)]


def test_files_of_one_name_do_not_overwrite_each_other(caption, videos, tmp_path):
    for folder, video in zip(("a", "b"), videos, strict=False):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").write_bytes(Path(video).read_bytes())
    code, _, _ = caption(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", *SAMPLED)
    texts = {p.name: p.read_text() for p in (tmp_path / "out").glob("[!.]*")}
    assert code == 0 and set(texts) == {"clip.txt", "clip-2.txt"}
    assert texts["clip.txt"].startswith(f"{tmp_path}/a/clip.mp4: ")
    assert texts["clip-2.txt"].startswith(f"{tmp_path}/b/clip.mp4: ")


def test_the_progress_bar_is_for_terminals_alone(caption, videos, monkeypatch):
    assert "%" not in caption(*videos)[2]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = caption(*videos, "--segments", "2")
    assert code == 0 and "vt-caption: 100%" in err and "%|" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--candidates", "a"], "add --ask"),
        (["--ask", "?", "--action", "caption"], "leave --action out"),
        (["--rank", "x", "--num-candidates", "2"], "--top-k limits"),
        (["--rank", "x", "--format", "srt"], "--rank writes one list"),
        (["--format", "vtt"], "add --out DIR"),
        (["--decoding", "greedy", "--num-candidates", "2"], "one candidate"),
        (["--action", "sing"], "unknown action"),
        (["--classify", "/none.txt"], "no file /none.txt"),
        (["--device", "abacus"], "no device abacus"),
        (["--test-window", "left"], "window is"),
        (["--path", "/none.pt"], "no checkpoint at /none.pt"),
        (["--out", __file__], "is a file"),
        (["--every", "0"], "expected seconds"),
        (["--top-k", "-1"], "from 1 on"),
        (["--segments", "2", "--every", "3"], "not allowed with"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(caption, videos, options, message):
    code, out, err = caption(*videos, *options)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_segments_are_of_one_length_and_end_with_the_video():
    assert equal_segments(9.0, 3) == [(0.0, 3.0), (3.0, 6.0), (6.0, 9.0)]
    assert regular_segments(11.0, 5.0) == [(0.0, 5.0), (5.0, 11.0)]
    assert regular_segments(13.0, 5.0) == [(0.0, 5.0), (5.0, 10.0), (10.0, 13.0)]
    assert regular_segments(1.0, 5.0) == [(0.0, 1.0)]


def test_a_choice_of_equals_is_the_first():
    choice = Choice(("a", "b", "c"), (-2.0, -1.0, -1.0))
    assert (choice.index, choice.text, choice.order) == (1, "b", [1, 2, 0])


@pytest.mark.data
@pytest.mark.parametrize("suffix", ["text", "jsonl", "srt", "vtt"])
def test_ten_real_clips_are_captioned_in_one_command(caption, test_data, tmp_path, suffix):
    clips = sorted((test_data / "video" / "clips" / "panda70m").glob("*.mp4"))[:10]
    arguments = [*clips, "--format", suffix, "--out", tmp_path, "--segments", "2", *SAMPLED]
    code, out, err = caption(*arguments)
    assert (code, out, err) == (0, "", "")
    files = sorted(tmp_path.glob("[!.]*"))
    assert len(files) == 10
    for clip, path in zip(clips, files, strict=True):
        duration = probe(clip)
        if suffix in ("srt", "vtt"):
            assert all(0 <= a < b <= duration + 1e-3 for a, b, _ in subtitles(path))
        elif suffix == "jsonl":
            assert [round(o["end"], 3) for o in objects(path.read_text())] == [
                round(duration / 2, 3),
                round(duration, 3),
            ]
        else:
            assert path.read_text().count(f"{clip} [00:00:0") == 2


def cpu_seconds(command: list[str]) -> tuple[float, str]:
    """Processor time of a command, whatever else runs, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout


def test_help_takes_less_than_half_a_second():
    used, out = min(cpu_seconds(command_line("vt-caption", "--help")) for _ in range(2))
    assert used < 0.5 and "--segments" in out
    command = importlib.metadata.entry_points(group="console_scripts")["vt-caption"]
    assert command.value == "vt_fairseq.cli.caption:main"


def test_the_first_caption_costs_less_than_four_times_the_import_of_torch(trained, videos):
    # Other processes slow both down. Alone, the import takes about one second of the processor and
    # the caption far less than five: benchmarks/startup.py measures that.
    command = command_line("vt-caption", videos[0], "--path", trained, "--device", "cpu")
    used, out = cpu_seconds(command)
    torch_alone, _ = cpu_seconds([sys.executable, "-c", "import torch"])
    assert used < 4 * torch_alone and out.startswith(videos[0])


def test_a_second_run_into_the_same_folder_does_what_is_new_changed_or_asked_otherwise(
    caption, videos, tmp_path
):
    own = [str(shutil.copy(video, tmp_path)) for video in videos]
    out, files = tmp_path / "out", []
    given = [*own, "--out", out, "--format", "jsonl"]

    def run(*options: str) -> tuple[list[str], str]:
        """Names of the files that this run has written, and what it says."""
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.jsonl")}
        code, _, err = caption(*given, *options)
        assert code == 0
        files[:] = sorted(out.glob("*.jsonl"))
        written = [p.stem for p in files if before.get(p) != p.stat().st_mtime_ns]
        return written, err

    stems = [Path(video).stem for video in own]
    assert run() == (stems, "")
    whole = [path.read_bytes() for path in files]
    assert run() == ([], f"vt-caption: note: 3 of 3 videos are done in {out} with these options\n")
    os.utime(own[1])
    files[2].unlink()
    assert run()[0] == stems[1:]
    assert [path.read_bytes() for path in files] == whole
    # A list that a killed run has left half.
    (record,) = out.glob(".vt-caption.*")
    record.write_bytes(record.read_bytes()[:-9])
    assert run()[0] == stems[2:]  # of which no whole line says that this file is its
    assert run()[0] == []
    assert run("--beam", "2")[0] == stems and run("--beam", "2")[0] == []
    record.write_bytes(b"\x00[1]\n{")
    assert run("--beam", "2")[0] == stems


def test_parts_write_the_files_of_one_run_with_the_same_names(
    caption, videos, tmp_path, monkeypatch
):
    (tmp_path / "more").mkdir()
    own = [*videos, str(shutil.copy(videos[0], tmp_path / "more"))]
    given = [*own, "--format", "jsonl", "--batch-size", "1", "--out"]
    assert caption(*given, tmp_path / "one")[0] == 0
    for part in ("1/2", "2/2"):
        assert caption(*given, tmp_path / "parts", "--shard", part)[0] == 0
    for rank in ("0", "1"):  # as torchrun starts them
        with monkeypatch.context() as patch:
            patch.setenv("RANK", rank)
            patch.setenv("WORLD_SIZE", "2")
            assert caption(*given, tmp_path / "two")[0] == 0
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.jsonl")}
        for name in ("one", "parts", "two")
    ]
    assert contents[0] == contents[1] == contents[2] and len(contents[0]) == 4
    code, _, err = caption(*own, "--rank", "a", "--shard", "1/2")
    assert code == 2 and "--rank compares all videos in one process" in err


def test_several_queries_rank_videos_that_are_decoded_once(caption, vt, videos, monkeypatch):
    read: list[str] = []
    load = ClipLoader.__call__

    def counted(self, row, rng):
        read.append(row.video)
        return load(self, row, rng)

    monkeypatch.setattr(ClipLoader, "__call__", counted)
    queries = ["a red circle", "blue"]
    given = [word for query in queries for word in ("--rank", query)]
    _, out, _ = caption(*videos, *given, "--format", "jsonl")
    assert sorted(read) == videos
    found = objects(out)
    assert [one["query"] for one in found] == [q for q in queries for _ in videos]
    for query in queries:
        own = [one for one in found if one["query"] == query]
        expected = vt.rank(query, videos)
        assert [one["video"] for one in own] == [videos[one.index] for one in expected]
        assert [one["score"] for one in own] == pytest.approx(
            [one.score for one in expected], abs=1e-4
        )
    _, out, _ = caption(*videos, *given, "--top-k", "1")
    lines = out.splitlines()
    assert lines[0] == queries[0] and lines[2] == queries[1] and len(lines) == 4


def test_a_folder_of_parquet_files_is_one_table_of_what_jsonl_says(caption, videos, tmp_path):
    broken, latin = tmp_path / "broken.mp4", os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.mp4")
    broken.write_bytes(b"")
    shutil.copy(videos[0], latin)
    given = [videos[0], latin, broken, "--segments", "2", "--ask", "what ?"]
    chosen = ["--candidates", "red", "blue"]
    for form in ("jsonl", "parquet"):
        code, out, _ = caption(*given, *chosen, "--format", form, "--out", tmp_path / form)
        assert (code, out) == (1, "")
    files = (tmp_path / "jsonl").glob("*.jsonl")
    rows = [row for path in files for row in objects(path.read_text())]
    table = pyarrow.parquet.read_table(tmp_path / "parquet")  # hidden files are no part of it
    names = ["video", "start", "end", "question", "context", "text", "score", "candidates", "error"]
    assert table.column_names == names and len(rows) == 5
    for row in rows:
        row["video"] = row["video"].encode("utf-8", "backslashreplace").decode()
    expected = [{name: row.get(name) for name in names} for row in rows]

    def in_order(rows: list[dict]) -> list[dict]:
        return sorted(rows, key=lambda row: (row["video"], row["start"]))

    assert in_order(table.to_pylist()) == in_order(expected)
    assert sum(row["error"] is not None for row in expected) == 1
    code, _, err = caption(*given, "--format", "parquet")
    assert code == 2 and "add --out DIR" in err


SRT = "1\n00:00:00,500 --> 00:00:01,500\n{a}\n\n2\n00:00:02,000 --> 00:00:03,000\n{b}\n"


def test_subtitles_beside_the_videos_are_read_with_the_parts_they_belong_to(
    caption, vt, videos, tmp_path
):
    own = [str(shutil.copy(video, tmp_path / f"{k}.mp4")) for k, video in enumerate(videos)]
    (tmp_path / "0.srt").write_text(SRT.format(a="a <i>red</i>", b="circle"))
    (tmp_path / "1.en.vtt").write_text("WEBVTT\n\n00:02.000 --> 00:03.000\nblue\n")
    (tmp_path / "1.txt").write_text("no subtitles")
    given = [*own, "--every", "2", "--format", "jsonl"]
    code, out, err = caption(*given, "--subtitles", "auto")
    found = objects(out)
    note = f"vt-caption: note: 1 of 3 videos have no subtitles, such as {own[2]}\n"
    assert (code, err) == (0, note)
    said = {(own[0], 0.0): "a red", (own[0], 2.0): "circle", (own[1], 2.0): "blue"}
    assert {(o["video"], o["start"]): o["context"] for o in found if "context" in o} == said
    plain = objects(caption(*given)[1])
    for one, without in zip(found, plain, strict=True):
        times = {"start": one["start"], "end": one["end"]}
        expected = vt.caption(one["video"], **times, context=one.get("context"))
        assert one["score"] == pytest.approx(expected.candidates[0].score, abs=1e-4)
        # The model has read it.
        assert (one["score"] != pytest.approx(without["score"], abs=1e-4)) == ("context" in one)
    # Of a video that is not cut: what is said in the part that is seen.
    whole = objects(caption(own[0], "--subtitles", tmp_path / "0.srt", "--format", "jsonl")[1])
    middle = probe(own[0]) / 2
    shown = [text for text, a, b in (("a red", 0.5, 1.5), ("circle", 2.0, 3.0))
             if a < middle + 3 and b > middle - 3]  # fmt: skip
    assert whole[0].get("context") == (" ".join(shown) or None)


def test_subtitles_that_cannot_be_used_are_named(caption, videos, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    own = [str(shutil.copy(video, folder / f"{k}.mp4")) for k, video in enumerate(videos)]
    (folder / "0.srt").write_text("nothing of the kind")
    for language in ("de", "en"):
        (folder / f"1.{language}.srt").write_text(SRT)
    (tmp_path / "secret").write_text(SRT)
    (folder / "2.srt").symlink_to(tmp_path / "secret")
    code, out, err = caption(*own, "--subtitles", "auto")
    assert (code, out) == (1, "")
    assert "0.mp4: its subtitles:" in err and "expected subtitles with" in err
    assert "1.mp4: has several subtitles, 1.de.srt and 1.en.srt: name one of them" in err
    assert "2.mp4: outside of the folder of videos" in err
    code, _, err = caption(*own, "--subtitles", folder / "0.srt")
    assert code == 2 and "has the subtitles of one video, found 3" in err
    for name in ("0.srt", "none.srt"):
        code, _, err = caption(own[0], "--subtitles", folder / name)
        assert code == 2 and err.startswith("vt-caption: error: --subtitles: ")


def test_videos_whose_subtitles_have_changed_are_done_again(caption, videos, tmp_path):
    own = [str(shutil.copy(video, tmp_path)) for video in videos[:2]]
    subtitles = Path(own[0]).with_suffix(".srt")
    Path(own[1]).with_suffix(".vtt").write_text("WEBVTT\n\n00:02.000 --> 00:03.000\nblue\n")
    given = [*own, "--out", tmp_path / "out", "--format", "jsonl", "--subtitles", "auto"]
    assert "1 of 2 videos have no subtitles" in caption(*given)[2]
    assert "2 of 2 videos are done" in caption(*given)[2]
    subtitles.write_text(SRT)
    assert "1 of 2 videos are done" in caption(*given)[2]
    assert "2 of 2 videos are done" in caption(*given)[2]
    os.utime(subtitles, (1, 1))
    assert "1 of 2 videos are done" in caption(*given)[2]


def test_a_file_of_results_that_another_video_or_run_has_overwritten_is_not_done(
    caption, videos, tmp_path
):
    own = []
    for folder, video in zip("ab", videos[:2], strict=True):
        (tmp_path / folder).mkdir()
        own.append(str(shutil.copy(video, tmp_path / folder / "clip.mp4")))
    out = ["--out", tmp_path / "out", "--format", "jsonl"]
    for video in (own[0], own[1], own[0]):
        assert "are done" not in caption(video, *out)[2]
        (result,) = (tmp_path / "out").glob("*.jsonl")
        assert json.loads(result.read_text().splitlines()[0])["video"] == video
    assert "are done" in caption(own[0], *out)[2]
    caption(own[0], *out, "--shard", "1/2", "--beam", "2")
    assert "are done" not in caption(own[0], *out)[2]


def test_a_video_that_changed_is_done_once_whatever_older_lists_say(tmp_path):
    video, results = tmp_path / "a.mp4", tmp_path / "a.txt"

    def run(content: str, share: tuple[int, int]) -> bool:
        done = Progress(tmp_path, {"beam": 1}, share)
        was_done = done.has(str(video), results.name)
        if not was_done:
            results.write_text(content)
            done.add(str(video), results.name)
        return was_done

    video.write_text("one")
    assert not run("caption", (0, 2))
    video.write_text("another")
    assert [run("other caption", (0, 1)) for _ in range(3)] == [False, True, True]
    results.write_text("of another video")
    assert not run("caption", (0, 1))


def test_of_a_film_that_is_not_cut_it_is_said_what_the_model_saw(caption, videos, tmp_path):
    films = [write_numbered(tmp_path / f"{name}.mp4", 70, rate=1) for name in "ab"]
    code, _, err = caption(*films, videos[0])
    # The middle 6 seconds, as --max-seconds is.
    assert code == 0 and err == (
        f"vt-caption: note: {films[0]} lasts 00:01:10.000, of which the model saw 00:00:32.000 - "
        "00:00:38.000 (1 more like it); --every 6 captions all of it, in parts\n"
    )
    assert caption(films[0], "--every", "35")[2] == ""
    assert caption(films[0], "--test-window", "whole")[2] == ""
    _, _, err = caption(films[0], "--test-window", "1/2")
    assert "saw 00:00:00.000 - 00:00:06.000;" in err


def test_a_log_gets_a_line_per_minute_with_an_estimate(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 61.0, 62.0, 130.0])
    monkeypatch.setattr("vt_fairseq.cli.progress.time.monotonic", lambda: next(clock))
    with progress("vt-caption", 1000) as advance:
        for count in (0.5, 99.5, 100, 60):
            advance(count)
    assert capsys.readouterr().err == (
        "vt-caption: 100 of 1,000 videos in 01:01, about 09:09 left\n"
        "vt-caption: 260 of 1,000 videos in 02:10, about 06:10 left\n"
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("vt-caption", 2, quiet=True) as advance:
        advance(2)
    assert capsys.readouterr().err == ""
