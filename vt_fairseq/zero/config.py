"""DeepSpeed's JSON from fairseq's options and the user's own file."""

import json
from pathlib import Path
from typing import Any

from vt_fairseq.errors import UserError

# Gathered and reduced at once, in elements. DeepSpeed's 5e8 takes 0.9 GiB a buffer in fp16.
BUCKET_ELEMENTS = 50_000_000
NEVER = 10**12
# The user's file may repeat what fairseq's options say, never contradict it: JSON path -> option.
OWNED_BY_FAIRSEQ = {
    ("zero_optimization", "stage"): "--zero-stage",
    ("gradient_accumulation_steps",): "--update-freq",
    ("gradient_clipping",): "--clip-norm",
    ("train_micro_batch_size_per_gpu",): "--batch-size",
    ("train_batch_size",): "--batch-size",
    ("fp16", "enabled"): "--fp16",
    ("fp16", "loss_scale"): "--fp16-init-scale",
    ("fp16", "initial_scale_power"): "--fp16-init-scale",
    ("fp16", "loss_scale_window"): "--fp16-scale-window",
    ("fp16", "min_loss_scale"): "--min-loss-scale",
    ("bf16", "enabled"): "--bf16",
    ("optimizer",): "--optimizer",
    ("scheduler",): "--lr-scheduler",
}


def engine_config(
    *,
    stage: int,
    precision: str,
    batch_size: int,
    world_size: int,
    clip_norm: float,
    update_freq: int,
    offload: str,
    nvme_path: str,
    user_file: str,
) -> dict[str, Any]:
    """Configuration of ``deepspeed.initialize``.

    Gradient accumulation, normalisation, clipping and the loss scale stay with fairseq's trainer,
    so the engine is told of one micro batch a step and of no clipping (see ``optimizer.py``).

    Args:
        stage: 1, 2 or 3.
        precision: "fp32", "fp16" or "bf16".
        batch_size: rows of a micro batch; it only feeds DeepSpeed's throughput report.
        world_size: number of processes.
        clip_norm: fairseq's, to compare with the user's file.
        update_freq: fairseq's, to compare with the user's file.
        offload: "none", "cpu" or "nvme".
        nvme_path: folder on NVMe, for ``offload="nvme"``.
        user_file: path of a JSON file, or "".

    Raises UserError when the file cannot be read or contradicts fairseq's options.
    """
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if offload != "none":
        zero["offload_optimizer"] = {"device": offload}
        if offload == "nvme":
            if not nvme_path:
                raise UserError("--offload-optimizer nvme: expected a folder in --nvme-path")
            zero["offload_optimizer"]["nvme_path"] = nvme_path
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        # A static scale of 1: fairseq's scaler sets the real one from outside.
        "fp16": {"enabled": precision == "fp16", "loss_scale": 1.0},
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
    }
    if user_file:
        stated = {
            "--zero-stage": stage,
            "--update-freq": update_freq,
            "--clip-norm": clip_norm,
            "--batch-size": batch_size,
            "--fp16": precision == "fp16",
            "--bf16": precision == "bf16",
        }
        user = read_user_config(user_file, stated, batch_size * world_size * update_freq)
        config = merge(config, user)
    return config


def read_user_config(path: str, stated: dict[str, Any], train_batch_size: int) -> dict[str, Any]:
    """The user's JSON without what fairseq's options say as well; see ``engine_config``."""
    try:
        user = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--deepspeed-config {path}: {error}; expected a JSON file") from error
    if not isinstance(user, dict):
        raise UserError(f"--deepspeed-config {path}: expected a JSON object, found {user!r}")
    for keys, option in OWNED_BY_FAIRSEQ.items():
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
        expected = train_batch_size if keys == ("train_batch_size",) else stated.get(option)
        if found != "auto" and found != expected:
            says = "has no place for it" if expected is None else f"is {expected}"
            raise UserError(
                f"--deepspeed-config {path}: {'.'.join(keys)} is {json.dumps(found)}, but "
                f"{option} {says}; leave it out of the file or change {option}"
            )
    return user


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, nested objects key by key."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = (
            merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
        )
    return merged
