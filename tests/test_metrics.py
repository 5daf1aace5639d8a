"""Metrics against their official scorers, naive loops and hand-counted cases."""

import math

import numpy as np
import pytest
import sacrebleu

from vt_fairseq.metrics import (
    BleuStatistics,
    accuracy,
    action_metrics,
    action_ranks,
    caption_metrics,
    classification,
    classification_metrics,
    per_class_accuracy,
    rank_metrics,
    recall,
    retrieval_metrics,
    target_ranks,
)
from vt_fairseq.metrics.classification import mean_class_measure
from vt_fairseq.metrics.retrieval import ranking_places

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


def test_bleu_of_every_order_is_sacrebleus_and_statistics_add_up():
    predictions = ["a b c d e f", "", "the cat sat , on the mat", "x", "dogs run fast in the park"]
    right = [
        ["a b c d x f"],
        ["y z"],
        ["the cat sat on a mat", "cats sit"],
        ["x"],
        ["dogs run in parks"],
    ]
    streams = [[r[0] for r in right], [None, None, right[2][1], None, None]]
    found = caption_metrics(predictions, right)
    for order in (1, 2, 3, 4):
        expected = sacrebleu.BLEU(max_ngram_order=order).corpus_score(predictions, streams).score
        assert found[f"bleu{order}"] == pytest.approx(expected, abs=1e-9)
    counts = BleuStatistics.of(predictions, right)
    assert counts.bleu() == pytest.approx(found["bleu4"])
    parts = [BleuStatistics.of(predictions[k], right[k]).as_dict() for k in (slice(2), slice(2, 5))]
    summed = {key: parts[0][key] + parts[1][key] for key in parts[0]}
    assert BleuStatistics.from_dict(summed) == counts
    assert BleuStatistics.of(["a"], [[]]).score() == 0


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
    found = classification_metrics(scores, [0, 4, 5, 9])
    assert found == {"top1": 25, "top5": 50, "mean_class_accuracy": 25, "n": 4}


def test_classes_count_alike_in_their_mean_however_many_rows_they_have():
    right, classes = [1, 1, 1, 0, 0], ["a", "a", "a", "a", "b"]
    assert per_class_accuracy(right, classes) == {"a": (75, 4), "b": (0, 1)}
    assert mean_class_measure("mean", right, classes).numbers() == {"mean": 37.5}
    scores = np.eye(3)[[0, 0, 0, 1, 0]]
    found = classification_metrics(scores, [0, 0, 0, 0, 1])
    assert (found["top1"], found["mean_class_accuracy"]) == (60, 37.5)


def test_actions_are_ranked_by_the_product_of_both_probabilities():
    rng = np.random.default_rng(0)
    verbs, nouns = rng.normal(size=(40, 5)), rng.normal(size=(40, 7))
    v, n = rng.integers(5, size=40), rng.integers(7, size=40)
    softmax = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (verbs, nouns)]
    joint = softmax[0][:, :, None] * softmax[1][:, None, :]
    expected = [(joint[i] >= joint[i, v[i], n[i]]).sum() for i in range(40)]
    assert action_ranks(verbs, nouns, v, n).tolist() == expected
    found = action_metrics(verbs, nouns, v, n)
    both = (verbs.argmax(axis=1) == v) & (nouns.argmax(axis=1) == n)
    assert found["action_top1"] == pytest.approx(100 * both.mean())
    assert found["action_top5"] == pytest.approx(100 * np.mean(np.array(expected) <= 5))
    assert found["verb_top1"] == pytest.approx(100 * np.mean(verbs.argmax(axis=1) == v))
    assert found["noun_top5"] == classification_metrics(nouns, n)["top5"]
    assert found["n"] == 40


def test_a_clip_that_was_not_scored_has_no_right_action():
    found = action_metrics(np.zeros((1, 3)), np.zeros((1, 4)), [0], [0])
    assert (found["verb_top1"], found["noun_top1"], found["action_top5"]) == (0, 0, 0)


def test_actions_are_compared_in_slices_without_a_difference(monkeypatch):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(9, 4)), rng.normal(size=(9, 6))
    targets = rng.integers(4, size=9), rng.integers(6, size=9)
    whole = action_ranks(*scores, *targets)
    monkeypatch.setattr(classification, "_PAIRS_AT_ONCE", 50)
    assert (action_ranks(*scores, *targets) == whole).all()


def test_nan_among_verbs_or_nouns_is_refused_with_its_place():
    nouns = np.zeros((3, 4))
    nouns[2, 1] = math.nan
    with pytest.raises(ValueError, match="NaN at row 2, column 1"):
        action_metrics(np.zeros((3, 2)), nouns, [0, 0, 0], [0, 0, 0])


def howto100m(x: np.ndarray) -> dict:
    """What the shared script computes, step by step: places in the sorted row that equal."""
    _, places = np.nonzero(np.sort(-x, axis=1) - np.diag(-x)[:, None] == 0)
    found = {f"r{k}": 100 * np.mean(places < k) for k in (1, 5, 10)}
    return found | {"median_rank": np.median(places) + 1}


@pytest.mark.parametrize("levels", [2, 4, 1000])
def test_ties_in_howto100ms_way_are_the_scripts_and_differ_from_the_pessimistic_way(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(30, 30)).astype(float)
    found = retrieval_metrics(scores, range(30), ties="howto100m")
    assert found == pytest.approx(howto100m(scores) | {"n": 30})
    pessimistic = retrieval_metrics(scores, range(30))
    assert (found["r1"] > pessimistic["r1"]) == (levels < 1000)


def test_one_score_for_all_is_chance_in_howto100ms_way_and_nothing_in_ours():
    scores = np.zeros((20, 20))
    assert retrieval_metrics(scores, range(20))["r1"] == 0
    assert retrieval_metrics(scores, range(20), ties="howto100m")["r1"] == pytest.approx(100 / 20)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_minus_infinity_of_the_target_does_not_count_in_howto100ms_way():
    scores = np.array([[1.0, 0.0], [-math.inf, -math.inf]])
    found = retrieval_metrics(scores, [0, 1], ties="howto100m")
    assert found["r1"] == howto100m(scores)["r1"] == 100
    assert retrieval_metrics(scores, [0, 1])["r1"] == 50


def test_scores_beside_a_ranking_show_its_ties():
    rankings, scores = [["a", "b", "c"], ["a", "b", "c"]], [[3.0, 3.0, 1.0], [3.0, 2.0, 1.0]]
    places = ranking_places(rankings, ["a", "a"], scores)
    assert places.tolist() == [[0, 2, 1], [0, 1, 1]]
    assert ranking_places(rankings, ["a", "a"]).tolist() == [[0, 1, 1], [0, 1, 1]]
    with pytest.raises(ValueError, match="NaN"):
        ranking_places(rankings[:1], ["a"], [[math.nan, 1.0, 0.0]])


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
