"""Clips that could not be read: each is named once in the log, and too many of them end a run."""

import logging
from collections.abc import Sequence

from vt_fairseq.errors import UserError

logger = logging.getLogger(__name__)

# Up to this many unreadable clips never end a run: they are too few to judge a data set by.
FEW = 20


class UnreadableClips:
    """The unreadable clips of one process.

    Args:
        max_fraction: of a training run's clips that may be unreadable, 0 to 1.
    """

    def __init__(self, max_fraction: float):
        self.max_fraction = max_fraction
        self._named: set[str] = set()
        self._clips = self._unreadable = 0

    def report(self, unreadable: Sequence[tuple[str, str]]) -> None:
        """Name each clip, with its reason, once."""
        for clip_id, reason in unreadable:
            if clip_id not in self._named:
                self._named.add(clip_id)
                logger.warning("cannot read clip %s: %s", clip_id, reason)

    def count(self, unreadable: Sequence[tuple[str, str]], clips: int) -> None:
        """Raise UserError once more than ``max_fraction`` of all clips were unreadable.

        Args:
            unreadable: (id, reason) of a batch's unreadable clips.
            clips: how many the batch has, these among them.
        """
        self._clips += clips
        self._unreadable += len(unreadable)
        if self._unreadable > max(self.max_fraction * self._clips, FEW):
            raise UserError(
                f"{self._unreadable} of {self._clips} clips of this process could not be read, "
                f"more than a fraction of {self.max_fraction}; the last one was "
                f"{': '.join(unreadable[-1])}"
            )
