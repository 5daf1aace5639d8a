"""A checkpoint on disk always has its shards, wherever saving is cut off."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.training.zero.shards import (
    OptimizerShards,
    pickle_stages_by_value,
    shards_of,
    weights_only,
)


class Killed(BaseException):
    """Where the process ends: nothing handles it."""


class Engine:
    """Writes its content as an engine writes its shards; dies in the middle where told."""

    content = "first"
    dies = False

    def __init__(self) -> None:
        self.checkpoint_engine = TorchCheckpointEngine()
        self.checkpoint_engine.zipfile_serialization = True  # as with a configuration
        self.module = torch.nn.Linear(2, 2)

    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        path = Path(folder) / tag
        self.checkpoint_engine.makedirs(str(path), exist_ok=True)
        self.checkpoint_engine.save("half" if self.dies else self.content, str(path / "shard"))
        if self.dies:
            raise Killed
        self._copy_recovery_script(path)

    def _copy_recovery_script(self, path: Path) -> None:
        pass


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), world_size=1, rank=0)
    yield
    dist.destroy_process_group()


def write_checkpoint(path: Path, written: OptimizerShards) -> None:
    """What fairseq does after the shards: the .pt under a temporary name, then renamed."""
    torch.save({"last_optimizer_state": dict(written.saved)}, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def content_of(checkpoint: Path) -> str:
    return torch.load(checkpoint.parent / shards_of(checkpoint) / "shard")


def saved_once(tmp_path: Path) -> tuple[OptimizerShards, Engine, Path]:
    written, engine, checkpoint = OptimizerShards(stage=2), Engine(), tmp_path / "checkpoint_1_8.pt"
    written.save(engine, tmp_path, updates=8)
    write_checkpoint(checkpoint, written)
    return written, engine, checkpoint


def test_an_update_saved_again_keeps_the_old_shards_until_its_checkpoint_is_replaced(
    one_process, tmp_path
):
    written, engine, checkpoint = saved_once(tmp_path)
    engine.content = "second"
    written.save(engine, tmp_path, updates=8)
    assert content_of(checkpoint) == "first"
    write_checkpoint(checkpoint, written)
    assert content_of(checkpoint) == "second"
    engine.content = "third"
    written.save(engine, tmp_path, updates=8)
    write_checkpoint(tmp_path / "checkpoint_last.pt", written)
    assert content_of(checkpoint) == "second"
    assert content_of(tmp_path / "checkpoint_last.pt") == "third"
    assert len(list((tmp_path / "deepspeed").iterdir())) == 2  # the first are gone


@pytest.mark.parametrize("step", ["write", "shutil.rmtree", "os.replace", "after"])
def test_a_kill_while_an_update_is_saved_again_leaves_a_whole_checkpoint(
    one_process, tmp_path, monkeypatch, step
):
    written, engine, checkpoint = saved_once(tmp_path)
    shutil.copytree(tmp_path / "deepspeed" / "update8", tmp_path / "deepspeed" / "update4")

    def kill(*arguments, **options):
        raise Killed

    engine.content, engine.dies = "second", step == "write"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if "." in step:
            patch.setattr(step, kill)
        written.save(engine, tmp_path, updates=8)
        kill()
    assert content_of(checkpoint) == "first"
    # A new process goes on in the same folder, and nothing of the killed one stays.
    engine.dies, resumed = False, OptimizerShards(stage=2)
    resumed.save(engine, tmp_path, updates=8)
    write_checkpoint(checkpoint, resumed)
    assert content_of(checkpoint) == "second"
    resumed.save(engine, tmp_path, updates=12)
    write_checkpoint(checkpoint, resumed)
    resumed.save(engine, tmp_path, updates=16)
    names = {path.name for path in (tmp_path / "deepspeed").iterdir()}
    assert names == {"update12", "update16"}


def test_a_checkpoint_that_cannot_be_read_stops_the_clearing_up(one_process, tmp_path, caplog):
    written, engine, _ = saved_once(tmp_path)
    (tmp_path / "checkpoint_2_9.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "deepspeed" / "update9").mkdir()
    written.save(engine, tmp_path, updates=12)
    assert (tmp_path / "deepspeed" / "update9").exists()
    assert "cannot be read, no shards are deleted" in caplog.text


def test_what_the_system_says_while_torch_writes_is_not_lost(one_process, tmp_path, small_files):
    engine = Engine()
    engine.content = torch.zeros(500_000)
    with pytest.raises(RunFailure, match="pass the largest size"):
        OptimizerShards(stage=2).save(engine, tmp_path, updates=8)
    assert not list((tmp_path / "deepspeed").iterdir())


def test_shards_that_cannot_get_their_name_are_no_checkpoint(one_process, tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", refused)
    shards = OptimizerShards(stage=2)
    with pytest.raises(RunFailure, match=r"cannot write .*update8: the disk is full"):
        shards.save(Engine(), tmp_path, updates=8)
    assert not shards.saved and not list((tmp_path / "deepspeed").iterdir())


def test_another_failure_of_a_writer_is_raised_where_the_others_hear_of_it(one_process, tmp_path):
    """Raised inside of DeepSpeed, it would leave them in its barrier."""
    engine, through = Engine(), []
    engine._copy_recovery_script = through.append
    engine.content = lambda: None  # which cannot be pickled
    with pytest.raises(Exception, match="pickle"):
        OptimizerShards(stage=2).save(engine, tmp_path, updates=8)
    assert not list((tmp_path / "deepspeed").iterdir())


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({"folder": "deepspeed/update8"}, False),
        ({"folder": "deepspeed/update8", "in_parts": True}, True),
        ({"folder": "deepspeed/update8", "in_parts": False}, False),
        ({"state": {}}, True),
        (None, True),
    ],
)
def test_a_run_whose_optimizer_did_not_step_in_parts_goes_on_like_that(tmp_path, saved, expected):
    """Its shards are laid out by the groups that are stepped. fairseq's own state has none."""
    shards, checkpoint = OptimizerShards(stage=2), tmp_path / "checkpoint_last.pt"
    if saved is not None:
        torch.save({"last_optimizer_state": saved}, checkpoint)
    shards.prepare(checkpoint)
    assert (shards.in_parts, shards.folder) == (expected, tmp_path)
    shards.prepare(checkpoint, reset_optimizer=True)
    assert shards.in_parts


def test_the_shards_say_whether_they_are_of_parts(one_process, tmp_path):
    written, _, checkpoint = saved_once(tmp_path)
    shards = OptimizerShards(stage=2)
    for in_parts in (True, False):
        written.in_parts = in_parts
        written.save(Engine(), tmp_path, updates=9)
        write_checkpoint(checkpoint, written)
        shards.prepare(checkpoint)
        assert shards.in_parts == in_parts


def test_shards_of_other_parameters_are_refused_before_deepspeed_reads_them(one_process, tmp_path):
    _, engine, checkpoint = saved_once(tmp_path)
    saved = torch.load(checkpoint, weights_only=True)["last_optimizer_state"]
    engine.module.bias.requires_grad_(False)
    shards = OptimizerShards(stage=2)
    shards.prepare(checkpoint)
    with pytest.raises(UserError, match=r"update8 was saved .* other parameters.*--freeze-text"):
        shards.load(engine, saved)


def test_the_shards_of_every_python_are_read_as_data(tmp_path, monkeypatch):
    from deepspeed.runtime.zero.config import ZeroStageEnum

    def by_name(stage, protocol):  # Python 3.11.2's
        return getattr, (type(stage), stage.name)

    monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", by_name)
    path = tmp_path / "optim_states.pt"
    pickle_stages_by_value()
    torch.save({"zero_stage": ZeroStageEnum.optimizer_states}, path)
    with weights_only(tmp_path):
        read = torch.load(path, weights_only=True)
    assert read == {"zero_stage": 1}
