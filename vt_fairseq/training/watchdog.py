"""Of several processes that train together, the one that the others wait for is named.

Each tells the others, through the store by which they found each other, how far it has come. One
that has waited for others for NAMING_SECONDS says for whom, and after ENDING_SECONDS it ends the
run. One that is at work, however long it takes, does neither.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from vt_fairseq.visible_text import say

logger = logging.getLogger(__name__)

NAMING_SECONDS, ENDING_SECONDS = 300.0, 1800.0
SECONDS_BETWEEN_LOOKS = 5.0
EXIT_WAITED_IN_VAIN = 1
# Parts of the names of files whose functions wait for other processes.
WAITING = ("torch/distributed/", "deepspeed/comm/", "torch/autograd/")


class Watchdog:
    """Watches this process and the others from a thread; does nothing for one that is alone."""

    def __init__(self) -> None:
        self.steps, self.doing, self.since = 0, "starting", time.monotonic()
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        self.main_thread = threading.get_ident()
        self.store = dist.PrefixStore("vt_fairseq.watchdog", _get_default_store())
        threading.Thread(target=self._watch, daemon=True).start()

    def note(self, doing: str) -> None:
        """This process has come further; ``doing`` says for people to what."""
        self.steps += 1
        self.doing, self.since = doing, time.monotonic()

    def _watch(self) -> None:
        named_at = -1
        # The store goes with its process, the first, when a run ends.
        with contextlib.suppress(RuntimeError):
            while True:
                waits, place = where(self.main_thread)
                self.store.set(str(self.rank), f"{self.steps} {int(waits)} {self.doing}, {place}")
                waited = time.monotonic() - self.since if waits else 0.0
                if waited > NAMING_SECONDS and named_at != self.steps:
                    named_at = self.steps
                    logger.warning("no progress for %.0f s: %s", waited, self.waited_for())
                if waited > ENDING_SECONDS:
                    text = f"error: no progress for {waited:.0f} s: {self.waited_for()}"
                    say(f"{text}; what is saved is whole, the same command goes on", sys.stderr)
                    sys.stderr.flush()
                    os._exit(EXIT_WAITED_IN_VAIN)  # the main thread does not listen
                time.sleep(SECONDS_BETWEEN_LOOKS)

    def waited_for(self) -> str:
        """Which processes have come less far and wait for no other, with what they do."""
        states = []
        for rank in range(self.processes):
            known = self.store.check([str(rank)])
            text = self.store.get(str(rank)).decode() if known else "-1 0 not started"
            steps, waits, doing = text.split(" ", 2)
            states.append((int(steps), int(waits), f"process {rank} ({doing})"))
        least = min(state[:2] for state in states)
        behind = [name for steps, waits, name in states if (steps, waits) == least]
        return f"waiting for {', '.join(behind)}"


def where(thread: int) -> tuple[bool, str]:
    """Whether a thread is in a call that waits for other processes, and its place for people."""
    frame = innermost = sys._current_frames().get(thread)
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in WAITING):
            return True, "waits for others"
        frame = frame.f_back
    if innermost is None:
        return False, "ended"
    return False, f"at {Path(innermost.f_code.co_filename).name}:{innermost.f_lineno}"
