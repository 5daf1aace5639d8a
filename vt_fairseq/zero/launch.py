"""Process groups of launchers (``torchrun``, ``deepspeed``) that fairseq alone gets wrong.

fairseq looks at the launcher's environment only when it sees more than one GPU in the machine. On
CPUs, or with one GPU a node, every process would silently train a model of its own.
"""

import os

import torch
from fairseq.distributed import utils as distributed_utils

from vt_fairseq.errors import UserError

ENVIRONMENT = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")


def install() -> None:
    """Put ``infer_init_method`` below in fairseq's place; calling it again does nothing."""
    fairseqs = distributed_utils.infer_init_method
    if fairseqs.__module__ == __name__:
        return

    def infer_init_method(cfg, force_distributed: bool = False) -> None:
        if cfg.distributed_init_method is None and not cfg.tpu and os.environ.get("WORLD_SIZE"):
            join_launcher(cfg)
        fairseqs(cfg, force_distributed)

    distributed_utils.infer_init_method = infer_init_method


def join_launcher(cfg) -> None:
    """Fill in fairseq's distributed options from the launcher's environment.

    Raises UserError when it is incomplete or asks for more processes a node than there are GPUs.
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
            f"{torch.cuda.device_count()}; start at most that many processes a node"
        )
    cfg.distributed_init_method = "env://"
    cfg.distributed_world_size = int(os.environ["WORLD_SIZE"])
    cfg.distributed_rank = int(os.environ["RANK"])
    cfg.device_id = local_rank
    cfg.distributed_no_spawn = True
    if not on_gpu:
        cfg.distributed_backend = "gloo"
