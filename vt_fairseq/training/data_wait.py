"""Whether training waits for clips: the share of its time is logged, with a warning if large."""

import logging
import os

from fairseq.logging import metrics

logger = logging.getLogger(__name__)

NAME = "data_wait"  # in the log, per cent
MOST = 0.05  # of the time, without a word
UPDATES = 200  # of which the share is judged


class DataWait:
    """Counts the seconds in which updates are made and those in which they are waited for."""

    def __init__(self, num_workers: int):
        self.num_workers, self.warned = num_workers, False
        self.waited = self.seconds = 0.0
        self.updates = -1  # the first waits for the workers' start

    def note(self, waited: float, step_seconds: float) -> None:
        """After an update.

        Args:
            waited: seconds waited for its batches.
            step_seconds: of the update itself.
        """
        seconds = waited + step_seconds
        self.updates += 1
        if not self.updates or not seconds:
            return
        self.waited, self.seconds = self.waited + waited, self.seconds + seconds
        metrics.log_scalar(NAME, 100 * waited / seconds, seconds, priority=1100, round=1)
        if self.updates % UPDATES == 0:
            self._judge()

    def _judge(self) -> None:
        """Warn once if the latest updates waited too long."""
        share, self.waited, self.seconds = self.waited / self.seconds, 0.0, 0.0
        if share <= MOST or self.warned:
            return
        self.warned = True
        logger.warning(
            "%.0f %% of the time of the last %d updates was spent waiting for clips: more "
            "--num-workers (%d now, %d cores), copies at the training size (vt-prepare "
            "--transcode), or --cache-clips",
            *(100 * share, UPDATES, self.num_workers, os.cpu_count() or 1),
        )
