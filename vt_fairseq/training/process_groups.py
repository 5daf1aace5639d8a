"""Process groups that fairseq alone gets wrong: launchers' (``torchrun``, ``deepspeed``), and CPUs.

fairseq looks at the launcher's environment only when it sees more than one GPU in the machine. On
CPUs, or with one GPU per node, every process would silently train a model of its own. And it starts
one process per GPU itself: on CPUs that is none, and a run that ends well without having trained.
``--bf16`` it takes for a TPU's.
"""

import functools
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks import TASK_REGISTRY
from torch.distributed.elastic.utils.distributed import get_free_port

from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.training import signals

# Parts of what gloo and NCCL say in the processes that wait for one that has ended.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "remote process exited",
    "NCCL communicator was aborted",
)
SECONDS_BEHIND = 3.0

ENVIRONMENT = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")


def call_main(cfg: Any, main: Callable[..., None], **kwargs: Any) -> None:
    """``fairseq.distributed.utils.call_main``, for our task with the groups it would get wrong.

    Raises UserError for a launcher's environment that would not make one group of all processes.
    """
    if is_our_task(cfg.task):
        options = cfg.distributed_training
        ignore_missing_tpu(cfg)
        if options.distributed_init_method is None and not cfg.common.tpu:
            if os.environ.get("WORLD_SIZE"):
                join_launcher(options)
            else:
                refuse_separate_slurm_tasks(options)
        on_cpus = (cfg.common.cpu or not torch.cuda.is_available()) and not cfg.common.tpu
        if on_cpus:
            options.distributed_backend = "gloo"
            if options.ddp_backend == "pytorch_ddp":  # fairseq gives it the number of a GPU
                options.ddp_backend = "legacy_ddp"
        main = functools.partial(told_of_lost_processes, main)
        with signals.passed_on():
            if on_cpus and starts_processes(options):
                spawn_on_cpus(cfg, main, kwargs)
            else:
                _call_main(cfg, main, **kwargs)
        return
    _call_main(cfg, main, **kwargs)


def distributed_main(number: int, main: Callable[..., None], cfg: Any, kwargs: Any) -> None:
    """``fairseq.distributed.utils.distributed_main``, in a process that ``call_main`` started."""
    is_ours = getattr(main, "func", None) is told_of_lost_processes
    if is_ours and multiprocessing.parent_process() is not None:
        signals.end_by_interrupts()
    _distributed_main(number, main, cfg, kwargs)


_call_main = distributed_utils.call_main
_distributed_main = distributed_utils.distributed_main


def told_of_lost_processes(main: Callable[..., None], cfg: Any, **kwargs: Any) -> None:
    """``main``, which ends in one line where another process of the run has ended.

    Raises RunFailure in place of what gloo or NCCL raise.
    """
    try:
        main(cfg, **kwargs)
    except RuntimeError as error:
        alone = cfg.distributed_training.distributed_world_size == 1
        if alone or not any(text in str(error) for text in LOST):
            raise
        # Whoever started the processes shows the error of the first that ends.
        time.sleep(SECONDS_BEHIND)
        raise RunFailure(
            "the connection to another process of the run is lost: that one's own message says "
            "why; what is saved is whole, the same command goes on"
        ) from error


def is_our_task(cfg: Any) -> bool:
    """Whether options of a task are those of ``video_translate``, or of a subclass of it."""
    name = getattr(cfg, "_name", None)  # fairseq's oldest tasks have a Namespace
    return issubclass(TASK_REGISTRY.get(name, object), VideoTranslateTask)


def ignore_missing_tpu(cfg: Any) -> None:
    """Undo what fairseq concludes from ``--bf16``, a TPU, where there is no software for one."""
    if cfg.common.bf16 and distributed_utils.xm is None:
        cfg.common.tpu = cfg.distributed_training.tpu = False


def starts_processes(options: Any) -> bool:
    """Whether fairseq is asked for several processes that no launcher has started."""
    launched = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS")
    several = options.distributed_world_size > 1
    return several and not options.distributed_no_spawn and not launched


def spawn_on_cpus(cfg: Any, main: Callable[..., None], kwargs: dict[str, Any]) -> None:
    """``main`` in ``--distributed-world-size`` processes of this machine, joined by gloo."""
    options = cfg.distributed_training
    if options.distributed_init_method is not None:
        raise UserError(
            "--distributed-init-method: fairseq starts one process per GPU, and on CPUs cannot "
            "know how many belong to this machine; leave it out for one machine, or use torchrun"
        )
    port = options.distributed_port if options.distributed_port > 0 else get_free_port()
    options.distributed_init_method = f"tcp://localhost:{port}"
    options.distributed_rank = None  # fairseq numbers them
    torch.multiprocessing.spawn(
        fn=distributed_main,
        args=(main, cfg, {**kwargs, "start_rank": 0}),
        nprocs=options.distributed_world_size,
    )


def refuse_separate_slurm_tasks(options: Any) -> None:
    """Raise UserError where each of Slurm's tasks would train a model of its own."""
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    joined = options.distributed_port > 0 and options.distributed_world_size > 1
    if tasks > 1 and not joined and not options.distributed_no_spawn:
        raise UserError(
            f"srun started {tasks} tasks, and each would train a model of its own: add "
            "--distributed-port PORT --distributed-world-size N, N being the number of GPUs of all "
            "nodes (or, if that is what you want, --distributed-no-spawn)"
        )


def join_launcher(cfg: Any) -> None:
    """Fill in fairseq's distributed options from the launcher's environment.

    Raises UserError when it is incomplete or asks for more processes per node than there are GPUs.
    """
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        if int(os.environ["WORLD_SIZE"]) == 1:
            return
        raise UserError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} are not set: "
            "start with torchrun or deepspeed, or unset WORLD_SIZE"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = cfg.distributed_backend == "nccl" and torch.cuda.is_available()
    if on_gpu and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"the launcher started a process for GPU {local_rank} of this node, which has "
            f"{torch.cuda.device_count()}; start at most that many processes per node"
        )
    cfg.distributed_init_method = "env://"
    cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
    cfg.distributed_rank = int(os.environ["RANK"])
    cfg.device_id = local_rank
    cfg.distributed_no_spawn = True
    if not on_gpu:
        cfg.distributed_backend = "gloo"
