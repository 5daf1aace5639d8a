"""Bootstrap intervals and the paired test, against formulas and against sacrebleu's own."""

import random

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest

from vt_fairseq.metrics.captions import caption_measures
from vt_fairseq.metrics.classification import mean_class_measure
from vt_fairseq.metrics.intervals import confidence_intervals, paired_gains, paired_test
from vt_fairseq.metrics.measure import mean_measure
from vt_fairseq.metrics.retrieval import recall_measure

WORDS = ("a", "man", "woman", "dog", "runs", "sits", "in", "on", "the", "park", "red", "small")


def texts(count: int, noise: float, seed: int) -> tuple[list[str], list[list[str]]]:
    """Captions with a share of their words replaced, and the references they came from."""
    rng = random.Random(0)
    right = [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(count)]
    rng = random.Random(seed)
    given = [
        " ".join(rng.choice(WORDS) if rng.random() < noise else w for w in text.split())
        for text in right
    ]
    return given, [[text] for text in right]


def accuracy(right: list[bool] | np.ndarray):
    return mean_measure("accuracy", right, "")


def test_the_interval_of_an_accuracy_is_as_wide_as_the_binomial_says():
    right = np.arange(400) % 4 == 0
    found = confidence_intervals([accuracy(right)], 0.95, resamples=4000)
    half = 1.96 * 100 * np.sqrt(0.25 * 0.75 / 400)
    assert found["accuracy_low"] == pytest.approx(25 - half, abs=0.5)
    assert found["accuracy_high"] == pytest.approx(25 + half, abs=0.5)


def test_a_higher_level_is_a_wider_interval_and_a_seed_repeats_it():
    measure = accuracy(np.random.default_rng(0).random(100))
    narrow = confidence_intervals([measure], 0.5)
    wide = confidence_intervals([measure], 0.99)
    assert wide["accuracy_low"] < narrow["accuracy_low"] < narrow["accuracy_high"]
    assert narrow["accuracy_high"] < wide["accuracy_high"]
    assert confidence_intervals([measure], 0.5) == narrow
    assert confidence_intervals([measure], 0.5, seed=2) != narrow


def test_the_interval_of_bleu_is_sacrebleus():
    given, right = texts(120, 0.4, 1)
    found = confidence_intervals(caption_measures(given, right), 0.95)
    bleu = sacrebleu.BLEU().corpus_score(given, [[r[0] for r in right]], n_bootstrap=1000)
    middle = (found["bleu4_low"] + found["bleu4_high"]) / 2
    half = (found["bleu4_high"] - found["bleu4_low"]) / 2
    assert middle == pytest.approx(bleu._mean, abs=0.5)
    assert half == pytest.approx(bleu._ci, abs=0.5)


@pytest.mark.parametrize("level", [0, 1, 95, -0.1])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        confidence_intervals([accuracy([True])], level)


def test_identical_rows_have_an_interval_without_width_in_every_kind():
    places = np.tile([3, 1, 1], (20, 1))
    measures = [
        accuracy([True] * 20),
        recall_measure(places),
        recall_measure(places, "howto100m"),
        mean_class_measure("mean", [True] * 20, ["a", "b"] * 10),
    ]
    for measure in measures:
        found = confidence_intervals([measure], 0.95, resamples=50)
        for key, value in measure.values().items():
            assert found[f"{key}_low"] == found[f"{key}_high"] == value


def test_p_is_the_share_of_swaps_that_differ_as_much():
    # Eight rows decided all the same way: 2 of the 256 swaps differ as much.
    found = paired_test([accuracy([True] * 8)], [accuracy([False] * 8)], resamples=8000)
    assert found["accuracy_difference"] == 100
    assert found["accuracy_other"] == 0
    assert found["accuracy_p"] == pytest.approx(2 / 256, abs=0.003)


def test_the_order_of_the_two_systems_changes_the_sign_alone_and_equal_ones_do_not_differ():
    first, second = (caption_measures(*texts(60, noise, 3)) for noise in (0.3, 0.4))
    one, two = paired_test(first, second), paired_test(second, first)
    assert one["bleu4_difference"] == -two["bleu4_difference"]
    assert one["bleu4_p"] == two["bleu4_p"]
    same = paired_test(first, first, resamples=100)
    assert (same["bleu4_difference"], same["bleu4_p"], same["exact_match_p"]) == (0, 1, 1)


def test_the_paired_test_agrees_with_sacrebleus_approximate_randomization():
    given, right = texts(80, 0.35, 1)
    other, _ = texts(80, 0.37, 2)
    found = paired_test(caption_measures(given, right), caption_measures(other, right), 2000)
    streams = [[r[0] for r in right]]
    test = PairedTest(
        [("other", other), ("given", given)],
        {"BLEU": sacrebleu.BLEU(references=streams)},
        references=None, test_type="ar", n_samples=2000,
    )  # fmt: skip
    results = test()[1]["BLEU"]
    assert found["bleu4_other"] == pytest.approx(results[0].score)
    assert found["bleu4_p"] == pytest.approx(results[1].p_value, abs=0.04)
    assert 0.01 < found["bleu4_p"] < 0.5


def test_the_interval_of_a_gain_is_that_of_the_paired_difference():
    """Of two accuracies it is as narrow as the rows that differ say, and not as each one's own."""
    seen = np.arange(400) % 2 == 0  # 50 %
    blank = seen & (np.arange(400) >= 40)  # right where the other is, but for 20 rows: 45 %
    found = paired_gains([accuracy(seen)], [accuracy(blank)], 0.95, resamples=4000)
    half = 1.96 * 100 * np.sqrt(0.05 * 0.95 / 400)
    assert found["accuracy_gain"] == pytest.approx(5)
    assert found["accuracy_gain_low"] == pytest.approx(5 - half, abs=0.3)
    assert found["accuracy_gain_high"] == pytest.approx(5 + half, abs=0.3)


def test_the_gain_of_bleu_is_the_difference_of_corpus_scores_and_none_over_itself():
    (given, right), (other, _) = texts(60, 0.2, 1), texts(60, 0.8, 2)
    measures, others = caption_measures(given, right), caption_measures(other, right)
    found = paired_gains(measures, others, 0.95, resamples=200)
    streams = [[text[0] for text in right]]
    scores = [sacrebleu.corpus_bleu(system, streams).score for system in (given, other)]
    assert found["bleu4_gain"] == pytest.approx(scores[0] - scores[1])
    assert 0 < found["bleu4_gain_low"] < found["bleu4_gain"] < found["bleu4_gain_high"]
    same = paired_gains(measures, measures, 0.95, resamples=50)
    assert set(same.values()) == {0}
