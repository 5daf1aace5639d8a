"""How far a command is, and how long it will take: a bar on a terminal, else a line per minute."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from vt_fairseq.visible_text import say

BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"  # parts of videos count, too
SECONDS_PER_LINE = 60.0

Advance = Callable[[float], None]  # called with how many more are done


@contextlib.contextmanager
def progress(prog: str, total: int, quiet: bool = False) -> Iterator[Advance]:
    """Show on stderr how many of ``total`` videos are done; nothing where ``quiet``."""
    with tqdm(total=total, desc=prog, bar_format=BAR, disable=quiet or None) as bar:
        yield bar.update if quiet or not bar.disable else Lines(prog, total).advance


class Lines:
    """Progress for a log: nothing of what is done within a minute."""

    def __init__(self, prog: str, total: int):
        self.prog, self.total, self.done = prog, total, 0.0
        self._began = self._said = time.monotonic()

    def advance(self, count: float) -> None:
        """``count`` more are done."""
        self.done += count
        now = time.monotonic()
        if now - self._said < SECONDS_PER_LINE or not self.done:
            return
        self._said = now
        spent = now - self._began
        left = spent / self.done * max(0.0, self.total - self.done)
        times = f"{tqdm.format_interval(spent)}, about {tqdm.format_interval(left)} left"
        say(f"{self.prog}: {self.done:,.0f} of {self.total:,} videos in {times}", sys.stderr)
        sys.stderr.flush()
