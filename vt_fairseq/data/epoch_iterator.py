"""fairseq's epoch iterator over any number of rows; each decoded batch serves all prompts.

The paper trains on narration and description of the same mini-batch back to back (section 3.1).
A position in the epoch counts updates' worth of samples, not decoded batches, so a run that was
stopped between the two halves of a pair goes on with the second half.

No list of rows or batches is held: the order of an epoch is computed item by item.
"""

import atexit
import contextlib
import queue
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fairseq.data.iterators import (
    BackgroundConsumer,
    BufferedIterator,
    CountingIterator,
    EpochBatchIterator,
)

from vt_fairseq.data.data_workers import WatchedDataLoader
from vt_fairseq.data.permutation import Grouped, Permutation, Share

# What a reading thread gets to finish the batch that it is at when the process ends.
READER_EXIT_SECONDS = 10.0


class ReusedBatchIterator(EpochBatchIterator):
    """Yields ``uses`` samples for each decoded batch.

    Args:
        batches: row numbers of each batch; looked up when its turn comes.
        uses: how many samples the dataset's collater makes of a batch: a list of them, or one
            sample that is not in a list.
        group: decoded batches that share an update (fairseq's update frequency). The order is
            (batch 1, prompt 1), ..., (batch ``group``, prompt 1), (batch 1, prompt 2), ...
            so that each update has one prompt.
    """

    def __init__(self, *args, batches: Sequence[Sequence[int]], uses: int, group: int, **kwargs):
        super().__init__(*args, batch_sampler=(), **kwargs)
        self._frozen_batches = batches  # given as batch_sampler, fairseq would make a tuple of it
        self.uses = uses
        self.group = group
        self._waited = 0.0

    def __len__(self) -> int:
        return super().__len__() * self.uses

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> Share:
        """This process's batches in the order of the epoch; fairseq's version makes lists."""
        count = len(self.frozen_batches)
        order: Sequence[int] = range(count)
        if shuffle and self.grouped_shuffling:
            groups = Permutation(count // self.num_shards, self.seed, epoch)
            order = Grouped(groups, self.num_shards)
        elif shuffle:
            order = Permutation(count, self.seed, epoch)
        return Share(self.frozen_batches, order, self.num_shards, self.shard_id)

    def state_dict(self) -> dict[str, Any]:
        """Calls fairseq's method, and also saves how many processes share the epoch's batches."""
        return {**super().state_dict(), "processes": self.num_shards}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Calls fairseq's method, and also converts the position to another number of processes.

        Where the count does not divide evenly, the last few batches are repeated.
        """
        done_by = state_dict.get("processes", self.num_shards)
        if done_by != self.num_shards:
            span = self.uses * self.group
            spans = state_dict.get("iterations_in_epoch", 0) // span * done_by // self.num_shards
            state_dict = {**state_dict, "iterations_in_epoch": spans * span}
        super().load_state_dict(state_dict)

    def _get_iterator_for_epoch(
        self, epoch: int, shuffle: bool, fix_batches_to_gpus: bool = False, offset: int = 0
    ):
        # Workers start with the DataLoader, before fairseq sets the epoch when it resumes.
        self.dataset.set_epoch(epoch)
        span = self.uses * self.group
        first_batch = offset // span * self.group
        order = self.ordered_batches(epoch, fix_batches_to_gpus, shuffle)[first_batch:]
        if offset and not len(order):
            return None
        batches: Any = WatchedDataLoader(
            self.dataset,
            batch_sampler=order,
            collate_fn=self.collate_fn,
            num_workers=self.num_workers,
            timeout=self.timeout,
            pin_memory=True,
        )
        if self.buffer_size:
            batches = ReadAhead(self.buffer_size, batches)
        total = first_batch + len(batches)
        if self.skip_remainder_batch:
            total -= 1
            if self.buffer_size:
                batches.take(total - first_batch)
        batches = CountingIterator(self._timed(batches), start=first_batch, total=total)
        if self.uses == 1:
            return batches
        samples = in_prompt_order(batches, self.uses, self.group)
        for _ in range(offset % span):
            next(samples)
        return CountingIterator(samples, start=offset, total=len(batches) * self.uses)

    def take_waited(self) -> float:
        """Seconds waited for decoded batches since this was asked last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """``batches``; how long each is waited for is counted."""
        source = iter(batches)
        while True:
            began = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - began
            yield batch


def in_prompt_order(batches, uses: int, group: int) -> Iterator[dict]:
    """Samples of each group of batches, prompt by prompt.

    ``batches`` yields lists of ``uses`` samples, or {} for the filler batch with which fairseq
    gives every process as many batches. fairseq takes an empty sample for a dummy without
    gradient.
    """
    held: list[list[dict]] = []
    remaining = len(batches) - batches.n
    for batch in batches:
        held.append(batch or [{}] * uses)
        remaining -= 1
        if len(held) == group or remaining == 0:
            for use in range(uses):
                for samples in held:
                    yield samples[use]
            held = []


class ReadAhead(BufferedIterator):
    """fairseq's thread that reads batches ahead, which ends before the interpreter does.

    One that is inside torch at that moment aborts the process ("terminate called without an active
    exception") and turns a run that succeeded into a failed one.
    """

    def _create_consumer(self) -> None:
        super()._create_consumer()
        _readers.add(self._consumer)


_readers: weakref.WeakSet[BackgroundConsumer] = weakref.WeakSet()


@atexit.register
def stop_readers() -> None:
    """End all threads that read ahead."""
    deadline = time.monotonic() + READER_EXIT_SECONDS
    for reader in list(_readers):
        reader._max_len = 0  # it ends after the batch that it is at
        while reader.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):  # it may wait for room
                reader._queue.get_nowait()
            reader.join(0.02)
