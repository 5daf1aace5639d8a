"""``--optimizer deepspeed_adam``: fused Adam under DeepSpeed's engine (``--zero-stage``).

DeepSpeed is imported when it is needed and not before: generation and scoring run without it.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, List

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from vt_fairseq.errors import UserError
from vt_fairseq.training.zero.extension_locks import wait_for_other_builds

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "deepspeed", "torch")
OFFLOADS = ("none", "cpu", "nvme")


@dataclass
class DeepSpeedAdamConfig(FairseqDataclass):
    """Options of ``--optimizer deepspeed_adam``."""

    adam_betas: Any = field(default=(0.9, 0.999), metadata={"help": "betas of Adam"})
    adam_eps: float = field(
        default=1e-8,
        metadata={"help": "added to the root of the bias-corrected second moment (PyTorch's way)"},
    )
    weight_decay: float = field(default=0.0, metadata={"help": "decoupled weight decay (AdamW)"})
    adam_backend: ChoiceEnum(BACKENDS) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="auto",
        metadata={
            "help": "torch's fused Adam, or DeepSpeed's, compiled at first use; auto: torch's, and "
            "with --offload-optimizer DeepSpeed's where it can be compiled"
        },
    )
    zero_stage: ChoiceEnum(("0", "1", "2", "3")) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="1",
        metadata={
            "help": "what DeepSpeed's engine shards over the processes: 1 optimizer states, "
            "2 gradients too, 3 parameters too; 0: fairseq's own trainer, without the engine"
        },
    )
    deepspeed_config: str = field(
        default="",
        metadata={"help": "a DeepSpeed JSON file, merged with what fairseq's options say"},
    )
    offload_optimizer: ChoiceEnum(OFFLOADS) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="none", metadata={"help": "keep the optimizer's states in CPU memory or on NVMe"}
    )
    nvme_path: str = field(default="", metadata={"help": "folder for --offload-optimizer nvme"})
    lr: List[float] = II("optimization.lr")


@register_optimizer("deepspeed_adam", dataclass=DeepSpeedAdamConfig)
class DeepSpeedAdam(FairseqOptimizer):
    """Adam (Kingma and Ba 2015; decoupled decay) as one fused operation over all parameters."""

    def __init__(self, cfg: DeepSpeedAdamConfig, params: Iterable[torch.nn.Parameter]):
        super().__init__(cfg)
        self._optimizer = build_adam(
            list(params),
            backend=str(cfg.adam_backend),
            offload=str(cfg.offload_optimizer) != "none",
            **self.optimizer_config,
        )

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What replaces the values of a checkpoint on resuming."""
        betas = self.cfg.adam_betas
        return {
            "lr": self.cfg.lr[0],
            "betas": tuple(eval_betas(betas) if isinstance(betas, str) else betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    @property
    def supports_flat_params(self) -> bool:
        """Element by element, so parameters may be merged or cut anywhere."""
        return True


def eval_betas(text: str) -> tuple[float, float]:
    """ "(0.9, 0.98)" as numbers from 0 to below 1; raise UserError for anything else."""
    try:
        first, second = (float(part) for part in text.strip("()[] ").split(","))
        if not (0 <= first < 1 and 0 <= second < 1):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--adam-betas: expected two numbers from 0 to below 1, like (0.9, 0.98), found "
            f"{text!r}"
        ) from None
    return first, second


def build_adam(
    params: list[torch.nn.Parameter], backend: str, offload: bool, **settings: Any
) -> torch.optim.Optimizer:
    """Adam of ``backend``; ``offload``: for states and steps in CPU memory.

    "auto" takes torch's fused Adam, which nothing has to compile, and for ``offload`` DeepSpeed's
    where it can be compiled; the log names the choice.

    Raises UserError where the backend "deepspeed" cannot be compiled.
    """
    if backend == "deepspeed" or (backend == "auto" and offload):
        try:
            return deepspeed_adam(params, offload, **settings)
        except UserError as error:
            if backend == "deepspeed":
                raise UserError(f"{error}, or add --adam-backend torch") from error
            logger.warning("Adam: torch's fused one, because %s", error)
    elif backend == "auto":
        logger.info("Adam: torch's fused one (--adam-backend deepspeed compiles DeepSpeed's)")
    return torch.optim.AdamW(params, fused=True, **settings)


def deepspeed_adam(
    params: list[torch.nn.Parameter], offload: bool, **settings: Any
) -> torch.optim.Optimizer:
    """DeepSpeed's Adam, compiled at its first use; raise UserError where that fails."""
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
    except ImportError as error:
        raise UserError(f"{error}: pip install deepspeed") from error
    wait_for_other_builds()
    try:
        if offload:
            return DeepSpeedCPUAdam(params, adamw_mode=True, **settings)
        return FusedAdam(params, adam_w_mode=True, **settings)
    except (RuntimeError, OSError) as error:  # its compiler is missing or failed
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            "DeepSpeed could not compile its Adam, which needs a C++ compiler, ninja and, on a "
            f"GPU, nvcc of the version of torch's CUDA ({lines[-1]}): install them (g++, CUDA_HOME)"
        ) from error
