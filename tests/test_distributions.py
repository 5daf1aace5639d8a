import math

import numpy as np
import pytest

from vt_fairseq.scoring.answers import match
from vt_fairseq.scoring.distributions import (
    Pairs,
    averaged,
    log_softmax,
    mean_likelihood,
    mean_prediction,
)

LOG = np.log
VERBS, NOUNS = ["cut", "open", "wash"], ["door", "onion"]


def test_predictions_are_averaged_as_probabilities():
    one, other = np.array([0.0, LOG(3)]), np.array([5.0, 5.0])
    assert np.exp(log_softmax(one)) == pytest.approx([0.25, 0.75])
    assert np.exp(mean_prediction([one, other])) == pytest.approx([0.375, 0.625])
    # A distribution stays what it is, whatever was added to its scores.
    assert averaged([one]) is one
    assert mean_prediction([one + 7, one - 2]) == pytest.approx(log_softmax(one))
    assert np.exp(mean_likelihood([LOG([0.2, 0.4]), LOG([0.4, 0.2])])) == pytest.approx([0.3, 0.3])


def test_scores_far_below_zero_keep_their_differences():
    far = np.array([-2000.0, -2000.0 + LOG(3)])
    assert np.exp(log_softmax(far)) == pytest.approx([0.25, 0.75])
    assert np.exp(mean_prediction([far, far])) == pytest.approx([0.25, 0.75])


def test_seen_pairs_are_those_of_the_rows_once_each_in_the_order_of_the_classes():
    seen = [("wash", "onion"), ("cut", "onion"), ("wash", "onion"), (None, "door"), ("cut", None)]
    pairs = Pairs.seen(VERBS, NOUNS, seen)
    assert pairs.texts() == ["cut onion", "wash onion"]
    every = Pairs.every(VERBS, NOUNS)
    assert len(every) == 6 and every.texts()[3] == "open onion"
    assert len(Pairs.seen(VERBS, NOUNS, [])) == 0


def test_a_verbs_probability_is_the_sum_over_its_pairs():
    pairs = Pairs.seen(VERBS, NOUNS, [("cut", "door"), ("cut", "onion"), ("wash", "onion")])
    scores = LOG([0.1, 0.3, 0.6])
    assert np.exp(pairs.verb_scores(scores)) == pytest.approx([0.4, 0.0, 0.6])
    assert np.exp(pairs.noun_scores(scores)) == pytest.approx([0.1, 0.9])
    assert pairs.verb_scores(scores)[1] == -math.inf


def test_a_pairs_probability_is_the_product_over_the_pairs_that_there_are():
    verbs, nouns = LOG([0.5, 0.3, 0.2]), LOG([0.9, 0.1])
    every = Pairs.every(VERBS, NOUNS)
    assert np.exp(every.product(verbs, nouns)) == pytest.approx(
        [0.45, 0.05, 0.27, 0.03, 0.18, 0.02]
    )
    # Logits mean the same as probabilities.
    assert every.product(verbs + 4, nouns - 1) == pytest.approx(every.product(verbs, nouns))
    some = Pairs.seen(VERBS, NOUNS, [("cut", "onion"), ("wash", "door")])
    assert np.exp(some.product(verbs, nouns)) == pytest.approx([0.05 / 0.23, 0.18 / 0.23])


@pytest.mark.parametrize(
    ("generated", "index", "how"),
    [
        ("a RED cat.", 1, "exact"),
        ('"the dog"  ', 0, "exact"),
        ("the big dog", 0, "overlap"),  # 2 of 2 words; "a red cat" has none
        ("a cat", 1, "overlap"),
        ("nothing of it", 2, "likelihood"),
        ("", 2, "likelihood"),
    ],
)
def test_a_generated_answer_stands_for_the_candidate_that_is_most_like_it(generated, index, how):
    candidates = ["the dog", "a red cat", "some bird", "the dog!"]
    scores = np.array([-4.0, -9.0, -1.0, -5.0])
    assert match(generated, candidates, scores) == (index, how)


def test_of_candidates_that_are_as_much_alike_the_likeliest_is_taken():
    assert match("red", ["red cat", "red dog"], np.array([-2.0, -1.0])) == (1, "overlap")
    assert match("red", ["red", "Red"], np.array([-1.0, -1.0])) == (0, "exact")
