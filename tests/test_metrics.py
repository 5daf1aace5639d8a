"""Metrics against their official scorers, naive loops and hand-counted cases."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from vt_fairseq.metrics import (
    accuracy,
    caption_metrics,
    classification_metrics,
    rank_metrics,
    recall,
    retrieval_metrics,
    target_ranks,
)

# --- captions ------------------------------------------------------------------------------------


def test_bleu_equals_sacrebleu():
    predictions = ["a red circle slides .", "The cat sat, on the mat", "dogs run fast in the park"]
    streams = [
        ["a red circle slides away .", "the cat sat on the mat", "dogs run in the park fast"],
        ["the circle slides", "a cat sat, on the mat", "dogs run fast in a park"],
    ]
    found = caption_metrics(predictions, list(zip(*streams, strict=True)))
    assert found["bleu4"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert "tok:13a" in found["signatures"]["bleu4"]
    assert "nrefs:2" in found["signatures"]["bleu4"]
    assert sacrebleu.__version__ in found["signatures"]["bleu4"]


@pytest.mark.data
def test_bleu_equals_the_published_score_of_nlg_eval():
    if "VT_TEST_DATA" not in os.environ:
        pytest.skip("VT_TEST_DATA is not set")
    folder = Path(os.environ["VT_TEST_DATA"]) / "metrics" / "nlg_eval_example"
    hypotheses, first, second = (
        (folder / f"{name}.txt").read_text().strip().split("\n") for name in ("hyp", "ref1", "ref2")
    )
    # nlg-eval does not tokenise; these sentences have no punctuation, so 13a changes nothing.
    found = caption_metrics(hypotheses, list(zip(first, second, strict=True)))
    assert found["bleu4"] == pytest.approx(100 * 0.201143, abs=1e-4)


def test_perfect_captions_score_one_hundred():
    texts = ["a red circle slides to the left", "we see a blue square rise"]
    found = caption_metrics(texts, [[t, "something else entirely"] for t in texts])
    assert found["bleu4"] == pytest.approx(100)
    assert (found["exact_match"], found["n"]) == (100, 2)


def test_clips_may_have_different_numbers_of_references():
    predictions = ["a red circle slides down", "a blue square spins now"]
    references = [["a red circle slides"], ["a square", "a blue square spins now", "x y z"]]
    found = caption_metrics(predictions, references)
    streams = [["a red circle slides", "a square"], [None, references[1][1]], [None, "x y z"]]
    assert found["bleu4"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert found["exact_match"] == 50
    swapped = caption_metrics(predictions[::-1], references[::-1])
    assert swapped["bleu4"] == pytest.approx(found["bleu4"])


def test_the_order_of_references_does_not_matter():
    predictions, references = ["a b c d e"], [["a b c d f", "x b c d e", "a b"]]
    turned = [references[0][::-1]]
    assert caption_metrics(predictions, references)["bleu4"] == pytest.approx(
        caption_metrics(predictions, turned)["bleu4"]
    )


def test_empty_hypotheses_score_zero_and_lower_the_rest():
    assert caption_metrics(["", ""], [["a b c d"], ["e f g h"]])["bleu4"] == 0
    half = caption_metrics(["a b c d e", ""], [["a b c d e"], ["f g h i j"]])
    assert 0 < half["bleu4"] < 100
    assert half["exact_match"] == 50


def test_exact_match_ignores_white_space_but_not_case():
    found = caption_metrics([" a  b ", "A b"], [["a b"], ["a b"]])
    assert found["exact_match"] == 50


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no rows"),
        (["a"], [], "1 predictions for 0 rows"),
        (["a", "b"], [["a"], []], "clip 1"),
        (["a"], ["a"], "clip 0: expected a list"),
    ],
)
def test_captions_that_do_not_fit_are_refused(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        caption_metrics(predictions, references)


# --- accuracy ------------------------------------------------------------------------------------


def test_missing_predictions_are_wrong_and_counted():
    assert accuracy([0, None, 2, 1], [0, 1, 2, 3]) == {"accuracy": 50, "n": 4, "missing": 1}


def test_a_missing_prediction_does_not_match_an_answer_of_none():
    assert accuracy([None], [None])["accuracy"] == 0


# --- ranks ---------------------------------------------------------------------------------------


def naive_rank(scores: list[float], target: int) -> int:
    return sum(1 for score in scores if score >= scores[target])


def test_ranks_equal_a_naive_loop_with_many_ties():
    rng = np.random.default_rng(0)
    for _ in range(50):
        queries, columns = rng.integers(1, 12, size=2)
        scores = rng.integers(-2, 3, size=(queries, columns)).astype(rng.choice(["f2", "f4", "f8"]))
        scores[rng.random(scores.shape) < 0.1] = -math.inf
        targets = rng.integers(columns, size=queries)
        expected = [naive_rank(list(row), t) for row, t in zip(scores, targets, strict=True)]
        assert target_ranks(scores, targets).tolist() == expected


def test_ties_are_counted_against_the_target():
    found = retrieval_metrics(np.zeros((4, 20)), [0, 5, 10, 19])
    assert found == {"r1": 0, "r5": 0, "r10": 0, "median_rank": 20, "n": 4}


def test_the_diagonal_of_an_identity_is_found():
    found = retrieval_metrics(np.eye(12), range(12))
    assert found == {"r1": 100, "r5": 100, "r10": 100, "median_rank": 1, "n": 12}


def test_recall_counts_ranks_up_to_its_depth():
    assert recall([1, 2, 5, 6, 10, 11]) == {
        "r1": pytest.approx(100 / 6),
        "r5": pytest.approx(50),
        "r10": pytest.approx(500 / 6),
        "median_rank": 5.5,
        "n": 6,
    }


def test_minus_infinity_is_a_score_and_the_worst_one():
    scores = np.array([[-math.inf, 0.0, -1.0], [-math.inf] * 3])
    assert target_ranks(scores, [0, 0]).tolist() == [3, 3]


def test_nan_is_refused_with_its_place():
    scores = np.zeros((3, 4))
    scores[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"NaN at row 1, column 2 \(1 NaN in all\)"):
        retrieval_metrics(scores, [0, 0, 0])


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        (np.zeros((2, 3)), [0]),
        (np.zeros((2, 3)), [0, 3]),
        (np.zeros((2, 3)), [0, -1]),
        (np.zeros((2, 3)), [0.0, 1.0]),
        (np.zeros(3), [0]),
        (np.zeros((0, 3)), []),
    ],
)
def test_targets_that_do_not_fit_are_refused(scores, targets):
    with pytest.raises(ValueError):
        target_ranks(scores, targets)


def test_classification_counts_the_first_and_the_first_five():
    scores = np.tile(-np.arange(10.0), (4, 1))
    assert classification_metrics(scores, [0, 4, 5, 9]) == {"top1": 25, "top5": 50, "n": 4}


def test_rankings_score_as_the_scores_they_were_sorted_from():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(30, 30))
    rankings = [[str(i) for i in np.argsort(-row)] for row in scores]
    from_scores = retrieval_metrics(scores, range(30))
    assert rank_metrics(rankings, [str(i) for i in range(30)]) == from_scores | {"missing": 0}


def test_a_target_outside_its_ranking_and_a_missing_ranking_are_last_of_the_gallery():
    found = rank_metrics([["a", "b"], ["c"], None], ["a", "a", "b"])
    assert found["median_rank"] == 3
    assert found["r1"] == pytest.approx(100 / 3)
    assert (found["n"], found["missing"]) == (3, 1)


def test_a_ranking_that_names_an_id_twice_is_refused():
    with pytest.raises(ValueError, match="query 1"):
        rank_metrics([["a"], ["a", "a"]], ["a", "a"])
