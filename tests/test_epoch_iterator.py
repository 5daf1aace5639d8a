import time
import tracemalloc

import pytest
import torch
from fairseq.data.iterators import CountingIterator, GroupedIterator

from vt_fairseq.data.epoch_iterator import ReusedBatchIterator, in_prompt_order
from vt_fairseq.data.permutation import Batches, Permutation

HOWTO100M = 136_000_000
BATCHES = [[i, i + 1] for i in range(0, 14, 2)]


class Rows(torch.utils.data.Dataset):
    supports_fetch_outside_dataloader = False

    def __init__(self):
        self.epoch = None
        self.decoded = []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, i):
        self.decoded.append(i)
        return i

    def __len__(self):
        return 14

    def collater(self, rows):
        return [{"rows": rows, "action": a, "epoch": self.epoch} for a in "AB"] if rows else {}


def iterator(group: int = 1, batches=BATCHES, **options) -> ReusedBatchIterator:
    rows = Rows()
    return ReusedBatchIterator(
        dataset=rows, collate_fn=rows.collater, batches=batches, uses=2, group=group, **options
    )


def test_every_batch_is_decoded_once_and_used_once_for_each_action_in_a_row():
    made = iterator()
    samples = list(made.next_epoch_itr(shuffle=True))
    assert len(samples) == len(made) == 14
    for first, second in zip(samples[::2], samples[1::2], strict=True):
        assert first["rows"] == second["rows"]
        assert (first["action"], second["action"]) == ("A", "B")
    assert sorted(made.dataset.decoded) == list(range(14))


@pytest.mark.parametrize("group", [1, 2, 3])
@pytest.mark.parametrize("stop", range(1, 14))
def test_resuming_anywhere_even_between_the_halves_of_a_pair_gives_the_rest(group, stop):
    whole = list(iterator(group).next_epoch_itr(shuffle=True))
    first = iterator(group)
    running = first.next_epoch_itr(shuffle=True)
    for _ in range(stop):
        next(running)
    resumed = iterator(group)
    resumed.load_state_dict(first.state_dict())
    assert list(resumed.next_epoch_itr(shuffle=True)) == whole[stop:]


def test_with_an_update_frequency_each_update_has_one_action():
    grouped = GroupedIterator(iterator(group=2).next_epoch_itr(), 2)
    actions = [{s["action"] for s in samples} for samples in grouped]
    # Seven batches: three groups of two, then a rest of one for both actions.
    assert actions[:6] == [{"A"}, {"B"}] * 3


def test_workers_started_on_resume_already_know_the_epoch():
    made = iterator(num_workers=1)
    made.load_state_dict({"epoch": 5, "iterations_in_epoch": 3, "shuffle": True})
    assert {s["epoch"] for s in made.next_epoch_itr()} == {5}


@pytest.mark.parametrize("group", [1, 2])
def test_what_two_processes_have_done_one_goes_on_from(group):
    """Each has used two of its batches for both actions, four of the seven in all."""
    two = iterator(group, num_shards=2, shard_id=0)
    running = two.next_epoch_itr(shuffle=False)
    for _ in range(4):
        next(running)
    one = iterator(group)
    one.load_state_dict(two.state_dict())
    rest = [sample["rows"] for sample in one.next_epoch_itr(shuffle=False)]
    assert len(rest) == 6 and {row for rows in rest for row in rows} == set(range(8, 14))


def test_processes_with_fewer_batches_get_empty_samples_for_every_action():
    lengths = set()
    for shard in range(2):
        samples = list(iterator(num_shards=2, shard_id=shard).next_epoch_itr())
        lengths.add(len(samples))
    assert lengths == {8}
    assert samples[-2:] == [{}, {}]


def test_an_unfinished_group_at_the_end_is_not_lost():
    batches = CountingIterator([[f"{i}A", f"{i}B"] for i in range(3)])
    assert list(in_prompt_order(batches, 2, 2)) == ["0A", "1A", "0B", "1B", "2A", "2B"]


def test_an_epoch_of_all_clips_of_howto100m_begins_and_resumes_in_no_time_and_memory():
    batches = Batches(Permutation(HOWTO100M, 1, 1), 8)
    share = {"batches": batches, "num_shards": 128}
    whole = iterator(**share, shard_id=5)
    tracemalloc.start()
    running = whole.next_epoch_itr(shuffle=True)
    assert len(running) == 2 * -(-HOWTO100M // (8 * 128))
    first = [next(running) for _ in range(7)]
    state = whole.state_dict()
    resumed = iterator(**share, shard_id=5)
    resumed.load_state_dict(state)
    assert next(resumed.next_epoch_itr(shuffle=True)) == next(running)
    late = iterator(**share, shard_id=5)
    late.load_state_dict(state | {"iterations_in_epoch": len(running) - 1})
    [last] = list(late.next_epoch_itr(shuffle=True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # bytes; a list of the rows takes 5e9
    others = next(iterator(**share, shard_id=6).next_epoch_itr(shuffle=True))["rows"]
    assert not set(others) & {row for sample in [*first, last] for row in sample["rows"]}


def test_how_long_batches_are_waited_for_is_counted_and_what_is_done_with_them_is_not():
    made = iterator()
    collate = made.collate_fn

    def slowly(rows):
        time.sleep(0.02)
        return collate(rows)

    made.collate_fn = slowly
    for _ in made.next_epoch_itr():
        time.sleep(0.02)
    assert 7 * 0.02 <= made.take_waited() < 14 * 0.02 + 7 * 0.02
    assert made.take_waited() == 0
    list(made.next_epoch_itr())
    assert made.take_waited() >= 7 * 0.02


@pytest.mark.parametrize("buffer_size", [0, 3])
def test_the_last_batch_can_be_left_out_and_is_not_read_then(buffer_size):
    made = iterator(skip_remainder_batch=True, buffer_size=buffer_size)
    samples = list(made.next_epoch_itr(shuffle=False))
    assert [sample["rows"] for sample in samples[::2]] == [list(pair) for pair in BATCHES[:-1]]
    assert made.dataset.decoded == list(range(12))
