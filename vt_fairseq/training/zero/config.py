"""DeepSpeed's JSON from fairseq's options and the user's own file."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from vt_fairseq.errors import UserError, naming
from vt_fairseq.models.pretrained.files import read_json
from vt_fairseq.models.r2plus1d import BasicBlock
from vt_fairseq.models.t5 import DecoderLayer, EncoderLayer
from vt_fairseq.training.parts import SHARES, in_parts

# Gathered and reduced at once, in elements. DeepSpeed's 5e8 takes 0.9 GiB per buffer in fp16.
BUCKET_ELEMENTS = 50_000_000
NEVER = 10**12
# With stage 3, modules whose parameters are gathered at once, not those of each module in them.
GATHERED_AT_ONCE = (EncoderLayer, DecoderLayer, BasicBlock)


def zero_stage(cfg: Any) -> int:
    """``--zero-stage`` of a configuration; 0 with any other optimizer."""
    if not OmegaConf.is_config(cfg.optimizer):  # none, or fairseq's oldest: a Namespace
        return 0
    is_ours = cfg.optimizer["_name"] == "deepspeed_adam"
    return int(str(cfg.optimizer.zero_stage)) if is_ours else 0


def engine_config(cfg: Any, world_size: int) -> dict[str, Any]:
    """Configuration of ``deepspeed.initialize`` from fairseq's whole configuration.

    Gradient accumulation, normalization, clipping and the loss scale stay with fairseq's trainer,
    so the engine is told of one micro batch per step and of no clipping (see ``optimizer.py``).

    Raises UserError when the user's file cannot be read or contradicts fairseq's options.
    """
    zero: dict[str, Any] = {
        "stage": zero_stage(cfg),
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if zero["stage"] == 3:
        names = [f"{module.__module__}.{module.__qualname__}" for module in GATHERED_AT_ONCE]
        zero["leaf_module"] = {"classes": names}
    offload = str(cfg.optimizer.offload_optimizer)
    if offload != "none":
        zero["offload_optimizer"] = {"device": offload}
        if offload == "nvme":
            if not cfg.optimizer.nvme_path:
                raise UserError("--offload-optimizer nvme: expected a folder in --nvme-path")
            zero["offload_optimizer"]["nvme_path"] = cfg.optimizer.nvme_path
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size(cfg),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        # A static scale of 1: fairseq's scaler sets the real one from outside.
        "fp16": {"enabled": cfg.common.fp16, "loss_scale": 1.0},
        "bf16": {"enabled": cfg.common.bf16},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
        # It would wait for the GPU, and no compiler can trace its clock (--compile).
        "timers": {"throughput": {"enabled": False}},
    }
    if path := cfg.optimizer.deepspeed_config:
        config = merge(config, read_user_config(path, stated_by_fairseq(cfg, world_size)))
    return config


def step_in_parts(
    optimizer: torch.optim.Optimizer, config: dict[str, Any], world_size: int
) -> None:
    """Have the engine make fp32 gradients for a part of the parameters at a time.

    Stages 1 and 2 do so for each parameter group: the optimizer's are cut. Stage 3 has a setting,
    which the user's file may have set.
    """
    if (stage := config["zero_optimization"]["stage"]) == 3:
        elements = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
        part = math.ceil(SHARES[3] * elements / world_size)
        config["zero_optimization"].setdefault("sub_group_size", part)
        return
    groups = optimizer.param_groups
    parts = in_parts([group["params"] for group in groups], SHARES[stage])
    groups[:] = [{**groups[index], "params": part} for index, part in parts]


def batch_size(cfg: Any) -> int:
    """Rows of a micro batch; it only feeds DeepSpeed's throughput report."""
    return cfg.dataset.batch_size or 1


def scale_window(cfg: Any) -> int:
    """Updates without overflow after which fairseq doubles the loss scale."""
    if cfg.common.fp16_scale_window is not None:
        return cfg.common.fp16_scale_window
    if cfg.common.fp16 and len(cfg.optimization.update_freq) > 1:
        raise UserError("--fp16-scale-window is needed with a schedule of --update-freq")
    world_size = cfg.distributed_training.distributed_world_size
    return int(2**14 / world_size / cfg.optimization.update_freq[0])


def stated_by_fairseq(cfg: Any, world_size: int) -> dict[tuple[str, ...], tuple[str, Any]]:
    """What the user's file may repeat and never contradict: its keys -> option and value.

    A value of None means that nothing may stand there.
    """
    common, optimizer = cfg.common, cfg.optimizer
    rows, update_freq = batch_size(cfg), cfg.optimization.update_freq[0]
    stated = {
        ("zero_optimization", "stage"): ("--zero-stage", zero_stage(cfg)),
        ("zero_optimization", "offload_optimizer", "device"): (
            "--offload-optimizer",
            str(optimizer.offload_optimizer),
        ),
        ("zero_optimization", "offload_optimizer", "nvme_path"): (
            "--nvme-path",
            optimizer.nvme_path,
        ),
        ("gradient_accumulation_steps",): ("--update-freq", update_freq),
        ("gradient_clipping",): ("--clip-norm", cfg.optimization.clip_norm),
        ("train_micro_batch_size_per_gpu",): ("--batch-size", rows),
        ("train_batch_size",): (
            "--batch-size times --update-freq times processes",
            rows * world_size * update_freq,
        ),
        ("fp16", "enabled"): ("--fp16", common.fp16),
        ("bf16", "enabled"): ("--bf16", common.bf16),
        ("activation_checkpointing",): ("--checkpoint-activations", None),
        ("optimizer",): ("--optimizer", None),
        ("scheduler",): ("--lr-scheduler", None),
    }
    if common.fp16:
        stated |= {
            # DeepSpeed's word for a dynamic scale is 0; fairseq's always is.
            ("fp16", "loss_scale"): ("the dynamic scale of --fp16-init-scale", 0),
            ("fp16", "initial_scale_power"): (
                f"--fp16-init-scale {common.fp16_init_scale:g} as a power of 2",
                math.log2(common.fp16_init_scale),
            ),
            ("fp16", "loss_scale_window"): ("--fp16-scale-window", scale_window(cfg)),
            ("fp16", "min_loss_scale"): ("--min-loss-scale", common.min_loss_scale),
            # Overflows before the scale is halved: with fairseq's tolerance of 0 the first does.
            ("fp16", "hysteresis"): (
                f"--fp16-scale-tolerance {common.fp16_scale_tolerance:g}",
                None if common.fp16_scale_tolerance else 1,
            ),
        }
    return stated


def read_user_config(path: str, stated: dict[tuple[str, ...], tuple[str, Any]]) -> dict[str, Any]:
    """The user's JSON without what fairseq's options say as well; see ``stated_by_fairseq``."""
    with naming("--deepspeed-config"):
        user = read_json(Path(path))
    for keys, (option, expected) in stated.items():
        parent = user
        for key in keys[:-1]:
            parent = parent.get(key, {})
            if not isinstance(parent, dict):
                raise UserError(
                    f"--deepspeed-config {path}: expected an object as {key}, found {parent!r}"
                )
        if keys[-1] not in parent:
            continue
        actual = parent.pop(keys[-1])
        if actual != "auto" and actual != expected:
            says = "has no place for it" if expected is None else f"is {shown(expected)}"
            raise UserError(
                f"--deepspeed-config {path}: {'.'.join(keys)} is {json.dumps(actual)}, but "
                f"{option} {says}; leave it out of the file or change the option"
            )
    return user


def shown(value: Any) -> str:
    """A value as the user wrote it: 7 for 7.0, nothing for an option that was not given."""
    return f"{value:g}" if isinstance(value, float) else str(value) or "not given"


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, nested objects key by key."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
