import numpy as np
import pytest

from vt_fairseq.data.text_noise import TEXT_INPUTS, TextNoise, random_generator

TOKENS = list(range(10, 30))
MASK = 99


def noise(mode: str, amount: str = "batch", dropout: float = 0.0) -> TextNoise:
    return TextNoise(mode, amount, dropout, MASK)


def test_no_text_is_empty_and_unmodified_text_is_the_same():
    assert noise("none")(TOKENS, 0.5, random_generator(1)) == []
    assert noise("unmodified")(TOKENS, 0.5, random_generator(1)) == TOKENS


def test_shuffling_keeps_every_token_and_changes_the_order():
    noisy = noise("shuffled")(TOKENS, 0.5, random_generator(1))
    assert noisy != TOKENS and sorted(noisy) == TOKENS


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_batch_share_masks_that_share_of_the_tokens_in_place(share):
    noisy = noise("masked")(TOKENS, share, random_generator(1))
    assert noisy.count(MASK) == round(share * len(TOKENS))
    assert all(n in (t, MASK) for n, t in zip(noisy, TOKENS, strict=True))


def test_shuffled_and_masked_does_both():
    noisy = noise("shuffled-masked")(TOKENS, 0.5, random_generator(1))
    kept = [n for n in noisy if n != MASK]
    assert len(kept) == 10 and set(kept) < set(TOKENS) and kept != sorted(kept)


def test_an_example_count_is_uniform_from_one_to_all():
    short = TOKENS[:4]
    counts = [
        noise("masked", "example")(short, 0.0, random_generator(7, i)).count(MASK)
        for i in range(2000)
    ]
    found = np.bincount(counts, minlength=5)
    assert found[0] == 0
    # 2,000 draws of 4 kinds: 500 each, standard deviation 19.
    assert all(abs(n - 500) < 100 for n in found[1:])


def test_dropout_leaves_out_the_text_in_that_share_of_examples():
    empty = [
        noise("masked", dropout=0.3)(TOKENS, 0.5, random_generator(i)) == [] for i in range(2000)
    ]
    assert 0.25 < np.mean(empty) < 0.35


@pytest.mark.parametrize("mode", TEXT_INPUTS)
def test_noise_depends_on_the_generator_alone_and_leaves_empty_text_empty(mode):
    first = noise(mode)(TOKENS, 0.5, random_generator(1, 2, 3))
    assert first == noise(mode)(TOKENS, 0.5, random_generator(1, 2, 3))
    assert noise(mode, "example")([], 0.5, random_generator(1)) == []
