"""Waiting for another process that compiles DeepSpeed's Adam."""

import os
import threading
import time

import pytest

from vt_fairseq.errors import UserError
from vt_fairseq.training import signals
from vt_fairseq.training.zero import extension_locks


@pytest.fixture(params=[("", "cpu_adam"), ("py311_cpu", "fused_adam")])
def lock(request, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(extension_locks, "SECONDS_BETWEEN_LOOKS", 0.01)
    (folder := tmp_path / request.param[0] / request.param[1]).mkdir(parents=True)
    (folder / "lock").touch()
    return folder / "lock"


def test_a_lock_that_a_killed_process_left_ends_in_a_line_that_names_it(lock):
    hour_ago = time.time() - 3600
    os.utime(lock, (hour_ago, hour_ago))
    with pytest.raises(UserError, match=f"{lock} is more than 10 minutes old: .* delete the file"):
        extension_locks.wait_for_other_builds()


def test_a_process_that_compiles_is_waited_for(lock):
    threading.Timer(0.2, lock.unlink).start()
    began = time.monotonic()
    extension_locks.wait_for_other_builds()
    assert not lock.exists() and time.monotonic() - began >= 0.1


def test_a_signal_ends_the_waiting(lock, monkeypatch):
    monkeypatch.setattr(signals, "_received", [15])
    with pytest.raises(SystemExit) as ended:
        extension_locks.wait_for_other_builds()
    assert ended.value.code == 128 + 15
