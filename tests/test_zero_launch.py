"""How processes come about and find each other."""

import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from tests.commands import PLUGIN, command_line, environment, free_port
from tests.test_zero import (
    TINY,
    command,
    difference,
    output_of,
    recorded,
    train,
    zero,
)
from vt_fairseq.errors import UserError
from vt_fairseq.training import process_groups
from vt_fairseq.training.process_groups import (
    ignore_missing_tpu,
    is_our_task,
    join_launcher,
    refuse_separate_slurm_tasks,
    spawn_on_cpus,
    starts_processes,
)


@dataclass
class Options:
    """fairseq's distributed options, as far as a launcher sets them."""

    distributed_init_method: str | None = None
    distributed_world_size: int = 1
    distributed_rank: int = 0
    device_id: int = 0
    distributed_no_spawn: bool = False
    distributed_backend: str = "nccl"
    distributed_port: int = -1


LAUNCHED = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
}


@pytest.fixture
def launched(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def no_launcher(monkeypatch):
    for name in (*LAUNCHED, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_a_launchers_process_joins_the_others_also_without_gpus(launched, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = Options()
    join_launcher(options)
    assert (options.distributed_world_size, options.distributed_rank) == (4, 3)
    assert (options.device_id, options.distributed_no_spawn) == (1, True)
    assert (options.distributed_init_method, options.distributed_backend) == ("env://", "gloo")


def test_more_processes_a_node_than_gpus_are_refused(launched, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match="GPU 1 of this node, which has 1"):
        join_launcher(Options())


def test_half_a_launchers_environment_is_refused_and_not_trained_alone(no_launcher, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK, LOCAL_RANK are not set"):
        join_launcher(Options())


def test_on_cpus_processes_are_started_only_where_nothing_else_has(no_launcher, monkeypatch):
    two = Options(distributed_world_size=2)
    assert starts_processes(two) and not starts_processes(Options())
    assert not starts_processes(Options(distributed_world_size=2, distributed_no_spawn=True))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert not starts_processes(two)


def test_on_cpus_a_number_of_processes_of_this_machine_that_is_not_known_is_refused():
    options = Options(distributed_world_size=4, distributed_init_method="tcp://node1:29500")
    with pytest.raises(UserError, match=r"--distributed-init-method.*use torchrun"):
        spawn_on_cpus(SimpleNamespace(distributed_training=options), None, {})


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_is_not_taken_for_a_tpu_where_there_is_no_software_for_one(bf16):
    options = SimpleNamespace(
        common=SimpleNamespace(bf16=bf16, tpu=True), distributed_training=SimpleNamespace(tpu=True)
    )
    ignore_missing_tpu(options)
    assert options.common.tpu is options.distributed_training.tpu is not bf16


def test_options_of_other_tasks_may_have_any_form_of_fairseqs():
    assert is_our_task(OmegaConf.create({"_name": "video_translate"}))
    others = (OmegaConf.create({"_name": "translation"}), Namespace(task="multilingual"), None)
    assert not any(map(is_our_task, others))


@pytest.mark.parametrize("missing", ["distributed_port", "distributed_world_size"])
def test_slurms_tasks_that_would_each_train_alone_are_refused(no_launcher, monkeypatch, missing):
    joined = {"distributed_port": 29500, "distributed_world_size": 16}
    refuse_separate_slurm_tasks(Options(**joined))
    alone = Options(**(joined | {missing: getattr(Options, missing)}))
    refuse_separate_slurm_tasks(alone)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "16")
    refuse_separate_slurm_tasks(Options(**joined))
    with pytest.raises(UserError, match=r"srun started 16 tasks.*--distributed-port"):
        refuse_separate_slurm_tasks(alone)
    alone.distributed_no_spawn = True
    refuse_separate_slurm_tasks(alone)


def test_a_mistake_found_in_a_started_process_is_one_line(capsys):
    from vt_fairseq.training.patches import one_line_errors

    error = torch.multiprocessing.ProcessRaisedException(
        "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call "
        'last):\n  File "x.py", line 1\nvt_fairseq.errors.UserError: use --zero-stage 2\n',
        1,
        4711,
    )
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise error
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: use --zero-stage 2\n"


def processes(number: int) -> SimpleNamespace:
    """Options of a run of so many."""
    return SimpleNamespace(distributed_training=Options(distributed_world_size=number))


def lose_a_process(rank: int, port: int, folder: Path) -> None:
    """The first of two ends without a word; what the second, which waits for it, raises."""

    def main(cfg: object) -> None:
        where = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
        dist.barrier()
        if rank == 0:
            os._exit(7)
        dist.all_reduce(torch.ones(9))

    try:
        process_groups.told_of_lost_processes(main, processes(2))
    except Exception as error:
        (folder / "raised").write_text(f"{type(error).__name__}: {error}")


def test_a_process_that_another_has_left_ends_in_one_line_after_that_one(tmp_path, monkeypatch):
    monkeypatch.setattr(process_groups, "SECONDS_BEHIND", 0.5)
    port, children = free_port(), []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            lose_a_process(rank, port, tmp_path)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [7, 0]
    raised = (tmp_path / "raised").read_text()
    assert raised.startswith("RunFailure: the connection to another process of the run is lost")
    assert "\n" not in raised


@pytest.mark.parametrize(("number", "error"), [(2, "shapes differ"), (1, "Broken pipe")])
def test_other_errors_of_a_process_are_its_own(number, error):
    def main(cfg: object) -> None:
        raise RuntimeError(error)

    with pytest.raises(RuntimeError, match=error):
        process_groups.told_of_lost_processes(main, processes(number))


# --- the real commands ----------------------------------------------------------------------------


def fairseq_train(*arguments: str | Path, expected_code: int = 0) -> str:
    """Output of the command itself, which starts the processes."""
    return output_of(command_line("fairseq-train", *arguments), expected_code)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "save" / "checkpoint_last.pt", weights_only=True)["model"]


def assert_same_weights(a: Path, b: Path) -> None:
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_two_nodes_train_one_model(data_directory, tmp_path):
    """Two agents of torchrun that meet on the loopback, as on two machines."""
    port = free_port()
    nodes = [
        subprocess.Popen(
            [
                *[sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"],
                *["--node-rank", str(node), "--nproc-per-node", "1"],
                *["--master-addr", "127.0.0.1", "--master-port", str(port)],
                *command(data_directory, tmp_path / "nodes", *zero(2), "--max-update", 6)[1:],
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        for node in (0, 1)
    ]
    logs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], logs
    train(data_directory, tmp_path / "one", *zero(2), "--max-update", 6, processes=2)
    assert difference(recorded(tmp_path / "one"), recorded(tmp_path / "nodes")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2])
def test_processes_that_fairseq_starts_itself_train_one_model(data_directory, tmp_path, stage):
    options = [*zero(stage), "--ddp-backend", "legacy_ddp", "--max-update", "4"]
    train(data_directory, tmp_path / "torchrun", *options, processes=2)
    log = fairseq_train(
        *[data_directory, *PLUGIN, *TINY, *options, "--save-dir", tmp_path / "spawned" / "save"],
        *["--distributed-world-size", "2", "--distributed-port", str(free_port())],
    )
    assert "training on 2 devices" in log
    assert_same_weights(tmp_path / "torchrun", tmp_path / "spawned")


@pytest.mark.slow
def test_a_mistake_in_processes_that_fairseq_starts_itself_is_one_line(data_directory, tmp_path):
    log = fairseq_train(
        *[data_directory, *PLUGIN, *TINY, *zero(3), "--store-ema", "--save-dir", tmp_path],
        *["--distributed-world-size", "2"],
        expected_code=2,
    )
    assert log.splitlines()[-1].startswith("error: --zero-stage 3 does not go with --store-ema")
    assert "Traceback" not in log


@pytest.mark.slow
def test_slurms_tasks_train_one_model(data_directory, tmp_path):
    """Two processes with the environment that srun gives to tasks that see one device each."""
    options = [*zero(2), "--max-update", "4"]
    train(data_directory, tmp_path / "torchrun", *options, processes=2)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\n")
    scontrol.chmod(0o755)
    port = str(free_port())
    slurm = {"SLURM_STEP_NODELIST": "nodes", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NNODES": "1"}
    slurm |= {"SLURM_NTASKS": "2", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    tasks = [
        subprocess.Popen(
            command_line(
                *["fairseq-train", data_directory, *PLUGIN, *TINY, *options],
                *["--save-dir", tmp_path / "slurm" / "save"],
                *["--distributed-world-size", "2", "--distributed-port", port],
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment(), **slurm, "SLURM_PROCID": str(task), "SLURM_LOCALID": "0"},
        )
        for task in (0, 1)
    ]
    logs = [task.communicate(timeout=600)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], logs
    assert "training on 2 devices" in logs[0]
    assert_same_weights(tmp_path / "torchrun", tmp_path / "slurm")
