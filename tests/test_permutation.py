"""Orders that are computed: one to one, random, and without memory, however many rows there are."""

import itertools
from collections import Counter

import numpy as np
import pytest

from vt_fairseq.data.permutation import Batches, Grouped, Permutation, Share


@pytest.mark.parametrize("n", [*range(20), 63, 64, 65, 100, 255, 256, 257, 1000, 4097, 9000])
def test_every_number_has_one_place(n):
    assert sorted(Permutation(n, 1, 2)) == list(range(n))


def test_the_order_depends_on_the_key_alone():
    assert list(Permutation(1000, 3, 1)) == list(Permutation(1000, 3, 1))
    orders = {tuple(Permutation(1000, *key)) for key in ((3, 1), (3, 2), (1, 3), (31,), (3, 1, 0))}
    assert len(orders) == 5


@pytest.mark.parametrize("n", [5, 10])
def test_all_places_are_equally_likely_for_every_number_and_for_neighbors(n):
    keys = 600
    orders = np.array([list(Permutation(n, key)) for key in range(keys)])
    for place in range(n):
        expected = keys / n
        counts = np.bincount(orders[:, place], minlength=n)
        # Chi-square with n - 1 degrees of freedom: mean n - 1, standard deviation sqrt(2 (n - 1)).
        assert ((counts - expected) ** 2 / expected).sum() < n - 1 + 6 * np.sqrt(2 * (n - 1))
    pairs = Counter(map(tuple, orders[:, :2]))
    expected, freedom = keys / (n * (n - 1)), n * (n - 1) - 1
    chi = sum(
        (pairs[a, b] - expected) ** 2 / expected for a in range(n) for b in range(n) if a != b
    )
    assert chi < freedom + 6 * np.sqrt(2 * freedom)


def test_an_order_stays_what_it_was_as_checkpoints_hold_a_place_in_it():
    found = {n: list(Permutation(n, 1, 2)[:4]) for n in (10, 3000, 4096)}
    assert found == {10: [5, 9, 7, 4], 3000: [2379, 2388, 474, 1383], 4096: [4007, 2388, 474, 1383]}


def test_neighbors_of_a_long_order_lie_far_apart_and_are_not_correlated():
    n = 1_000_000
    found = np.array([Permutation(n, 7)[i] for i in range(3000)], dtype=float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.08
    assert abs(np.corrcoef(np.arange(3000), found)[0, 1]) < 0.08
    assert abs(found.mean() / n - 0.5) < 0.03


def test_an_order_is_indexed_and_sliced_like_a_list():
    order = Permutation(10, 0)
    assert order[-1] == order[9] and order[np.int64(3)] == order[3]
    assert list(order[2:][1:]) == list(order)[3:] and list(order[99:]) == []
    for place in (10, -11):
        with pytest.raises(IndexError):
            order[place]


def test_batches_hold_every_row_once():
    batches = list(Batches(range(10), 4))
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(Batches(range(0), 4)) == []
    rows = itertools.chain.from_iterable(Batches(Permutation(1000, 5), 7))
    assert sorted(rows) == list(range(1000))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batches", [0, 1, 10, 11])
def test_processes_share_all_batches_and_have_equally_many(count, batches):
    every = [[k] for k in range(batches)]
    order = Permutation(batches, 1)
    shares = [list(Share(every, order, count, index)) for index in range(count)]
    assert len({len(share) for share in shares}) == 1
    found = [batch for share in shares for batch in share]
    assert sorted(batch[0] for batch in found if batch) == list(range(batches))
    assert found.count([]) == -batches % count


def test_grouped_batches_of_one_update_are_neighbors():
    order = list(Grouped(Permutation(4, 1), 3))
    assert sorted(order) == list(range(12))
    for group in (order[i : i + 3] for i in range(0, 12, 3)):
        assert group[0] % 3 == 0 and group == list(range(group[0], group[0] + 3))
