"""Libraries: what is indexed once has the captions, scores and answers of today's videos."""

import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import changed
from tests.commands import environment, launcher
from tests.conftest import run_main
from tests.media import write_video
from vt_fairseq import VideoTranslate
from vt_fairseq.cli import ask, index, search
from vt_fairseq.data import clips
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import RunFailure, UserError, VideoError
from vt_fairseq.library.indexing import Options, Video, held
from vt_fairseq.library.library import Library
from vt_fairseq.library.merging import merge, rescue
from vt_fairseq.library.origin import read_origin
from vt_fairseq.library.scenes import scene_detector
from vt_fairseq.video.frame_sampling import regular_segments

QUERY, OTHER = "a red circle slides", "it is blue"
INTERIOR = 5  # the kind of a page that has children
QUESTION, CANDIDATES = "what is it ?", ["a red circle", "blue", "the green square"]


@pytest.fixture(scope="module")
def videos(data_directory, tmp_path_factory) -> list[str]:
    """Copies of some videos, so that tests may change them."""
    folder = tmp_path_factory.mktemp("videos")
    found = sorted((data_directory / "world" / "videos").glob("t*.mp4"))[:4]
    return [shutil.copy(path, folder) for path in found]


@pytest.fixture(scope="module")
def library(vt, videos, tmp_path_factory) -> Library:
    """Of whole videos; a file that can be copied, as it has been closed."""
    path = tmp_path_factory.mktemp("library") / "a.vtlib"
    vt.index(path, videos).close()
    return vt.library(path)


@pytest.fixture
def own(videos, tmp_path) -> list[str]:
    """Two videos of this test's own."""
    (tmp_path / "own").mkdir()
    return [shutil.copy(path, tmp_path / "own") for path in videos[:2]]


def content(path: Path) -> list[tuple]:
    """All that a library says of its segments, without the numbers that the order gives them."""
    query = (
        'SELECT path, sha256, duration, start, "end", context, caption, score, error, video, '
        "encoded FROM segments s JOIN files f ON f.id = s.file LEFT JOIN states ON segment = s.id "
        'ORDER BY path, start, "end"'
    )
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def rows_of(path: Path) -> list[tuple]:
    """Number, run and video of each segment."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT id, run, file FROM segments ORDER BY id").fetchall()


# What it says


def test_captions_and_rankings_are_those_of_the_videos_decoded_again(vt, library, videos):
    captions = vt.caption(videos)
    found = library.captions()
    assert [one.path for one in found] == videos and len(library) == len(videos)
    assert [one.caption for one in found] == [caption.text for caption in captions]
    assert [one.score for one in found] == pytest.approx([c.score for c in captions], abs=1e-4)
    ranked = [vt.rank(query, videos) for query in (QUERY, OTHER)]
    for results, expected in zip(library.search([QUERY, OTHER], top=9), ranked, strict=True):
        assert [one.segment.path for one in results] == [videos[one.index] for one in expected]
        assert [one.score for one in results] == pytest.approx(
            [one.score for one in expected], abs=1e-4
        )
    # Each query alone, the best of it, and per token.
    assert library.search([OTHER], top=2)[0] == [
        replace(one, score=pytest.approx(one.score, abs=1e-4)) for one in results[:2]
    ]
    (normalized,) = library.search([QUERY], length_normalize=True)
    tokens = len(vt.loaded.task.tokenizer.encode(QUERY)) + 1
    assert normalized[0].score * tokens == pytest.approx(ranked[0][0].score, abs=1e-4)


def test_the_encoder_runs_once_for_a_batch_that_is_indexed(vt, own, tmp_path):
    runs = []
    hook = vt.loaded.model.encoder.transformer.register_forward_hook(lambda *_: runs.append(1))
    try:
        vt.index(tmp_path / "a", own).close()
    finally:
        hook.remove()
    assert len(runs) == 1


def test_a_query_reads_the_options_once_and_not_for_each_segment(vt, library, monkeypatch):
    task, calls = type(vt.loaded.task), []
    own = task.text_options
    monkeypatch.setattr(task, "text_options", lambda self: calls.append(1) or own(self))
    with vt.library(library.path) as opened:
        opened.search([QUERY])
    assert len(calls) <= 2


def test_answers_are_those_of_the_videos_decoded_again(vt, library, videos):
    given = library.ask(QUESTION, CANDIDATES)
    for one, expected in zip(given, vt.answer(videos, QUESTION, CANDIDATES), strict=True):
        order = expected.order
        assert one.texts == tuple(CANDIDATES[k] for k in order)
        assert one.scores == pytest.approx([expected.scores[k] for k in order], abs=1e-4)
        assert sum(one.probabilities) == pytest.approx(1)
    free = vt.generate(videos, "answer", question=QUESTION)
    answers = library.ask(QUESTION)
    assert [one.texts for one in answers] == [(caption.text,) for caption in free]
    chosen = library.captions(videos[1])
    assert [one.segment for one in library.ask(QUESTION, segments=chosen)] == chosen
    for candidates in ([], "blue"):
        with pytest.raises(UserError, match="expected a list of answers"):
            library.ask(QUESTION, candidates)


def test_segments_with_times_and_context_have_the_results_of_their_own(vt, videos, tmp_path):
    asked = {"start": [0.5, None, 1.0], "end": [2, 3, None], "context": ["red", None, "a b c"]}
    with closing(vt.index(tmp_path / "a", videos[:3], **asked)) as made:
        found = made.captions()
        for one, caption in zip(found, vt.caption(videos[:3], **asked), strict=True):
            assert (one.caption, one.asked) == (caption.text, (caption.start, caption.end))
        expected = vt.score(videos[:3], [QUERY], **asked)
        (results,) = made.search([QUERY])
        by_path = {one.segment.path: one.score for one in results}
        assert [by_path[v] for v in videos[:3]] == pytest.approx([s for (s,) in expected], abs=1e-4)
        answers = made.ask(QUESTION, CANDIDATES)
        expected = vt.answer(videos[:3], QUESTION, CANDIDATES, **asked)
        assert [max(a.scores) for a in answers] == pytest.approx(
            [max(e.scores) for e in expected], abs=1e-4
        )


def test_a_model_in_half_precision_has_the_scores_of_the_videos_decoded_again(
    trained, videos, tmp_path
):
    half = VideoTranslate.from_pretrained(trained, device="cpu", dtype=torch.bfloat16)
    with closing(half.index(tmp_path / "a", videos[0])) as made:
        ((found,),) = made.search([QUERY])
        (expected,) = half.rank(QUERY, videos[:1])
        assert found.score == pytest.approx(expected.score, abs=1e-4)
    whole = VideoTranslate.from_pretrained(trained, device="cpu")
    with pytest.raises(UserError, match="made with the precision bf16, now it is fp32"):
        whole.index(tmp_path / "a", videos[0])


def test_a_video_is_most_like_itself_and_like_what_looks_so(vt, library, videos, tmp_path):
    copied = shutil.copy(videos[0], tmp_path / "copy.mp4")  # is not in the library
    best, *others = library.like(copied)
    assert best.segment.path == videos[0] and best.score == pytest.approx(1, abs=1e-4)
    stored = library.like(videos[0], top=2)
    assert [one.segment for one in stored] == [one.segment for one in others[:2]]
    assert [o.score for o in stored] == pytest.approx([o.score for o in others[:2]], abs=1e-4)
    with pytest.raises(VideoError, match="no such file"):
        library.like(tmp_path / "none.mp4")
    with closing(vt.index(tmp_path / "parts", videos[:2], every=2)) as parts:
        (at,) = [one for one in parts.captions(videos[0]) if one.start <= 3 < one.end]
        same = parts.like(videos[0], 3.0, top=99)
        assert at not in [one.segment for one in same] and len(same) == len(parts) - 1


def test_equal_segments_come_by_path_whatever_the_order_of_indexing(vt, videos, tmp_path):
    names = ("c.mp4", "a.mp4", "b.mp4")
    paths = [str(shutil.copy(videos[0], tmp_path / name)) for name in names]
    with closing(vt.index(tmp_path / "x", paths)) as made:
        found = [one.segment.path for one in made.search([QUERY], top=2)[0]]
    assert found == sorted(paths)[:2]


def test_a_shortlist_has_the_captions_that_share_words_and_exact_scores(vt, library):
    exact = {one.segment.id: one.score for one in library.search([QUERY], top=99)[0]}
    caption = next(one.caption for one in library.captions() if one.caption.split())
    word = caption.split()[0]
    (found,) = library.search([f'{word} " OR NEAR( nonsense*'], shortlist=2)
    assert 0 < len(found) <= 2 and all(word in one.segment.caption for one in found)
    (listed,) = library.search([QUERY], shortlist=99)
    assert all(exact[one.segment.id] == pytest.approx(one.score, abs=1e-4) for one in listed)
    assert library.search(["?!"], shortlist=3) == [[]]


# What is done, and done once


def test_a_second_run_decodes_nothing_and_a_new_video_alone(vt, own, tmp_path, monkeypatch):
    read: list[str] = []
    decode = vt.loaded.task.clip_loader(None, train=False).__class__.__call__

    def counted(self, row, rng):
        read.append(row.video)
        return decode(self, row, rng)

    monkeypatch.setattr("vt_fairseq.data.clips.ClipLoader.__call__", counted)
    path = tmp_path / "a"
    vt.index(path, own[:1]).close()
    vt.index(path, own[:1]).close()
    vt.index(path, own).close()
    assert read == own
    before = content(path)
    # A clock that was wrong, or a copy: the content is the same.
    for seconds in (0, 4_000_000_000):
        os.utime(own[0], (seconds, seconds))
        vt.index(path, own).close()
    assert read == own and content(path) == before
    shutil.copy(own[1], own[0])
    vt.index(path, own).close()
    assert read == [*own, own[0]]
    captions = [row[6] for row in content(path)]
    assert captions[0] == captions[1] == before[1][6]
    # Cut otherwise, too: what was there stays.
    with closing(vt.index(path, own[:1], every=2)) as library:
        assert len(library.captions(own[0])) == len(read) - 3 + 1 > 2


def test_what_cannot_be_read_is_listed_with_its_reason_and_tried_again_when_told(vt, own, tmp_path):
    path, broken = tmp_path / "a", tmp_path / "own" / "broken.mp4"
    broken.write_bytes(b"no video")
    listed = [own[0], str(broken), str(tmp_path / "gone.mp4"), own[1]]
    for _ in range(2):
        with closing(vt.index(path, listed)) as library:
            assert [(Path(one.path).name, one.error is None) for one in library.captions()] == [
                ("broken.mp4", False), *((Path(p).name, True) for p in own)]  # fmt: skip
            (bad,) = (one for one in library.captions() if one.error)
            assert "not a video file" in bad.error and bad.caption is None and len(library) == 2
            assert len(library.search([QUERY])[0]) == len(library.ask(QUESTION, CANDIDATES)) == 2
    keep = os.stat(broken)
    broken.write_bytes(Path(own[0]).read_bytes())
    vt.index(path, listed).close()
    assert [row[8] for row in content(path)] == [None] * 3
    os.utime(broken, ns=(keep.st_atime_ns, keep.st_mtime_ns))


def test_a_failure_that_has_passed_is_tried_again_only_when_told(vt, own, tmp_path, monkeypatch):
    def fails(path, boundary=None):
        raise VideoError("the network is down")

    path = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr("vt_fairseq.library.indexing.probe", fails)
        vt.index(path, own).close()
    vt.index(path, own).close()
    assert [row[8] for row in content(path)] == ["the network is down"] * 2
    vt.index(path, own, retry=True).close()
    assert [row[8] for row in content(path)] == [None] * 2


@pytest.mark.parametrize("change", [os.remove, lambda path: Path(path).write_bytes(b"other")])
def test_a_file_that_changes_while_it_is_indexed_is_named_and_not_written(
    vt, own, tmp_path, change
):
    failures = []

    def cut(path, duration):
        if path == own[0]:
            change(path)
        return [(None, None)]

    with closing(vt.create_library(tmp_path / "a")) as library:
        options = Options(cut=cut, on_error=lambda video, reason: failures.append((video, reason)))
        loader = vt.loaded.task.clip_loader(None, train=False)
        counts = library.index([Video(path) for path in own], loader, options)
        assert [one.path for one in library.captions()] == [own[1]]
    assert counts.failures == failures and counts.added == 1
    ((video, reason),) = failures
    changed = "it changed while it was indexed: index it again"
    assert video == own[0] and reason in ("no such file", changed)


def test_videos_that_are_gone_are_forgotten_when_told_but_not_with_their_disk(vt, own, tmp_path):
    with closing(vt.index(tmp_path / "a", own)) as library:
        os.remove(own[0])
        assert len(vt.index(tmp_path / "a", own)) == 2
        assert library.forget_gone() == [own[0]]
        assert [one.path for one in library.captions()] == [own[1]]
        os.remove(own[1])
        with pytest.raises(UserError, match="is their disk mounted"):
            library.forget_gone()
        assert len(library.search([QUERY])[0]) == 1


def indexed(vt, path: Path, videos: list[str], parts: tuple[int, int] = (0, 1)) -> None:
    """Parts of 2 s, in groups of two videos."""
    options = Options(
        cut=lambda path, duration: regular_segments(duration, 2), batch_size=2, shard=parts
    )
    with closing(vt.create_library(path)) as library:
        loader = vt.loaded.task.clip_loader(None, train=False)
        library.index([Video(video) for video in videos], loader, options)


@pytest.mark.parametrize("count", [3])
def test_parts_that_are_merged_are_the_library_of_one_run(vt, videos, tmp_path, count):
    indexed(vt, tmp_path / "one", videos)
    whole = content(tmp_path / "one")
    parts = [tmp_path / f"{k}" for k in range(count)]
    for k, part in enumerate(parts):
        indexed(vt, part, videos, (k, count))
    assert all(content(part) != whole for part in parts)
    for _ in range(2):  # what is done is not done again
        merge(tmp_path / "merged", parts)
        assert content(tmp_path / "merged") == whole
    with (
        closing(vt.library(tmp_path / "merged")) as merged,
        closing(vt.library(tmp_path / "one")) as one,
    ):
        pairs = zip(merged.search([QUERY])[0], one.search([QUERY])[0], strict=True)
        assert all(a.segment.start == b.segment.start and a.score == b.score for a, b in pairs)
    assert read_origin(tmp_path / "merged") == read_origin(tmp_path / "one")


def test_parts_that_do_not_belong_together_are_refused(vt, trained, own, tmp_path):
    vt.index(tmp_path / "a", own).close()
    shutil.copy(own[1], own[0])
    vt.index(tmp_path / "b", own).close()
    with pytest.raises(UserError, match="changed between"):
        merge(tmp_path / "merged", [tmp_path / "a", tmp_path / "b"])
    half = VideoTranslate.from_pretrained(trained, device="cpu", dtype=torch.bfloat16)
    half.index(tmp_path / "c", own[1:]).close()
    with pytest.raises(UserError, match="with the precision bf16"):
        merge(tmp_path / "a", [tmp_path / "c"])
    with pytest.raises(UserError, match="no library at"):
        merge(tmp_path / "a", [tmp_path / "none"])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("opened", [True, False], ids=["damaged inside", "not opened"])
def test_what_one_part_could_read_is_in_the_library_of_all_in_any_order(
    vt, videos, tmp_path, order, opened
):
    for name in ("good", "bad"):
        vt.index(tmp_path / name, videos[:1]).close()
    duration = "duration" if opened else "NULL"
    write_database(
        tmp_path / "bad",
        "UPDATE segments SET error = 'damaged', caption = NULL, score = NULL",
        "DELETE FROM states",
        f"UPDATE files SET duration = {duration}",
    )
    parts = [tmp_path / name for name in ("good", "bad")]
    merge(tmp_path / "merged", [parts[k] for k in order])
    assert content(tmp_path / "merged") == content(tmp_path / "good")
    with closing(vt.library(tmp_path / "merged")) as merged:
        assert [one.segment.end is None for one in merged.search([QUERY])[0]] == [False]


def test_a_segment_with_a_number_beyond_all_is_merged_at_once(vt, videos, tmp_path):
    vt.index(tmp_path / "far", videos[:1]).close()
    write_database(
        tmp_path / "far",
        "PRAGMA foreign_keys = OFF",
        f"UPDATE segments SET id = {2**40}",
        f"UPDATE states SET segment = {2**40}",
    )
    assert merge(tmp_path / "merged", [tmp_path / "far"]) == 1


def test_a_part_that_is_missing_leaves_no_library_behind(tmp_path):
    with pytest.raises(UserError, match="no library at"):
        merge(tmp_path / "merged", [tmp_path / "none"])
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('UPDATE segments SET start = 0, "end" = 9e999', "the number inf"),
        ("UPDATE files SET path = CAST('rel.mp4' AS BLOB)", "is not absolute"),
    ],
)
def test_values_that_no_run_writes_are_damage(vt, videos, tmp_path, change, said):
    vt.index(tmp_path / "a", videos[:1]).close()
    write_database(tmp_path / "a", change)
    with closing(vt.library(tmp_path / "a")) as library, pytest.raises(UserError, match=said):
        library.search([QUERY])


def test_a_reason_with_bytes_that_are_no_text_is_written_down(vt, videos, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"no picture")
    with closing(vt.index(tmp_path / "a", [str(folder)])) as library:
        (one,) = library.captions()
    assert "\\udcff.jpg" in one.error or "\\xff" in one.error


def test_a_video_that_is_named_twice_is_decoded_once(vt, videos, tmp_path, monkeypatch):
    decoded = []
    read = clips.read_clip

    def noted(path, *arguments, **options):
        decoded.append(path)
        return read(path, *arguments, **options)

    monkeypatch.setattr(clips, "read_clip", noted)
    vt.index(tmp_path / "a", [videos[0], os.path.relpath(videos[0])]).close()
    assert len(decoded) == 1


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_half_or_done_twice(vt, videos, tmp_path):
    indexed(vt, tmp_path / "whole", videos)
    whole, path = content(tmp_path / "whole"), tmp_path / "killed"
    generator, kills, before = np.random.default_rng(1), 0, []
    began = time.monotonic()
    while kills < 40:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            try:
                indexed(vt, path, videos)
                os._exit(0)
            except BaseException:
                os._exit(1)
        time.sleep(float(generator.random()) * 0.5)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not path.exists():
            continue
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
        kills += 1
        with closing(sqlite3.connect(path)) as db:
            (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        assert verdict == "ok"
        if tables == (0,):
            continue
        left, rows = content(path), rows_of(path)
        assert set(left) <= set(whole) and rows[: len(before)] == before
        before = rows
        if not os.WIFSIGNALED(status) or time.monotonic() - began > 60:
            break
    indexed(vt, path, videos)
    assert content(path) == whole and rows_of(path)[: len(before)] == before and kills > 3


def test_a_disk_that_fills_up_is_a_failure_and_the_same_run_goes_on_where_there_is_room(
    vt, videos, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system may not be mounted here")
    try:
        with pytest.raises(RunFailure, match=f"{disk}/a: the disk is full: make room and run"):
            indexed(vt, disk / "a", videos)
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        began = rows_of(disk / "a")
        indexed(vt, disk / "a", videos)
        indexed(vt, tmp_path / "whole", videos)
        assert content(disk / "a") == content(tmp_path / "whole")
        assert len(began) > 0 and rows_of(disk / "a")[: len(began)] == began
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_two_processes_make_the_library_of_one(trained, videos, tmp_path):
    for processes in (1, 2):
        command = [*launcher(processes), "-m", "vt_fairseq.cli.index", tmp_path / f"{processes}"]
        options = ["--path", trained, "--device", "cpu", "--every", "2", "--batch-size", "2"]
        done = subprocess.run(
            [*map(str, command), *videos, *map(str, options)],
            env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("segments of") == 1
    assert content(tmp_path / "1") == content(tmp_path / "2")


# Files that are none of ours


def test_a_library_of_another_model_is_refused_with_the_way_out(
    vt, trained, library, videos, tmp_path
):
    def turn(state):
        state["model"]["encoder.transformer.final_norm.weight"][3] += 1e-3

    other = VideoTranslate.from_pretrained(changed(trained, tmp_path / "o.pt", turn), device="cpu")
    for call in (lambda: other.library(library.path), lambda: other.index(library.path, videos)):
        with pytest.raises(UserError, match=r"another model .*--path.* into a new library"):
            call()
    before = content(library.path)
    run_main(
        "vt_fairseq.cli.init", "--from-checkpoint", str(trained), "--export", f"{tmp_path}/dir"
    )
    same = VideoTranslate.from_pretrained(tmp_path / "dir", device="cpu")
    with closing(same.library(library.path)) as again:
        assert again.captions() == library.captions() and content(library.path) == before


def write_database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no library at"),
        (lambda path: path.mkdir(), "expected the file of a library"),
        (os.mkfifo, "expected the file of a library"),
        (lambda path: path.write_bytes(b"not a database" * 99), "is no library"),
        (lambda path: path.touch(), "holds nothing yet"),
        (lambda path: write_database(path, "CREATE TABLE a (b)"), "database of another program"),
    ],
)
def test_what_is_no_library_is_refused_in_one_line_and_left_as_it_is(vt, tmp_path, make, message):
    path = tmp_path / "a"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(UserError, match=message) as raised:
        vt.library(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    if before:
        with pytest.raises(UserError, match=message):
            vt.create_library(path)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON segments BEGIN DELETE FROM files; END",
        "CREATE VIEW v AS SELECT * FROM files",
        "DROP INDEX one_of_each",
        "ALTER TABLE runs ADD COLUMN more TEXT",
        "PRAGMA user_version = 7",
    ],
)
def test_a_file_with_other_tables_or_triggers_than_a_library_is_refused(
    vt, library, tmp_path, statement
):
    path = shutil.copy(library.path, tmp_path / "a")
    write_database(path, statement)
    with pytest.raises(UserError, match=r"has other tables|of format 7"):
        vt.library(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE states SET encoded = zeroblob(1024)",
        "UPDATE states SET encoded = x''",
        "UPDATE states SET encoded = substr(encoded, 1, length(encoded) - 3)",
        "UPDATE states SET encoded = CAST(substr(encoded, 2) || x'00' AS BLOB)",
    ],
)
def test_damaged_states_are_named_and_left_out(vt, library, tmp_path, caplog, statement):
    path = shutil.copy(library.path, tmp_path / "a")
    write_database(path, f"{statement} WHERE segment = 2", "UPDATE states SET video = x'00'")
    with closing(vt.library(path)) as damaged:
        assert {one.segment.id for one in damaged.search([QUERY])[0]} == {1, 3, 4}
        assert "the states of segment 2 are damaged, it is left out" in caplog.text
        assert damaged.ask(QUESTION, CANDIDATES) == []


def test_a_damaged_library_is_named_and_the_rest_rescued(vt, videos, tmp_path):
    indexed(vt, tmp_path / "a", videos)
    path, whole = tmp_path / "a", content(tmp_path / "a")
    with closing(sqlite3.connect(path)) as db:
        (size,) = db.execute("PRAGMA page_size").fetchone()
        (first,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'states'").fetchone()
    data = bytearray(path.read_bytes())
    # The first child of the root, by its last page's number in the file format of SQLite.
    root = data[size * (first - 1) : size * first]
    assert root[0] == INTERIOR
    (cell,) = struct.unpack_from(">H", root, 12)
    (leaf,) = struct.unpack_from(">I", root, cell)
    data[size * (leaf - 1) : size * leaf] = b"\xff" * size
    path.write_bytes(data)
    for call in (
        lambda library: library.search([QUERY]),
        lambda library: library.ask(QUESTION, CANDIDATES),
        lambda library: merge(tmp_path / "merged", [path]),
    ):
        expected = pytest.raises(UserError, match=f"a is damaged .*vt-index rescue {path} NEW")
        with closing(vt.library(path)) as library, expected:
            call(library)
    copied = rescue(path, tmp_path / "new")
    rescued = content(tmp_path / "new")
    assert set(rescued) < set(whole) and len(rescued) == copied.segments > len(whole) // 2
    assert len(copied.lost) == len(whole) - len(rescued)
    indexed(vt, tmp_path / "new", videos)
    # Of batches that are done in part, the rest has other last digits.
    assert [row[:7] for row in content(tmp_path / "new")] == [row[:7] for row in whole]
    with pytest.raises(UserError, match="is there already"):
        rescue(path, tmp_path / "new")


def test_a_heads_model_and_frames_make_no_library(vt, videos, tmp_path):
    with pytest.raises(UserError, match="made of files, found frames"):
        vt.index(tmp_path / "a", np.zeros((8, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="every makes the segments"):
        vt.index(tmp_path / "a", videos, every=2, start=1)
    assert not (tmp_path / "a").exists()


# The commands


@pytest.fixture
def command(trained, call_main):
    """Run vt-index, vt-search or vt-ask; exit code, stdout, stderr."""

    def call(module, *arguments):
        return call_main(module.main, *arguments, "--device", "cpu")

    return call


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n") if line]


def test_from_files_to_answers_by_three_commands(command, vt, trained, videos, tmp_path):
    path, folder = tmp_path / "lib" / "a.vtlib", Path(videos[0]).parent
    code, out, err = command(index, path, folder, "--path", trained, "--every", "3")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{path}: \d+ segments of {len(videos)} videos\n", out)
    # The model is the one that the library was made with.
    code, out, err = command(search, path, QUERY, OTHER, "--top", "3", "--format", "jsonl")
    found = objects(out)
    assert (code, err, len(found)) == (0, "", 6)
    assert [one["rank"] for one in found] == [1, 2, 3, 1, 2, 3]
    for one in found:
        times = {"start": one["start"], "end": one["end"]}
        (expected,) = vt.score(one["video"], [one["query"]], **times)
        assert one["score"] == pytest.approx(expected, abs=1e-4)
        assert one["caption"] == vt.caption(one["video"], **times).text
    chosen = ["--search", QUERY, "--top", "2", "--format", "jsonl"]
    code, out, err = command(ask, path, QUESTION, "--candidates", *CANDIDATES, *chosen)
    for one, two in zip(objects(out), found, strict=False):
        times = {"start": one["start"], "end": one["end"]}
        assert (one["video"], one["start"]) == (two["video"], two["start"])
        expected = vt.answer(one["video"], QUESTION, CANDIDATES, **times)
        assert (code, err, one["text"]) == (0, "", expected.text)
        assert one["candidates"][0]["probability"] == pytest.approx(
            max(expected.probabilities), abs=1e-4
        )
    code, out, _ = command(ask, path, QUESTION, "--videos", videos[0])
    assert code == 0 and out.count(videos[0]) == len(out.splitlines()) > 1
    code, out, _ = command(search, path, "--like", f"{videos[0]}@1", "--top-k", "2")
    assert code == 0 and len(out.splitlines()) == 2


def test_lists_manifests_and_data_directories_are_indexed(
    command, vt, trained, data_directory, tmp_path, monkeypatch
):
    world = data_directory / "world"
    folder = Path(shutil.copytree(world / "videos", tmp_path / "videos"))
    lines = (world / "annotations.jsonl").read_text().splitlines()[:3]
    manifest = tmp_path / "rows.jsonl"
    outside = json.dumps({"id": "x", "video": "../secret.mp4", "caption": "a"})
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:01:00,000\na red circle\n")
    rows = [json.loads(line) | {"context": None, "subtitles": "a.srt"} for line in lines]
    manifest.write_text("\n".join([*map(json.dumps, rows), outside]))
    path = tmp_path / "a"
    given = [path, manifest, "--videos", folder, "--path", trained]
    code, out, err = command(index, *given)
    assert code == 1 and "rows.jsonl line 4" in err and "3 segments" in out
    with closing(vt.library(path)) as library:
        expected = vt.caption(
            [folder / row["video"] for row in rows],
            **{key: [row.get(key) for row in rows] for key in ("start", "end")},
            context="a red circle",
        )
        assert {one.context for one in library.captions()} == {"a red circle"}
        assert [one.caption for one in library.captions()] == [one.text for one in expected]
    data = DataDirectory.open(data_directory)
    rows = [row for split in data.splits for row in data.manifest(split)]
    code, out, err = command(index, tmp_path / "b", data_directory, "--path", trained)
    distinct = {(row.video, row.start, row.end, row.context) for row in rows}
    assert (code, err) == (0, "") and f"{len(distinct):,} segments" in out


def test_segments_are_those_of_a_file(command, vt, trained, videos, tmp_path):
    times = tmp_path / "times.jsonl"
    names = [(Path(videos[0]).name, 0, 1.5), (videos[0], 2, 3), (Path(videos[1]).name, 1, 2)]
    rows = [dict(zip(("video", "start", "end"), name, strict=True)) for name in names]
    times.write_text("\n".join(map(json.dumps, rows)))
    given = [tmp_path / "a", *videos[:3], "--path", trained, "--segments", times]
    code, _, err = command(index, *given)
    assert code == 1 and err.count("error") == 1 and f"{videos[2]}: {times} has no segments" in err
    with closing(vt.library(tmp_path / "a")) as library:
        found = {(one.path, one.start, one.end) for one in library.captions() if not one.error}
    # A path is nearer than a name.
    assert found == {(videos[0], 2, 3), (videos[1], 1, 2)}
    times.write_text('{"video": "a.mp4", "start": "0", "end": 1}')
    code, _, err = command(index, *given)
    assert code == 2 and "--segments: " in err and "'start': seconds, found '0'" in err


def test_mistakes_are_one_line_with_code_2(command, library, videos, trained, tmp_path):
    new, old = tmp_path / "a", library.path
    for module, arguments, message in (
        (index, [new, videos[0]], "is new: name a model"),
        (index, [new], "no videos were named"),
        (index, [new, videos[0], "--path", trained, "--shard", "3/2"], "K from 1 to N"),
        (index, ["merge", new], "expected vt-index merge LIBRARY PART..."),
        (index, ["rescue", new], "expected vt-index rescue DAMAGED NEW"),
        (search, [new, QUERY], "no library at"),
        (search, [old], "expected queries or --like VIDEO"),
        (search, [old, QUERY, "--like", videos[0]], "expected queries or --like VIDEO"),
        (ask, [old, QUESTION, "--videos", "none.mp4"], "has no video"),
        (ask, [old, QUESTION, "--videos", "a", "--search", "b"], "give one of them"),
    ):
        code, out, err = command(module, *arguments)
        assert (code, out) == (2, "") and message in err, (arguments, err)
        assert "usage" in err or err.count("\n") == 1
    assert not new.exists()


def test_a_second_run_on_the_same_library_is_refused_and_names_the_first(
    command, trained, videos, tmp_path
):
    path = tmp_path / "a"
    child = os.fork()
    if child == 0:
        with held(path):
            (tmp_path / "ready").touch()
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    try:
        code, _, err = command(index, path, videos[0], "--path", trained)
        assert code == 2 and f"another run writes to {path}: process {child} on" in err
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert command(index, path, videos[0], "--path", trained)[0] == 0


def test_a_library_of_another_user_does_not_choose_the_file_that_is_opened(
    command, library, trained, tmp_path, monkeypatch
):
    path = shutil.copy(library.path, tmp_path / "a")
    assert read_origin(path).checkpoint == trained
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE settings SET value = ? WHERE name = 'checkpoint'", ('"/etc/passwd"',))
        db.commit()
    code, _, err = command(search, path, QUERY)
    assert code == 2 and "by another user or on another machine: name its model" in err
    assert command(search, path, QUERY, "--path", trained)[0] == 0
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert command(search, library.path, QUERY)[0] == 2


HOSTILE = "a\x1b[2J\n\u202e<script>&'.mp4"


def test_hostile_paths_and_queries_are_text_in_every_format(command, vt, trained, videos, tmp_path):
    (tmp_path / "own").mkdir()
    video = tmp_path / "own" / HOSTILE
    shutil.copy(videos[0], video)
    latin = os.path.join(os.fsencode(tmp_path), b"own", b"\xe9.mp4")
    shutil.copy(videos[0], latin)
    path, query = tmp_path / "a", "<b>\x1b[31m\nred</b>"
    assert command(index, path, tmp_path / "own", "--path", trained)[0] == 0
    for format in ("text", "jsonl", "html", "m3u"):
        code, out, _ = command(search, path, query, "--format", format)
        assert code == 0 and "\x1b" not in out and "\u202e" not in out
        assert "<script>" not in out or format != "html"
        if format == "text":
            assert len(out.splitlines()) == 2
    code, out, _ = command(search, path, query, "--format", "m3u")
    assert {line for line in out.splitlines() if line.startswith("file:")} == {
        video.as_uri(), Path(os.fsdecode(latin)).as_uri()}  # fmt: skip
    found = objects(command(search, path, query, "--format", "jsonl")[1])
    assert {one["video"] for one in found} == {str(video), os.fsdecode(latin)}
    assert {one["query"] for one in found} == {query}


def test_scenes_need_a_package_which_the_error_names(
    command, trained, videos, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    given = [tmp_path / "a", videos[0], "--path", trained, "--segments", "scenes"]
    code, _, err = command(index, *given)
    assert code == 2 and "pip install 'vt_fairseq[scenes]'" in err


def test_scenes_are_cut_where_the_picture_changes_and_a_still_video_is_one(tmp_path):
    pytest.importorskip("scenedetect", reason="the extra scenes is not installed")
    # 3 s of gray, 2.4 s of a red and 4 s of a green picture, at 25 frames per second.
    parts = [(75, (90, 90, 90)), (60, (220, 30, 30)), (100, (30, 200, 60))]
    pictures = [np.full((96, 128, 3), color, np.uint8) for n, color in parts for _ in range(n)]
    path = write_video(tmp_path / "cuts.mp4", pictures)
    cut = scene_detector()
    assert cut(str(path), 9.4) == [(0.0, 3.0), (3.0, pytest.approx(5.4)), (pytest.approx(5.4), 9.4)]
    still = write_video(tmp_path / "still.mp4", pictures[:75])
    assert cut(str(still), 3.0) == [(None, None)]
