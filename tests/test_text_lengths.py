"""Lengths of texts in tokens against numpy's percentiles and a naive count."""

import numpy as np
import pytest

from vt_fairseq.data.text_lengths import TextLengths
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_percentiles_are_numpys_nearest_ranks_and_cuts_those_of_a_loop(count):
    found = np.random.default_rng(count).integers(1, 40, count)
    lengths = TextLengths(sorted(found.tolist()))
    for per_cent in (1, 50, 95, 100):
        expected = np.percentile(found, per_cent, method="inverted_cdf")
        assert lengths.percentile(per_cent) == expected
    for limit in (0, 5, 20, 39):
        assert lengths.above(limit) == sum(n > limit for n in found)
    assert lengths.longest == max(found)


def test_a_text_is_as_long_as_its_tokens_without_the_end_of_sentence():
    tokenizer = Tokenizer(train_vocabulary(["a red circle jumps"] * 9, 60))
    texts = ["a red circle jumps", "a", ""]
    lengths = TextLengths.of(tokenizer, texts)
    assert lengths.tokens == sorted(len(tokenizer.encode(text)) for text in texts)
    assert TextLengths.of(tokenizer, []) is None
