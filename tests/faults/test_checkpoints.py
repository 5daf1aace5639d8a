"""What can happen to checkpoint files, without a training run."""

import argparse
import errno
import json
import logging
import os
import random
import re
import signal
from pathlib import Path

import pytest
import torch

from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.files import atomic_files
from vt_fairseq.files.atomic_files import DirectoryLock, atomic_file, atomic_folder
from vt_fairseq.models.pretrained.files import read_tensors, write_tensors
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
    torch.save(MODEL, shard)
    size = shard.stat().st_size
    named = {"folder": "deepspeed/update4", "files": {"rank0.pt": size}}
    path = save(tmp_path / "checkpoint_last.pt", {**MODEL, "last_optimizer_state": named})
    assert checkpoints.problem(path) is None
    cut(shard, 0.5)
    assert f"has {size // 2} bytes, {size} were written" in checkpoints.problem(path)
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


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EROFS, errno.ENAMETOOLONG])
def test_what_lasts_is_not_tried_again(tmp_path, monkeypatch, number):
    def refused(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 1e9)
    with pytest.raises(RunFailure, match=r"^cannot write .*checkpoint_last.pt: "):
        checkpoints.save_whole({"model": {}}, str(tmp_path / "checkpoint_last.pt"))


def test_what_the_system_says_while_torch_writes_is_not_lost(tmp_path, monkeypatch, small_files):
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 1e9)
    state = {"model": {"weight": torch.zeros(500_000)}}
    with pytest.raises(RunFailure, match="pass the largest size"):
        checkpoints.save_whole(state, str(tmp_path / "checkpoint_last.pt"))
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(UserError, match=r"^--save-dir .*/save: permission denied: change"):
        checkpoints.verify_directory(str(tmp_path / "save"))


# --- two runs, and numbers ----------------------------------------------------------------------


def test_a_second_run_on_a_directory_is_refused_with_the_first_ones_name(tmp_path):
    reading, writing = os.pipe()
    if (first := os.fork()) == 0:
        _held = DirectoryLock(tmp_path, "--save-dir")
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
    DirectoryLock(tmp_path, "--save-dir").release()  # a killed run holds nothing
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("precious"), os.mkfifo, os.mkdir])
def test_a_lock_that_is_a_link_or_no_file_is_refused_and_nothing_is_overwritten(tmp_path, make):
    (tmp_path / "precious").write_text("mine")
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match="is a link or no file"):
        DirectoryLock(tmp_path, "--save-dir")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["a" * 255, "\u4e2d" * 85])
def test_a_name_as_long_as_file_systems_allow_is_written(tmp_path, name):
    with atomic_file(tmp_path / name) as file:
        file.write(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    path = save(tmp_path / "checkpoint_last.pt")
    broken = {"model": {"weight": torch.tensor([1.0, float("nan")])}}
    with pytest.raises(UserError, match="weight has values that are not finite"):
        checkpoints.save_whole(broken, str(path))
    assert loads(path)


# --- damage, age, leftovers ---------------------------------------------------------------------

FLIPS = 200  # of each kind of file in the campaign


def flips(path: Path, number: int, seed: int):
    """Copies of a file, each with one bit turned at a place that the seed decides."""
    draw, whole = random.Random(seed), path.read_bytes()
    for _ in range(number):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        yield
    path.write_bytes(whole)


def same(one, other) -> bool:
    """Whether two states, of tensors in dicts and lists, are equal."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def test_every_bit_that_turns_in_a_checkpoint_is_noticed_or_changes_nothing(
    tmp_path, campaign, record
):
    draw = torch.Generator().manual_seed(1)
    weights = {f"layer{i}": torch.randn(40, 40, generator=draw) for i in range(6)}
    state = {"model": weights, "optimizer_history": [{"optimizer_name": "adam", "num_updates": 8}]}
    torch.save(state, path := tmp_path / "checkpoint_last.pt")
    noticed = 0
    for _ in flips(path, FLIPS if campaign else 40, 3):
        if checkpoints.problem(path) is not None:
            noticed += 1
            with pytest.raises(UserError, match=r"checkpoint_last\.pt"):
                read_tensors(path)
        else:
            assert same(read_tensors(path), state)
    record("bits turned in a checkpoint", {"turned": FLIPS, "noticed": noticed, "used": 0})
    assert noticed > (FLIPS if campaign else 40) * 0.8
    assert checkpoints.problem(path) is None


def test_every_bit_that_turns_in_a_safetensors_file_is_noticed(tmp_path, campaign, record):
    draw = torch.Generator().manual_seed(1)
    weights = {f"layer{i}": torch.randn(40, 40, generator=draw) for i in range(6)}
    weights["half"] = weights["layer0"].bfloat16()
    write_tensors(weights, path := tmp_path / "model.safetensors")
    assert same(read_tensors(path), weights)
    noticed = 0
    for _ in flips(path, FLIPS if campaign else 40, 4):
        try:
            assert same(read_tensors(path), weights)
        except UserError:
            noticed += 1
    record("bits turned in a safetensors file", {"turned": FLIPS, "noticed": noticed, "used": 0})
    assert noticed > (FLIPS if campaign else 40) * 0.9


def test_a_shard_of_the_right_size_with_a_bit_turned_makes_a_checkpoint_incomplete(tmp_path):
    shard = tmp_path / "deepspeed" / "update4" / "rank0.pt"
    shard.parent.mkdir(parents=True)
    torch.save(MODEL, shard)
    named = {"folder": "deepspeed/update4", "files": {"rank0.pt": shard.stat().st_size}}
    path = save(tmp_path / "checkpoint_last.pt", {**MODEL, "last_optimizer_state": named})
    assert checkpoints.problem(path) is None
    flip_a_byte(shard)
    assert re.search(r"rank0.pt: its part .* is damaged", checkpoints.problem(path))


def test_the_newest_checkpoint_is_the_one_of_the_most_updates_whatever_the_clock_says(tmp_path):
    def trained(name: str, updates: int, age: int) -> Path:
        history = [{"optimizer_name": "adam", "num_updates": updates}]
        return save(tmp_path / name, {**MODEL, "optimizer_history": history}, age)

    newest = trained("checkpoint_1_30.pt", 30, age=500)
    trained("checkpoint_1_20.pt", 20, age=0)
    trained("checkpoint_last.pt", 10, age=100)
    last = tmp_path / "checkpoint_last.pt"
    assert checkpoints.newest_complete(tmp_path) == last, "what fairseq and users call so"
    assert checkpoints.newest_complete(tmp_path, last_first=False) == newest
    cut(last, 0.5)
    assert checkpoints.newest_complete(tmp_path) == newest
    cut(newest, 0.5)
    assert checkpoints.newest_complete(tmp_path) == tmp_path / "checkpoint_1_20.pt"


def test_a_link_that_leads_nowhere_is_named(tmp_path, caplog):
    save(tmp_path / "checkpoint_1_2.pt")
    (tmp_path / "checkpoint_last.pt").symlink_to(tmp_path / "gone.pt")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest_complete(tmp_path) == tmp_path / "checkpoint_1_2.pt"
    assert re.search(r"checkpoint_last.pt cannot be used: it is a link to .*gone.pt", caplog.text)


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_files, "SECONDS_BEFORE_REMOVAL", -1)
    reading, writing = os.pipe()
    if (other := os.fork()) == 0:
        with atomic_file(tmp_path / "scores"), atomic_folder(tmp_path / "model"):
            os.write(writing, b"begun")
            signal.pause()
    assert os.read(reading, 5) == b"begun"
    partial = set(tmp_path.iterdir())
    assert len(partial) == 2

    def write_another(name: str) -> None:
        atomic_files.remove_leftovers.cache_clear()  # as in a new process
        atomic_files.write_file(tmp_path / name, b"1")

    try:
        write_another("one")
        assert partial < set(tmp_path.iterdir())
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    write_another("two")
    assert {p.name for p in tmp_path.iterdir()} == {"one", "two"}


def test_a_partial_file_has_a_name_that_nobody_can_put_a_link_under(tmp_path):
    names = set()
    for _ in range(2):
        with atomic_file(tmp_path / "scores.json"):
            names |= {path.name for path in tmp_path.iterdir()} - {"scores.json"}
    assert len(names) == 2 and str(os.getpid()) not in " ".join(names)


@pytest.mark.parametrize("groups", [1, 2])
def test_an_optimizer_of_other_parameters_is_refused_with_the_way_out(groups):
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    saved = torch.optim.Adam([first]).state_dict()
    parameters = [{"params": [first]}, {"params": [second]}] if groups == 2 else [first, second]
    with pytest.raises(ValueError) as error:
        torch.optim.Adam(parameters).load_state_dict(saved)
    with pytest.raises(UserError, match=r"last\.pt .* other parameters.* --reset-optimizer"):
        checkpoints.refuse_other_optimizer("last.pt", error.value)
