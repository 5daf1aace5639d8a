"""vt-evaluate: the right numbers from files, and one line that says what is wrong with them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu

from vt_fairseq.cli import evaluate

REPOSITORY = Path(__file__).parents[1]


def write(path: Path, rows: list[dict | str]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command on rows; return exit code, metrics.json (None without), stdout, stderr."""

    def call(task: str, predictions: list, references: list):
        out = tmp_path / "out" / "metrics.json"
        args = [
            "vt-evaluate", task, "--out", out,
            "--predictions", write(tmp_path / "predictions.jsonl", predictions),
            "--references", write(tmp_path / "references.jsonl", references),
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", list(map(str, args)))
        code = 0
        try:
            evaluate.main()
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr()
        found = json.loads(out.read_text()) if out.exists() else None
        return code, found, printed.out, printed.err

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


def test_a_missing_caption_counts_as_empty_and_is_reported(run):
    references = [{"id": str(i), "references": [f"a circle number {i} slides"]} for i in range(3)]
    predictions = [
        {"id": "0", "prediction": "a circle number 0 slides"},
        {"id": "1", "prediction": None},
    ]
    _, found, out, _ = run("captions", predictions, references)
    assert (found["n"], found["missing"]) == (3, 2)
    assert found["exact_match"] == pytest.approx(100 / 3)
    assert found["bleu4"] < 60
    assert "missing" in out


def test_answers_are_compared_by_index(run):
    references = [{"id": str(i), "answer": i} for i in range(4)]
    predictions = [{"id": "0", "prediction": 0, "scores": [0, -1]}, {"id": "2", "prediction": 1}]
    _, found, _, _ = run("vqa", predictions, references)
    assert (found["accuracy"], found["n"], found["missing"]) == (25, 4, 2)


def test_retrieval_reads_rankings(run):
    references = [{"id": f"q{i}", "target": f"v{i}"} for i in range(4)]
    ranking = ["v0", "v1", "v2", "v3", *(f"w{i}" for i in range(16))]
    predictions = [{"id": f"q{i}", "ranking": ranking} for i in range(3)]
    _, found, _, _ = run("retrieval", predictions, references)
    assert {k: found[k] for k in ("r1", "r5", "r10", "median_rank", "n", "missing")} == {
        "r1": 25, "r5": 75, "r10": 75, "median_rank": 2.5, "n": 4, "missing": 1,
    }  # fmt: skip


def test_classes_are_compared_without_case_and_outer_space(run):
    references = [{"id": "a", "label": "Open Door"}, {"id": "b", "references": ["cut", "slice"]}]
    predictions = [{"id": "a", "prediction": " open door "}, {"id": "b", "prediction": "SLICE"}]
    _, found, _, _ = run("classify", predictions, references)
    assert (found["accuracy"], found["missing"]) == (100, 0)
    assert "top5" not in found


def test_top_five_comes_from_the_ranking(run):
    names = [f"c{i}" for i in range(10)]
    references = [{"id": str(i), "label": f"c{i}"} for i in range(10)]
    predictions = [{"id": str(i), "prediction": "c0", "ranking": names} for i in range(10)]
    _, found, _, _ = run("classify", predictions, references)
    assert (found["accuracy"], found["top5"]) == (10, 50)


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
        ("captions", ["[]"], [REFERENCE], "expected an object with an id"),
        ("captions", [{"prediction": "x"}], [REFERENCE], "expected an object with an id"),
        ("captions", [{"id": "a"}], [REFERENCE], "expected 'prediction': a text, found None"),
        ("captions", [{"id": "a", "prediction": 3}], [REFERENCE], "a text, found 3"),
        ("captions", [GOOD], [{"id": "a", "references": []}], "a list of texts, found []"),
        ("captions", [GOOD], [{"id": "a", "references": "x"}], "a list of texts"),
        ("captions", [], [], "has no rows"),
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


def test_the_command_runs_as_a_module_and_names_a_missing_file(tmp_path):
    args = ["captions", "--predictions", "gone.jsonl", "--references", "gone.jsonl"]
    done = subprocess.run(
        [sys.executable, "-m", "vt_fairseq.cli.evaluate", *args],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 2
    assert done.stderr == "vt-evaluate: error: no file gone.jsonl\n"


def test_help_has_an_example_and_loads_nothing_heavy():
    code = (
        "import sys; from vt_fairseq.cli.evaluate import build_parser;"
        "assert 'example:' in build_parser().format_help();"
        "assert not {'pyarrow', 'numpy', 'sacrebleu', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
