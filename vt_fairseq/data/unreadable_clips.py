"""Clips that could not be read: each is named once in the log, and too many of them end a run."""

import logging
from collections.abc import Sequence

from vt_fairseq.errors import UserError

logger = logging.getLogger(__name__)

# So many are too few to judge a set by.
FEW = 20


class BadClips:
    """Those of one process.

    Args:
        max_fraction: of the clips of a training, 0 to 1.
    """

    def __init__(self, max_fraction: float):
        self.max_fraction = max_fraction
        self._named: set[str] = set()
        self._seen = self._bad = 0

    def report(self, bad: Sequence[tuple[str, str]]) -> None:
        """Name each clip, with its reason, once."""
        for clip_id, reason in bad:
            if clip_id not in self._named:
                self._named.add(clip_id)
                logger.warning("cannot read clip %s: %s", clip_id, reason)

    def count(self, bad: Sequence[tuple[str, str]], clips: int) -> None:
        """Raise UserError once more than ``max_fraction`` of all clips were unreadable.

        Args:
            bad: (id, reason) of a batch's unreadable clips.
            clips: of the batch, these among them.
        """
        self._seen += clips
        self._bad += len(bad)
        if self._bad > max(self.max_fraction * self._seen, FEW):
            raise UserError(
                f"{self._bad} of {self._seen} clips of this process could not be read, "
                f"more than --max-bad-fraction {self.max_fraction}; the last one was "
                f"{': '.join(bad[-1])}. Check --video-root, or allow more"
            )
