"""Metrics against their official scorers, naive loops and hand-counted cases."""

import math

import numpy as np
import pytest
import sacrebleu

from vt_fairseq.metrics import action_metrics
from vt_fairseq.metrics.captions import bleu_counts, bleu_score, caption_measures
from vt_fairseq.metrics.classification import (
    mean_class_measure,
    per_class_accuracy,
    rank_accuracy,
)
from vt_fairseq.metrics.measure import values
from vt_fairseq.metrics.retrieval import (
    rank_statistics,
    ranking_statistics,
    recall_measure,
    target_ranks,
)


def caption_metrics(predictions, references) -> dict[str, float]:
    return values(caption_measures(predictions, references))


def recall(scores, targets, ties: str = "pessimistic") -> dict[str, float]:
    return recall_measure(rank_statistics(scores, targets), ties).values()


# --- captions ------------------------------------------------------------------------------------

PREDICTIONS = ["a b c d e f", "", "The cat sat, on the mat", "x", "dogs run fast in the park"]
REFERENCES = [
    ["a b c d x f"],
    ["y z"],
    ["the cat sat on a mat", "cats sit"],
    ["x"],
    ["dogs run in parks"],
]


def test_bleu_of_every_order_is_sacrebleus_and_statistics_add_up():
    predictions, right = PREDICTIONS, REFERENCES
    # The clips have different numbers of references, in any order.
    streams = [[r[0] for r in right], [None, None, right[2][1], None, None]]
    found = caption_metrics(predictions, right)
    for order in (1, 2, 3, 4):
        expected = sacrebleu.BLEU(max_ngram_order=order).corpus_score(predictions, streams).score
        assert found[f"bleu{order}"] == pytest.approx(expected, abs=1e-9)
    assert caption_metrics(predictions[::-1], [r[::-1] for r in right[::-1]]) == found
    counts = bleu_counts(predictions, right)
    assert bleu_score(list(counts.values())) == pytest.approx(found["bleu4"])
    parts = [bleu_counts(predictions[k], right[k]) for k in (slice(2), slice(2, 5))]
    assert {key: parts[0][key] + parts[1][key] for key in counts} == counts
    assert bleu_score(list(bleu_counts(["a"], [[]]).values())) == 0


def test_the_signature_of_bleu_names_tokenizer_references_and_version():
    (bleu, _) = caption_measures(["a", "b"], [["a", "c"], ["b", "d"]])
    for part in ("tok:13a", "nrefs:2", sacrebleu.__version__):
        assert part in bleu.signatures["bleu4"]


def test_empty_captions_score_zero_and_lower_the_rest_and_exact_ones_score_one_hundred():
    texts = ["a red circle slides to the left", "we see a blue square rise"]
    references = [[text, "something else entirely"] for text in texts]
    found = caption_metrics(texts, references)
    assert (found["bleu4"], found["exact_match"]) == (pytest.approx(100), 100)
    assert caption_metrics(["", ""], references)["bleu4"] == 0
    half = caption_metrics([texts[0], ""], references)
    assert 0 < half["bleu4"] < 100 and half["exact_match"] == 50


def test_exact_match_ignores_white_space_but_not_case():
    assert caption_metrics([" a  b ", "A b"], [["a b"], ["a b"]])["exact_match"] == 50


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


def test_recall_counts_ranks_up_to_its_depth_and_ties_against_the_target():
    assert recall(np.eye(12), range(12)) == {"r1": 100, "r5": 100, "r10": 100, "median_rank": 1}
    ties = recall(np.zeros((4, 20)), [0, 5, 10, 19])
    assert ties == {"r1": 0, "r5": 0, "r10": 0, "median_rank": 20}
    falling = np.tile(-np.arange(20.0), (6, 1))
    assert recall(falling, [0, 1, 4, 5, 9, 10]) == {
        "r1": pytest.approx(100 / 6),
        "r5": pytest.approx(50),
        "r10": pytest.approx(500 / 6),
        "median_rank": 5.5,
    }


def test_minus_infinity_is_a_score_and_the_worst_one():
    scores = np.array([[-math.inf, 0.0, -1.0], [-math.inf] * 3])
    assert target_ranks(scores, [0, 0]).tolist() == [3, 3]


def test_nan_is_refused_with_its_row_and_column():
    scores = np.zeros((3, 4))
    scores[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"NaN at row 1, column 2 \(1 NaN in all\)"):
        target_ranks(scores, [0, 0, 0])
    with pytest.raises(ValueError, match="NaN at row 1, column 2"):
        action_metrics(np.zeros((3, 2)), scores, [0, 0, 0], [0, 0, 0])


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


def test_classes_count_alike_in_their_mean_however_many_rows_they_have():
    right, classes = [1, 1, 1, 0, 0], ["a", "a", "a", "a", "b"]
    assert per_class_accuracy("verb", right, classes) == [
        {"of": "verb", "class": "a", "accuracy": 75, "n": 4},
        {"of": "verb", "class": "b", "accuracy": 0, "n": 1},
    ]
    assert mean_class_measure("mean", right, classes).values() == {"mean": 37.5}
    found = rank_accuracy(np.array([1, 1, 5, 6, 3]), classes)
    assert found == {"top1": 40, "top5": 80, "mean_class_accuracy": 25}


def test_actions_are_ranked_by_the_product_of_both_probabilities():
    rng = np.random.default_rng(0)
    verbs, nouns = rng.normal(size=(40, 5)), rng.normal(size=(40, 7))
    v, n = rng.integers(5, size=40), rng.integers(7, size=40)
    softmax = [np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (verbs, nouns)]
    joint = softmax[0][:, :, None] * softmax[1][:, None, :]
    expected = [(joint[i] >= joint[i, v[i], n[i]]).sum() for i in range(40)]
    found = action_metrics(verbs, nouns, v, n)
    both = (verbs.argmax(axis=1) == v) & (nouns.argmax(axis=1) == n)
    assert found["action_top1"] == pytest.approx(100 * both.mean())
    assert found["action_top5"] == pytest.approx(100 * np.mean(np.array(expected) <= 5))
    assert found["verb_top1"] == pytest.approx(100 * np.mean(verbs.argmax(axis=1) == v))
    assert found["noun_top5"] == pytest.approx(100 * np.mean(target_ranks(nouns, n) <= 5))
    assert found["n"] == 40


def test_a_clip_that_was_not_scored_has_no_right_action():
    found = action_metrics(np.zeros((1, 3)), np.zeros((1, 4)), [0], [0])
    assert (found["verb_top1"], found["noun_top1"], found["action_top5"]) == (0, 0, 0)


def howto100m(x: np.ndarray) -> dict:
    """What the shared script computes, step by step: places in the sorted row that equal."""
    _, places = np.nonzero(np.sort(-x, axis=1) - np.diag(-x)[:, None] == 0)
    found = {f"r{k}": 100 * np.mean(places < k) for k in (1, 5, 10)}
    return found | {"median_rank": np.median(places) + 1}


@pytest.mark.parametrize("levels", [1, 2, 4, 1000])
def test_ties_in_howto100ms_way_are_the_scripts_and_differ_from_the_pessimistic_way(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(30, 30)).astype(float)
    found = recall(scores, range(30), ties="howto100m")
    assert found == pytest.approx(howto100m(scores))
    assert (found["r1"] > recall(scores, range(30))["r1"]) == (levels < 1000)
    if levels == 1:  # one score for all is chance
        assert (found["r1"], recall(scores, range(30))["r1"]) == (pytest.approx(100 / 30), 0)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_minus_infinity_of_the_target_does_not_count_in_howto100ms_way():
    scores = np.array([[1.0, 0.0], [-math.inf, -math.inf]])
    assert recall(scores, [0, 1], "howto100m")["r1"] == howto100m(scores)["r1"] == 100
    assert recall(scores, [0, 1])["r1"] == 50


def test_rankings_score_as_the_scores_they_were_sorted_from():
    scores = np.random.default_rng(1).normal(size=(30, 30))
    rankings = [[str(i) for i in np.argsort(-row)] for row in scores]
    found = ranking_statistics(rankings, [str(i) for i in range(30)])
    assert found.tolist() == rank_statistics(scores, range(30)).tolist()


def test_the_scores_of_a_ranking_show_its_ties():
    rankings, targets = [["a", "b", "c"]] * 2, ["b", "b"]
    assert ranking_statistics(rankings, targets).tolist() == [[1, 1, 1]] * 2
    scores = [[0.5, 0.5, 0.1], None]  # of the second ranking none are known
    assert ranking_statistics(rankings, targets, scores).tolist() == [[0, 2, 1], [1, 1, 1]]


def test_a_target_outside_its_ranking_and_a_missing_ranking_are_last_of_the_gallery():
    found = ranking_statistics([["a", "b"], ["c"], None], ["a", "a", "b"])
    assert found.sum(axis=1).tolist() == [2, 4, 4]  # ranks 1, 3 and 3 of three
