"""What can happen to checkpoint files, without a training run."""

import argparse
import errno
import json
import logging
import os
import signal
from pathlib import Path

import pytest
import torch

from vt_fairseq.errors import UserError
from vt_fairseq.training import checkpoints

MODEL = {"model": {"weight": torch.arange(1000.0)}}


def save(path: Path, state: dict | None = None, age: int = 0) -> Path:
    """A checkpoint that was written ``age`` seconds ago."""
    checkpoints.save_whole(state or MODEL, str(path))
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def loads(path: Path) -> bool:
    return torch.equal(
        torch.load(path, weights_only=True)["model"]["weight"], MODEL["model"]["weight"]
    )


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "empty": lambda path: cut(path, 0),
    "cut": lambda path: cut(path, 0.6),
    "flipped": flip_a_byte,
}

# --- killed while saving ------------------------------------------------------------------------

OPERATIONS = ("fsync", "replace", "link", "open", "unlink")


def save_and_die(folder: Path, step: int) -> int:
    """Save in a forked process that is killed before file operation ``step``; its exit status.

    It does not die with step 0, and leaves the number of operations in ``folder/operations``.
    """
    if (child := os.fork()) != 0:
        return os.waitpid(child, 0)[1]
    calls = 0

    def counted(call):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    new = str(folder / "checkpoint_1_2.pt")
    checkpoints.save_whole(MODEL, new)
    checkpoints.copy_whole(new, str(folder / "checkpoint_last.pt"), overwrite=True)
    (folder / "operations").write_text(str(calls))
    os._exit(0)


def test_killed_at_any_operation_of_a_save_the_last_checkpoint_is_the_old_or_the_new_one(tmp_path):
    def prepared(step: int) -> Path:
        (folder := tmp_path / str(step)).mkdir()
        save(folder / "checkpoint_1_1.pt")
        os.link(folder / "checkpoint_1_1.pt", folder / "checkpoint_last.pt")
        return folder

    assert save_and_die(prepared(0), 0) == 0
    operations = int((tmp_path / "0" / "operations").read_text())
    assert operations >= 8
    for step in range(1, operations + 1):
        folder = prepared(step)
        assert save_and_die(folder, step) == signal.SIGKILL
        assert checkpoints.newest_complete(folder) == folder / "checkpoint_last.pt"


# --- damaged ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, damage, caplog):
    save(tmp_path / "checkpoint_1_2.pt", age=20)
    save(tmp_path / "checkpoint_1_4.pt", age=10)
    last = save(tmp_path / "checkpoint_last.pt")
    DAMAGES[damage](last)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest_complete(tmp_path) == tmp_path / "checkpoint_1_4.pt"
    assert str(last) in caplog.text and "checkpoint_1_4.pt" in caplog.text


def test_with_damaged_checkpoints_alone_nothing_starts_from_scratch(tmp_path):
    for name, damage in DAMAGES.items():
        damage(save(tmp_path / f"checkpoint_{name}.pt"))
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        checkpoints.newest_complete(tmp_path)


def test_without_any_checkpoint_training_starts(tmp_path):
    (tmp_path / ".checkpoint_1_2.pt.17.tmp").write_bytes(b"half")
    assert checkpoints.newest_complete(tmp_path) is None


@pytest.mark.parametrize("name", [".checkpoint_1_2.pt.17.tmp", "checkpoint_last.pt.tmp"])
def test_leftovers_of_killed_saves_are_removed(tmp_path, name):
    (tmp_path / name).write_bytes(b"half")
    checkpoints.remove_leftovers(argparse.Namespace(no_save=False, save_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_a_missing_or_shortened_shard_makes_a_checkpoint_incomplete(tmp_path):
    shard = tmp_path / "deepspeed" / "update4" / "rank0.pt"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"12345")
    named = {"folder": "deepspeed/update4", "files": {"rank0.pt": 5}}
    path = save(tmp_path / "checkpoint_last.pt", {**MODEL, "last_optimizer_state": named})
    assert checkpoints.problem(path) is None
    cut(shard, 0.5)
    assert "has 2 bytes, 5 were written" in checkpoints.problem(path)
    shard.unlink()
    assert "rank0.pt is missing" in checkpoints.problem(path)
    assert checkpoints.problem(path, optimizer=False) is None


def test_a_named_checkpoint_that_is_missing_or_damaged_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        checkpoints.check_named(tmp_path / "model.pt")
    cut(save(tmp_path / "model.pt"), 0.6)
    with pytest.raises(UserError, match=r"model.pt cannot be used: it is cut off"):
        checkpoints.check_named(tmp_path / "model.pt")


# --- the disk -----------------------------------------------------------------------------------


def full_disk(*args) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    path = save(tmp_path / "checkpoint_last.pt")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint_last.pt: the disk is full"):
        checkpoints.save_whole({"model": {}}, str(path))
    assert loads(path) and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_disk_that_is_full_while_best_is_copied_leaves_the_old_best(tmp_path, monkeypatch):
    source, best = save(tmp_path / "checkpoint_1_2.pt"), save(tmp_path / "checkpoint_best.pt")
    monkeypatch.setattr(os, "link", full_disk)  # no links here, so it is copied
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.copy_whole(str(source), str(best), overwrite=True)
    assert loads(best) and len(list(tmp_path.iterdir())) == 2


def test_little_room_is_said_before_the_disk_is_full(tmp_path, monkeypatch, caplog):
    usage = argparse.Namespace(free=10_000)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    with caplog.at_level(logging.WARNING):
        save(tmp_path / "checkpoint_last.pt")
    assert "10,000 bytes are free" in caplog.text


def test_a_save_that_fails_once_is_tried_again_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0)
    whole, calls = torch.save, []

    def fails_once(state, file):
        calls.append(1)
        if len(calls) == 1:
            file.write(b"half of it")
            raise OSError(errno.EIO, "Input/output error")
        whole(state, file)

    monkeypatch.setattr(torch, "save", fails_once)
    assert loads(save(tmp_path / "checkpoint_last.pt")) and len(calls) == 2


def test_a_copy_shares_the_file_and_replaces_the_old_one(tmp_path):
    source, last = save(tmp_path / "checkpoint_1_2.pt"), tmp_path / "checkpoint_last.pt"
    last.write_bytes(b"old")
    assert not checkpoints.copy_whole(str(source), str(last))
    for _ in range(2):
        assert checkpoints.copy_whole(str(source), str(last), overwrite=True)
        assert last.stat().st_ino == source.stat().st_ino and len(list(tmp_path.iterdir())) == 2
    source.unlink()
    assert loads(last)


@pytest.mark.parametrize("make", ["file", "below a file"])
def test_a_file_where_the_save_directory_should_be_is_named(tmp_path, make):
    (tmp_path / "save").write_bytes(b"")
    folder = tmp_path / "save" / ("x" if make == "below a file" else "")
    with pytest.raises(UserError, match="expected a directory, found a file"):
        checkpoints.verify_directory(str(folder))


def test_a_directory_that_may_not_be_written_to_is_named(tmp_path, monkeypatch):
    def refused(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(UserError, match=r"cannot be written to: permission denied; make .* writ"):
        checkpoints.verify_directory(str(tmp_path / "save"))


# --- two runs, and numbers ----------------------------------------------------------------------


def test_a_second_run_on_a_directory_is_refused_with_the_first_ones_name(tmp_path):
    reading, writing = os.pipe()
    if (first := os.fork()) == 0:
        _held = checkpoints.DirectoryLock(tmp_path)
        os.write(writing, b"held")
        signal.pause()
    try:
        assert os.read(reading, 4) == b"held"
        (tmp_path / ".checkpoint_1_2.pt.17.tmp").write_bytes(b"what the first one writes")
        cfg = argparse.Namespace(no_save=False, save_dir=str(tmp_path), reset_optimizer=False)
        trainer = argparse.Namespace(
            cfg=argparse.Namespace(checkpoint=cfg), data_parallel_rank=0, data_parallel_world_size=1
        )
        with pytest.raises(UserError, match=f"another run writes to .*: process {first} on"):
            checkpoints.choose(trainer)
        assert (tmp_path / ".checkpoint_1_2.pt.17.tmp").exists()
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    checkpoints.DirectoryLock(tmp_path).file.close()  # a killed run holds nothing
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    path = save(tmp_path / "checkpoint_last.pt")
    broken = {"model": {"weight": torch.tensor([1.0, float("nan")])}}
    with pytest.raises(UserError, match="weight has values that are not finite"):
        checkpoints.save_whole(broken, str(path))
    assert loads(path)
