"""vt-report: what it reads from results and logs, what it leaves out and says, what it escapes."""

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.corpora import write_jsonl
from tests.media import write_numbered
from tests.reports import (
    HOSTILE,
    block,
    page_of,
    rows_of,
    write_data,
    write_hostile,
)
from vt_fairseq.cli import evaluate, report
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.report import charts, confusion, logs, pictures
from vt_fairseq.report.content import read_content
from vt_fairseq.report.page import fitting, render, share, video_url
from vt_fairseq.report.readers import LONG_LINE, read_rankings
from vt_fairseq.report.rows import RIGHT, WRONG, ReportRow, bars_of

ROWS = [
    ClipRow("a", "a.mp4", 0.0, 1.0, captions=("a red circle", "one circle"), label="red"),
    ClipRow("b", "b.mp4", None, None, captions=("a blue square",), label="blue"),
    ClipRow("c", "lost.mp4", 0.5, None, captions=("a green ring",), label="green"),
]
QUESTION = {"question": "what is it ?", "candidates": ("ring", "circle", "cross")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A data directory with two videos of three, and nothing else."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "videos").mkdir()
    for name in "ab":
        write_numbered(folder / "videos" / f"{name}.mp4", 50)
    asked = [replace(row, answer=k % 2, **QUESTION) for k, row in enumerate(ROWS)]
    write_data(folder / "data", folder / "videos", {"test": asked})
    return folder


@pytest.fixture
def folder(runs, tmp_path) -> Path:
    """The data directory with room for results beside it."""
    shutil.copytree(runs / "data", tmp_path / "data")
    return tmp_path


# --- results --------------------------------------------------------------------------------------


def test_captions_are_exact_or_not_and_the_worst_come_first(folder):
    said = [
        {"id": "a", "prediction": "one  circle", "score": -0.5},
        {"id": "b", "prediction": "a red ring", "score": -2.0},
        {"id": "c", "prediction": "", "missing": True},
    ]
    write_jsonl(folder / "captions" / "predictions.jsonl", *said)
    right = [{"id": row.id, "references": list(row.captions)} for row in ROWS]
    write_jsonl(folder / "captions" / "references.jsonl", *right)
    page = page_of(folder)
    missing, wrong, exact = rows_of(page)
    assert [row["outcome"] for row in (missing, wrong, exact)] == ["missing", "wrong", "right"]
    assert wrong["overlap"] == pytest.approx(1 / 3, abs=1e-4)
    assert exact["references"] == ["a red circle", "one circle"]
    assert exact["clip"] == "a.mp4, 0 to 1 s"
    assert "METEOR, ROUGE-L and CIDEr are those of vt-evaluate captions" in page
    # Two clips have pictures and the third the reason why not.
    drawn = block(page, "pictures")
    assert sorted(len(picture.get("frames", ())) for picture in drawn) == [0, 4, 4]
    assert [p["reason"] for p in drawn if "reason" in p] == ["no such file"]


def test_a_model_that_says_the_same_of_all_clips_is_named_and_gains_over_blank_are_shown(tmp_path):
    colors = ("red", "blue", "green", "gray", "white")
    same = [{"id": str(k), "prediction": "a red ball"} for k in range(20)]
    write_jsonl(tmp_path / "captions" / "predictions.jsonl", *same)
    right = [{"id": str(k), "references": [f"a {colors[k % 5]} ball"]} for k in range(20)]
    write_jsonl(tmp_path / "captions" / "references.jsonl", *right)
    assert "<b>1</b> distinct" in page_of(tmp_path)  # counted without a metrics.json
    numbers = {"exact_match": 20.0, "exact_match_gain": 4.0, "exact_match_blank": 16.0}
    numbers |= {"exact_match_gain_low": -1.25, "exact_match_gain_high": 9.0}
    (tmp_path / "captions" / "metrics.json").write_text(json.dumps(numbers))
    page = page_of(tmp_path)
    assert "<b>100.0</b> % most frequent" in page
    assert "<b>+4.0</b> exact over blank video, -1.2 to +9.0" in page
    (note,) = block(page, "result-0")["notes"][:1]
    assert "100.0 % of 20 predictions are the same" in note and "more than 20.0 %" in note


def scored(folder: Path, kind: str, predictions: list[dict], records: list[dict] = ()) -> Path:
    """The folder of a vt-score."""
    out = folder / kind
    write_jsonl(out / "predictions.jsonl", *predictions)
    if records:
        write_jsonl(out / "scores.jsonl", *records)
    (out / "settings.json").write_text(json.dumps({"kind": kind, "split": "test"}))
    return out


def test_questions_have_their_candidates_with_shares_of_the_softmax(folder):
    said = [
        {"id": "a", "prediction": 1, "scores": [-2.0, -1.0, -3.0]},
        {"id": "b", "prediction": 1, "scores": [-2.0, -1.0, -3.0]},
        {"id": "c", "prediction": None, "scores": []},
    ]
    out = scored(folder, "vqa", said)
    (out / "metrics.json").write_text(
        json.dumps({"accuracy": 33.333, "n": 3, "missing": 1, "signatures": {"score": "sum"}})
    )
    (folder / "vqa.log").write_text(
        "2026-01-01 | WARNING | vt_fairseq.scoring.run | cannot read clip c: no such file\n"
    )
    page = page_of(folder)
    missing, wrong, right = rows_of(page)
    assert (missing["outcome"], missing["reason"]) == ("missing", "no such file")
    assert wrong["bars"] == [
        ["ring", -2.0, 0.245, 1, 0],
        ["circle", -1.0, 0.665, 0, 1],
        ["cross", -3.0, 0.09, 0, 0],
    ]
    assert right["bars"][1] == ["circle", -1.0, 0.665, 1, 1]
    assert "<b>33.3</b> accuracy" in page and '<code dir="auto">sum</code>' in page


def test_classes_are_right_by_the_rank_that_vt_score_gave(folder):
    said = [
        {"id": "a", "prediction": "red", "ranking": ["red", "blue"]},
        {"id": "b", "prediction": "blue", "ranking": ["blue", "green"]},
        {"id": "c", "prediction": "red", "ranking": ["red", "green"]},
    ]
    records = [
        {"id": "a", "scores": [-1.0, -2.0, -9.0], "ranks": {"label": 1}, "captions": ["is red"]},
        {"id": "b", "scores": [-9.0, -1.0, -1.0], "ranks": {"label": 2}},  # a tie, which is lost
        {"id": "c", "scores": [-1.0, -9.0, -2.0], "ranks": {"label": 3}},
    ]
    scored(folder, "classify", said, records)
    page = page_of(folder)
    found = {row["id"]: row for row in rows_of(page)}
    assert [found[name]["outcome"] for name in "abc"] == ["right", "wrong", "wrong"]
    assert found["a"]["captions"] == ["is red"]
    assert found["a"]["bars"][0][:2] == ["red", -1.0] and found["c"]["rank"] == 3
    assert "1 of 1" in page  # green is taken for red


def test_verbs_and_nouns_are_one_action(tmp_path):
    said = [
        {"id": "1", "verb": "cut", "noun": "cheese", "action_ranking": [["cut", "cheese"]]},
        {"id": "2", "verb": "open", "noun": "door", "action_ranking": [["open", "door"]]},
    ]
    right = [
        {"id": "1", "verb": "cut", "noun": "bread"},
        {"id": "2", "verb": "open", "noun": "door"},
    ]
    write_jsonl(tmp_path / "out" / "predictions.jsonl", *said)
    write_jsonl(tmp_path / "out" / "references.jsonl", *right)
    page = page_of(tmp_path)
    wrong, right = rows_of(page)
    assert (wrong["prediction"], wrong["references"]) == ("cut cheese", ["cut bread"])
    assert (wrong["outcome"], right["outcome"]) == ("wrong", "right")
    assert "Nouns" in page and "Verbs" not in page  # no verb is confused


def test_retrieval_has_the_first_five_and_the_rank_of_the_right_clip(folder):
    rankings = {"a": "abc", "b": "cab", "c": "acb"}
    scored(folder, "retrieval", [{"id": i, "ranking": list(r)} for i, r in rankings.items()])
    found = {row["id"]: row for row in rows_of(page_of(folder))}
    assert {name: row["rank"] for name, row in found.items()} == {"a": 1, "b": 3, "c": 2}
    assert found["b"]["top"] == ["c", "a", "b"] and found["b"]["asked"] == "a blue square"


@pytest.mark.parametrize("strange", ["", "é ", '", "', "\\"])
def test_long_rankings_are_searched_as_they_would_be_parsed(tmp_path, strange):
    ids = [f"{strange}clip-{k}" for k in range(2500)]
    rankings = {ids[7]: ids[::-1], ids[9]: ids[10:], ids[0]: ids}
    path = tmp_path / "predictions.jsonl"
    write_jsonl(path, *({"id": name, "ranking": ranking} for name, ranking in rankings.items()))
    assert min(map(len, path.read_bytes().splitlines())) > LONG_LINE
    found = {ranking.id: ranking for ranking in read_rankings(path, {ids[0]: ids[3]})}
    assert found[ids[7]].rank == 2493 and found[ids[7]].top == ids[:-6:-1]
    assert found[ids[9]].rank is None
    assert found[ids[0]].rank == 4  # of the target that references.jsonl names


def test_without_references_the_page_says_that_it_cannot_judge(tmp_path):
    write_jsonl(tmp_path / "predictions.jsonl", {"id": "a", "prediction": "a ring"})
    page = page_of(tmp_path)
    assert rows_of(page)[0]["outcome"] == "open"
    assert "neither references.jsonl nor a data directory" in page
    assert "Add --data DATA" in page


def test_rejected_rows_are_listed_with_their_reasons(folder):
    (folder / "data" / "rejected.jsonl").write_text(
        json.dumps(dict.fromkeys(("id", "video", "split", "where"), "x") | {"reason": "bad: why"})
    )
    data = json.loads((folder / "data" / "data.json").read_text())
    (folder / "data" / "data.json").write_text(json.dumps(data | {"reasons": {"bad": 1}}))
    scored(folder, "retrieval", [{"id": "a", "ranking": ["a"]}])
    page = page_of(folder)
    assert '<b>1</b> <span dir="auto">bad</span>' in page and "bad: why" in page


# --- what is left out -----------------------------------------------------------------------------


def test_numbers_are_those_of_vt_evaluate_where_there_is_no_metrics_json(tmp_path, call_main):
    said = ["a red circle", "a blue circle", None, "a ring"]
    right = [["a red circle", "one"], ["a blue square in a room"], ["a moon"], ["a ring falls"]]
    files = [tmp_path / f"{name}.jsonl" for name in ("predictions", "references")]
    write_jsonl(files[0], *({"id": str(k), "prediction": p} for k, p in enumerate(said)))
    write_jsonl(files[1], *({"id": str(k), "references": r} for k, r in enumerate(right)))
    page = page_of(tmp_path)
    names = [f"--{f.stem}={f}" for f in files]
    out = tmp_path / "metrics.json"
    code, *_ = call_main(evaluate.main, "captions", *names, "--coco", "off", "--out", out)
    assert code == 0
    written = json.loads(out.read_text())
    assert written["exact_match"] == 25.0
    for text in (f"<b>{written['bleu4']:.1f}</b> BLEU-4", "<b>25.0</b> exact"):
        assert text in page and text in page_of(tmp_path)
    assert "no numbers" not in page
    out.unlink()
    write_jsonl(files[0], {"id": "of another split", "prediction": "a ring"})
    assert "vt-evaluate captions --out metrics.json makes it" in page_of(tmp_path)


@pytest.mark.parametrize(
    ("page", "video", "times", "url"),
    [
        ("", "a.mp4", (None, None), "./videos/a.mp4"),
        ("", "a.mp4", (0.5, 2.0), "./videos/a.mp4#t=0.5,2"),
        ("", "a.mp4", (1.25, None), "./videos/a.mp4#t=1.25"),
        ("", "a.mp4", (None, 2.0), "./videos/a.mp4#t=0,2"),
        ("x/y", "a.mp4", (None, None), "./../../videos/a.mp4"),
        ("x/y/z", "a.mp4", (None, None), ""),  # not beside it
        (
            "",
            "javascript:a #?%é.mp4",
            (None, None),
            "./videos/javascript%3Aa%20%23%3F%25%C3%A9.mp4",
        ),
        ("", "lost.mp4", (None, None), ""),
        ("", "", (None, None), ""),  # a folder of frames
    ],
)
def test_a_clip_is_named_relative_to_a_page_beside_its_video(tmp_path, page, video, times, url):
    (tmp_path / "videos").mkdir()
    if video and "lost" not in video:
        (tmp_path / "videos" / video).write_bytes(b"")
    clip = pictures.ClipLocation(tmp_path / "videos", video, *times)
    assert video_url(clip, tmp_path / page) == url


def test_only_clips_that_were_read_inside_of_their_folder_are_named(runs, folder):
    scored(folder, "classify", [{"id": row.id, "prediction": "red"} for row in ROWS])
    (folder / "videos").symlink_to(runs / "videos")
    page = render(read_content([folder], [], 10), runs).decode()
    shown = block(page, "pictures")
    urls = ["./videos/b.mp4", "./videos/a.mp4#t=0,1"]
    assert sorted(p["video"] for p in shown if "video" in p) == sorted(urls)
    assert [p["reason"] for p in shown if "video" not in p] == ["no such file"]
    assert "video" not in json.dumps(block(page_of(folder), "pictures"))


def test_texts_share_the_room_and_small_results_keep_all_of_theirs():
    assert share([10, 1000, 400], 500) == [10, 245, 245]
    assert share([10, 20], 500) == [10, 20]
    assert list(fitting(["aaaa", "bb", "c"], 6)) == ["aaaa", "bb"]
    assert list(fitting(["éé", "c"], 4)) == ["éé"]  # in bytes


def test_pictures_are_of_two_failures_and_a_success_in_turn_up_to_a_limit(tmp_path):
    names = "abcdxyz"
    rows = [ClipRow(name, "lost.mp4", float(k), label=name) for k, name in enumerate(names)]
    write_data(tmp_path / "data", tmp_path, {"test": rows})
    scored(tmp_path, "classify", [{"id": n, "prediction": n if n > "d" else "x"} for n in names])
    for count, expected in ((3, "abx"), (5, "abcdx"), (6, "abcdxy")):
        page = page_of(tmp_path, clips=count)
        assert "".join(sorted(block(page, "result-0")["pictures"])) == expected
        assert len(block(page, "pictures")) == count
        assert f"Pictures of {count} clips; the limit was --clips {count}." in page


def test_a_clip_that_leads_out_of_the_video_root_has_a_reason_and_no_picture(runs):
    (runs / "outside.mp4").write_bytes((runs / "videos" / "a.mp4").read_bytes())
    drawn = pictures.draw(pictures.ClipLocation(runs / "videos", "../outside.mp4", None, None))
    assert not drawn.frames and "outside of the folder of videos" in drawn.reason


# --- parts ----------------------------------------------------------------------------------------


def test_candidates_beyond_ten_keep_the_right_one():
    bars = bars_of(
        [f"t{k}" for k in range(20)], [float(-k) for k in range(20)], correct=19, chosen=0
    )
    assert len(bars) == 10 and bars[-1].correct and bars[0].chosen
    assert sum(bar.share for bar in bars_of("abc", [0.0, 1.0, 2.0], None, 2)) == pytest.approx(1)


def test_confusion_counts_wrong_pairs_and_the_rest_of_their_rows():
    said = [("cut", "peel")] * 3 + [("cut", "cut")] * 2 + [("peel", "cut")] + [("wash", "wash")]
    rows = [ReportRow(str(k), WRONG, classes={"verb": pair}) for k, pair in enumerate(said)]
    (found,) = confusion.confusions(rows)
    assert found.pairs == [("cut", "peel", 3, 5), ("peel", "cut", 1, 1)]
    assert (found.references, found.predicted) == (["cut", "peel"], ["cut", "peel"])
    assert [[count for count, _ in row] for row in found.table] == [[0, 3], [1, 0]]
    assert (found.itself, found.others) == ([2, 0], [0, 0])
    right = [ReportRow("1", RIGHT, classes={"verb": ("cut", "cut")})]
    assert confusion.confusions(right) == []


# --- curves ---------------------------------------------------------------------------------------

INNER = (
    "2026-01-01 00:00:00 | INFO | train_inner | epoch 001:     {n} / 94 loss={loss}, "
    "accuracy=50, ups=2, bsz=32, num_updates={n}, lr=0.001, gnorm=1.5, loss_scale=128, "
    "train_wall=15, wall={wall}"
)
SIMPLE = [
    "x | INFO | fairseq_cli.train | {'model': {'video_lr_scale': 0.1, 'head_lr_scale': 100.0, "
    "'heads': ''}}",
    *[INNER.format(n=10 * k, loss=9 - k, wall=20 * k) for k in range(1, 6)],
    "x | INFO | valid | epoch 001 | valid on 'valid' subset | loss 3.5 | accuracy 40 | bleu 12.5 "
    "| num_updates 50",
    "x | INFO | fairseq.checkpoint_utils | Saved checkpoint a.pt (epoch 1 @ 50 updates)",
    "x | INFO | train | epoch 001 | loss 5 | num_updates 50",
    INNER.format(n=60, loss="nan", wall=400),
    "x | WARNING | vt_fairseq.task | cannot read clip a | b: no: such file",
    "x | INFO | fairseq_cli.train | done training in 130.2 seconds",
]


def as_json(line: str) -> str:
    """A line of --log-format simple as --log-format json has it."""
    head, name, message = line.rsplit(" | ", 2) if "train_inner" in line else (None, None, None)
    if head is None:
        return line
    pairs = (entry.split("=") for entry in message.split("/ 94 ")[1].split(", "))
    return f"{head} | {name} | {json.dumps({'epoch': 1, 'update': 0.1, **dict(pairs)})}"


@pytest.mark.parametrize("form", ["simple", "json"])
def test_a_log_in_either_format_gives_the_same_curves(tmp_path, form):
    lines = SIMPLE
    if form == "json":
        valid = {"valid_loss": "3.5", "valid_accuracy": 40, "valid_bleu": 12.5}
        valid = {"epoch": 1, **valid, "valid_num_updates": "50"}
        lines = [
            f"x | INFO | valid | {json.dumps(valid)}" if "valid on" in line else as_json(line)
            for line in SIMPLE
        ]
    (tmp_path / "train.log").write_text("\n".join(lines))
    log = logs.read_log(tmp_path / "train.log")
    found = {chart.title: chart.curves for chart in charts.charts_of(log)}
    assert found["Loss"]["training"] == [(10, 8), (20, 7), (30, 6), (40, 5), (50, 4)]
    assert found["Loss"]["valid"] == [(50, 3.5)]
    assert found["Accuracy"]["valid"] == [(50, 40)]
    assert found["BLEU in validation"] == {"valid": [(50, 12.5)]}
    assert found["Learning rate"]["video network"][0] == (10, pytest.approx(1e-4))
    assert set(found["Learning rate"]) == {"transformer", "video network"}
    assert found["Loss scale"]["training"][0] == (10, 128)
    assert found["Speed"]["training"][0] == (10, 64)
    # 20 s between lines, 15 of them in updates; the line after a checkpoint is left out.
    assert found["Waiting for data"]["training"] == [(30, 25.0), (50, 25.0)]
    assert log.ended and log.not_finite == 1 and log.unread == {"a | b": "no: such file"}


def test_a_run_that_went_on_from_an_earlier_checkpoint_overwrites(tmp_path):
    again = [INNER.format(n=n, loss=1, wall=500) for n in (40, 50)]
    (tmp_path / "train.log").write_text("\n".join([*SIMPLE, *again]))
    log = logs.read_log(tmp_path / "train.log")
    assert [log.inner[n].get("loss") for n in (30, 40, 50, 60)] == [6, 1, 1, None]
    assert not log.ended


def test_an_empty_log_and_one_point_can_be_drawn_and_thinned_curves_keep_their_peaks():
    one = charts.draw(charts.Chart("Loss", "", {"training": [(10.0, 0.0)]}))
    assert one.lines[0].dots and one.lines[0].last == "0"
    assert charts.draw(charts.Chart("Loss", "", {})).lines == []
    curve = [(float(x), 100.0 if x == 5001 else 1.0) for x in range(10_000)]
    kept = charts.thinned(curve)
    assert len(kept) <= charts.MOST_POINTS + 2 and {(5001.0, 100.0), curve[0], curve[-1]} < {*kept}


def test_ticks_are_round_and_hold_every_value():
    assert charts.ticks(0.0, 1500.0, 4) == [0.0, 500.0, 1000.0, 1500.0]
    assert charts.ticks(0.0, 0.001, 4) == [0.0, 0.00025, 0.0005, 0.00075, 0.001]
    shown = [charts.shown(value) for value in (0.0, 0.00075, 80.0, 2.5, 1500.0, 65536e2)]
    assert shown == ["0", "7.5e-4", "80", "2.5", "1,500", "6.6e6"]


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, call_main):
    """(*arguments) -> exit code, stdout, stderr."""
    return lambda *arguments: call_main(report.main, *arguments, "--out", tmp_path / "report.html")


def test_the_command_writes_one_file_and_says_what_is_in_it(folder, run):
    scored(folder, "retrieval", [{"id": "a", "ranking": ["a"]}])
    (folder / "train.log").write_text("\n".join(SIMPLE))
    code, out, _ = run(folder)
    assert code == 0
    assert "results 1, rows 1, pictures of clips 1, trainings 1" in out
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_a_folder_with_nothing_to_show_is_a_mistake_in_one_line(tmp_path, run):
    code, _, error = run(tmp_path)
    assert code == 2 and error.count("\n") == 1
    assert "expected folders of vt-score or fairseq-generate --results-path" in error
    (tmp_path / "checkpoint_last.pt").touch()
    assert "checkpoints alone have nothing to show" in run(tmp_path)[2]
    assert "no folder" in run(tmp_path / "nowhere")[2]
    (tmp_path / "scores.part0.jsonl").touch()
    assert "has not ended" in run(tmp_path)[2]


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("captions", {"prediction": ["a"]}, "expected 'prediction': a text"),
        ("captions", {"prediction": "a", "score": "high"}, "expected 'score': a number"),
        ("vqa", {"prediction": 10**12}, "the index of a candidate"),
        ("vqa", {"prediction": "two"}, "the index of a candidate"),
        ("vqa", {"prediction": 1, "scores": [0.5, float("nan")]}, "NaN among the scores"),
        ("vqa", {"prediction": 1, "scores": 5}, "a list of numbers"),
        ("classify", {"prediction": ["red"]}, "the name of a class"),
        ("retrieval", {"ranking": "abc"}, "distinct ids"),
        ("retrieval", {}, "expected an object with id and ranking"),
        ("retrieval", {"id": None, "ranking": ["a"]}, "expected 'id': a text, found None"),
        ("retrieval", {"id": [], "ranking": ["a"]}, "expected 'id': a text, found []"),
        ("vqa", {"id": 7, "prediction": 1}, "id"),
    ],
)
def test_damaged_results_are_named_and_the_others_shown(folder, kind, row, message, run):
    scored(folder, "classify", [{"id": "a", "prediction": "red"}])
    write_jsonl(folder / "empty" / "predictions.jsonl")
    write_jsonl(folder / "bad" / "predictions.jsonl", {"id": "a"} | row)
    if kind != "captions":
        (folder / "bad" / "settings.json").write_text(json.dumps({"kind": kind}))
    code, out, _ = run(folder)
    assert code == 0 and message in out and "results 1," in out
    assert f"Not shown: {folder}/bad/predictions.jsonl line 1" in out
    assert "empty/predictions.jsonl has no rows" in out


def test_scores_of_minus_infinity_and_references_without_predictions_are_shown(tmp_path):
    rows = [{"id": "a", "prediction": 0, "scores": [-float("inf")] * 2}]
    write_jsonl(tmp_path / "vqa" / "predictions.jsonl", *rows)
    write_jsonl(tmp_path / "vqa" / "references.jsonl", *({"id": n, "answer": 1} for n in "ab"))
    write_jsonl(tmp_path / "x" / "predictions.jsonl", {"id": "a", "prediction": "red"})
    write_jsonl(tmp_path / "x" / "references.jsonl", *({"id": n, "label": "red"} for n in "ab"))
    page = page_of(tmp_path)
    missing, wrong = rows_of(page)
    assert (missing["id"], wrong["id"]) == ("b", "a")
    assert wrong["bars"] == [["candidate 0", None, 0.0, 0, 1], ["candidate 1", None, 0.0, 1, 0]]
    assert [row["outcome"] for row in rows_of(page, 1)] == ["missing", "right"]


def test_data_directories_that_lie_elsewhere_or_lost_their_videos(folder, run, tmp_path_factory):
    results = tmp_path_factory.mktemp("elsewhere")
    scored(results, "retrieval", [{"id": "a", "ranking": ["a"]}])
    assert "No pictures: no data directory" in run(results)[1]
    assert "pictures of clips 1" in run(results, "--data", folder / "data")[1]
    assert "does not exist" in run(results, "--data", folder / "no")[1]
    data = json.loads((folder / "data" / "data.json").read_text())
    (folder / "data" / "data.json").write_text(json.dumps(data | {"video_root": "/nowhere/at/all"}))
    # Somebody else's data.json: the rows are shown, the folder is not looked into.
    code, out, _ = run(results, "--data", folder / "data")
    assert code == 0 and "pictures of clips 0" in out
    assert "No pictures of data" in out and "--video-root /nowhere/at/all" in out
    code, out, _ = run(results, "--data", folder / "data", "--videos", "/not/there")
    assert code == 0 and "/not/there, is not there" in out


# --- hostile texts --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    """A page all of whose texts are hostile."""
    return page_of(write_hostile(tmp_path_factory.mktemp("hostile") / "runs"))


def test_hostile_texts_are_escaped_wherever_they_stand(hostile):
    page = hostile
    # The page's own elements are the only ones: pictures, four results, one script, one style.
    assert page.count("<script") == 6 == page.count("</script>")
    assert page.count("<style>") == 1 and "<img" not in page and "<iframe" not in page
    assert "javascript:alert" in page and 'href="javascript' not in page.lower()
    for number in range(4):
        rows = rows_of(page, number)
        assert any(
            HOSTILE in json.dumps(row, ensure_ascii=False).replace('\\"', '"') for row in rows
        )
    assert "{{ 7 * 7 }}" in page


def test_the_policy_names_the_pages_own_script_and_style_and_nothing_else(hostile):
    page = hostile
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy
    assert not re.search(r'\s(style|on\w+)="', page)
