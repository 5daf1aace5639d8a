"""DeepSpeed's JSON from fairseq's options and the user's own file."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError

# Gathered and reduced at once, in elements. DeepSpeed's 5e8 takes 0.9 GiB a buffer in fp16.
BUCKET_ELEMENTS = 50_000_000
NEVER = 10**12


@dataclass(frozen=True)
class EngineOptions:
    """What fairseq's options say that concerns the engine.

    Attributes:
        stage: 1, 2 or 3.
        precision: "fp32", "fp16" or "bf16".
        batch_size: rows of a micro batch; it only feeds DeepSpeed's throughput report.
        world_size: number of processes.
        clip_norm: 0 for none.
        update_freq: micro batches an update.
        offload: "none", "cpu" or "nvme".
        nvme_path: folder on NVMe, for ``offload="nvme"``.
        init_scale: the loss scale at the start.
        scale_window: updates without overflow after which the scale doubles.
        scale_tolerance: share of updates that may overflow before the scale is halved.
        min_loss_scale: below it the run ends.
        user_file: path of the user's JSON file, or "".
    """

    stage: int
    precision: str
    batch_size: int
    world_size: int
    clip_norm: float
    update_freq: int
    offload: str = "none"
    nvme_path: str = ""
    init_scale: float = 2**7
    scale_window: int = 2**14
    scale_tolerance: float = 0.0
    min_loss_scale: float = 1e-4
    user_file: str = ""


def engine_config(options: EngineOptions) -> dict[str, Any]:
    """Configuration of ``deepspeed.initialize``.

    Gradient accumulation, normalization, clipping and the loss scale stay with fairseq's trainer,
    so the engine is told of one micro batch a step and of no clipping (see ``optimizer.py``).

    Raises UserError when the user's file cannot be read or contradicts fairseq's options.
    """
    zero: dict[str, Any] = {
        "stage": options.stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if options.offload != "none":
        zero["offload_optimizer"] = {"device": options.offload}
        if options.offload == "nvme":
            if not options.nvme_path:
                raise UserError("--offload-optimizer nvme: expected a folder in --nvme-path")
            zero["offload_optimizer"]["nvme_path"] = options.nvme_path
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": options.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        # A static scale of 1: fairseq's scaler sets the real one from outside.
        "fp16": {"enabled": options.precision == "fp16", "loss_scale": 1.0},
        "bf16": {"enabled": options.precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }
    if options.user_file:
        config = merge(config, read_user_config(options.user_file, stated_by_fairseq(options)))
    return config


def stated_by_fairseq(options: EngineOptions) -> dict[tuple[str, ...], tuple[str, Any]]:
    """What the user's file may repeat and never contradict: its keys -> option and value.

    A value of None means that nothing may stand there.
    """
    o = options
    stated = {
        ("zero_optimization", "stage"): ("--zero-stage", o.stage),
        ("zero_optimization", "offload_optimizer", "device"): ("--offload-optimizer", o.offload),
        ("zero_optimization", "offload_optimizer", "nvme_path"): ("--nvme-path", o.nvme_path),
        ("gradient_accumulation_steps",): ("--update-freq", o.update_freq),
        ("gradient_clipping",): ("--clip-norm", o.clip_norm),
        ("train_micro_batch_size_per_gpu",): ("--batch-size", o.batch_size),
        ("train_batch_size",): (
            "--batch-size times --update-freq times processes",
            o.batch_size * o.world_size * o.update_freq,
        ),
        ("fp16", "enabled"): ("--fp16", o.precision == "fp16"),
        ("bf16", "enabled"): ("--bf16", o.precision == "bf16"),
        ("activation_checkpointing",): ("--checkpoint-activations", None),
        ("optimizer",): ("--optimizer", None),
        ("scheduler",): ("--lr-scheduler", None),
    }
    if o.precision == "fp16":
        stated |= {
            # DeepSpeed's word for a dynamic scale is 0; fairseq's always is.
            ("fp16", "loss_scale"): ("the dynamic scale of --fp16-init-scale", 0),
            ("fp16", "initial_scale_power"): (
                f"--fp16-init-scale {o.init_scale:g} as a power of 2",
                math.log2(o.init_scale),
            ),
            ("fp16", "loss_scale_window"): ("--fp16-scale-window", o.scale_window),
            ("fp16", "min_loss_scale"): ("--min-loss-scale", o.min_loss_scale),
            # Overflows before the scale is halved: with fairseq's tolerance of 0 the first does.
            ("fp16", "hysteresis"): (
                f"--fp16-scale-tolerance {o.scale_tolerance:g}",
                None if o.scale_tolerance else 1,
            ),
        }
    return stated


def read_user_config(path: str, stated: dict[tuple[str, ...], tuple[str, Any]]) -> dict[str, Any]:
    """The user's JSON without what fairseq's options say as well; see ``stated_by_fairseq``."""
    try:
        user = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--deepspeed-config {path}: {error}; expected a JSON file") from error
    if not isinstance(user, dict):
        raise UserError(f"--deepspeed-config {path}: expected a JSON object, found {user!r}")
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
        found = parent.pop(keys[-1])
        if found != "auto" and found != expected:
            says = "has no place for it" if expected is None else f"is {shown(expected)}"
            raise UserError(
                f"--deepspeed-config {path}: {'.'.join(keys)} is {json.dumps(found)}, but "
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
