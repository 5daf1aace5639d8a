"""Adam's moments by parameter name, from fairseq's optimizers to the engine's shards and back.

Weights are not here: both sides take them from the checkpoint itself.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from vt_fairseq.training.zero.shards import universal, weights_only

KEYS = ("exp_avg", "exp_avg_sq")
# Optimizers whose moments these are, of fairseq, torch and DeepSpeed; by name, as some are made
# inside functions.
ADAMS = ("Adam", "AdamW", "FusedAdam", "FusedAdamV1", "DeepSpeedCPUAdam")

# Names and shapes of the trained parameters, in the optimizer's order.
Named = list[tuple[str, torch.Size]]
# Parameter's name -> exp_avg, exp_avg_sq (of its shape, fp32) and step (int).
Moments = dict[str, dict[str, Any]]


class NoMomentsError(Exception):
    """Why moments cannot be carried over; they start anew."""


def from_fairseq(state: dict[str, Any], parameters: Named) -> Moments:
    """Moments in a fairseq optimizer's ``state_dict``, whose parameters are these in this order."""
    ids = [index for group in state.get("param_groups", []) for index in group["params"]]
    saved = [state["state"].get(index, {}) for index in ids]
    shapes = [entry["exp_avg"].shape for entry in saved if set(KEYS) <= set(entry)]
    if shapes != [shape for _, shape in parameters]:
        raise NoMomentsError("they are not of this model's trained parameters one by one")
    found = {}
    for group in state["param_groups"]:
        for index in group["params"]:
            entry = state["state"][index]
            # DeepSpeed's FusedAdam of fairseq's kind counts for a group.
            step = int(entry.get("step", group.get("step", 0)))
            name = parameters[len(found)][0]
            found[name] = {**{key: entry[key].float() for key in KEYS}, "step": step}
    return found


def from_shards(folder: Path, parameters: Named) -> Moments:
    """Moments in the engine's shards of any stage; all processes call it together."""
    if not folder.is_dir():
        raise NoMomentsError(f"the shards {folder} are missing")
    try:
        with weights_only(), universal(folder) as whole:
            step = read_step(whole / "zero", parameters[0][0])
            return {
                name: {**read_universal(whole / "zero" / name, shape), "step": step}
                for name, shape in parameters
            }
    except ImportError as error:
        raise NoMomentsError(f"DeepSpeed is needed to read its shards: {error}") from error


def read_step(zero: Path, name: str) -> int:
    """Adam's count of updates, the same for all: the engine steps all parameters together."""
    file = zero / name / "step.pt"
    if file.exists():
        return int(torch.load(file, weights_only=True))
    # ZeRO-3's layout has it with the groups.
    groups = torch.load(zero / "optimizer_state.pt", weights_only=True, mmap=True)
    return int(groups["optimizer_state_dict"]["state"][0]["step"])


def read_universal(folder: Path, shape: torch.Size) -> dict[str, torch.Tensor]:
    """One parameter's moments in DeepSpeed's universal layout."""
    entry = {}
    for key in KEYS:
        if not (folder / f"{key}.pt").exists():
            raise NoMomentsError(f"the shards have none of {folder.name}")
        value = torch.load(folder / f"{key}.pt", weights_only=True)
        value = value["param"] if isinstance(value, dict) else value  # ZeRO-3: flat
        if value.numel() != shape.numel():
            raise NoMomentsError(f"those of {folder.name} are for another shape")
        entry[key] = value.view(shape)
    return entry


def to_fairseq(optimizer, parameters: Named, moments: Moments) -> None:
    """Put moments into a fairseq optimizer (fp32, or half precision without flat gradients)."""
    adam = optimizer.optimizer
    check_adam(adam)
    own = [p for group in adam.param_groups for p in group["params"]]
    if [p.shape for p in own] != [shape for _, shape in parameters]:
        raise NoMomentsError("this optimizer merges parameters")
    for (name, _), parameter in zip(parameters, own, strict=True):
        entry = moments[name]
        adam.state[parameter] = {
            **{key: entry[key].to(parameter.device) for key in KEYS},
            "step": counter(adam, entry["step"], parameter.device),
        }


def to_engine(engine, moments: Moments) -> None:
    """Put moments into a ZeRO engine, each process its share."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    zero = engine.optimizer
    sharded = hasattr(zero, "fp32_partitioned_groups_flat")  # stage 3
    flat = zero.fp32_partitioned_groups_flat if sharded else zero.single_partition_of_fp32_groups
    check_adam(zero.optimizer)
    if any(part is None for part in flat):
        raise NoMomentsError("optimizer states on NVMe are not filled")
    steps = {entry["step"] for entry in moments.values()}
    if len(steps) != 1:
        raise NoMomentsError("parameters were updated different numbers of times")
    (step,) = steps
    for part in flat:
        zero.optimizer.state[part] = {
            **{key: torch.zeros_like(part) for key in KEYS},
            "step": counter(zero.optimizer, step, part.device),
        }
    if not sharded:
        zero._lazy_init_hp_params_optimizer_state()
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        for key in KEYS:
            value = moments[name][key].flatten().to(parameter.device)
            if sharded:
                share = own_share(value, parameter.ds_tensor.numel())
                safe_set_local_optimizer_state(parameter, share, key)
            else:
                safe_set_full_optimizer_state(parameter, value, key)


def own_share(values: torch.Tensor, size: int) -> torch.Tensor:
    """This process's ``size`` of values that are shared out in order and padded at the end."""
    padded = F.pad(values, (0, size * dist.get_world_size() - values.numel()))
    return padded.narrow(0, size * dist.get_rank(), size)


def check_adam(optimizer: torch.optim.Optimizer) -> None:
    """Raise NoMomentsError for an optimizer that has no such moments."""
    if type(optimizer).__name__ not in ADAMS:
        raise NoMomentsError(f"{type(optimizer).__name__} is no Adam")


def counter(optimizer: torch.optim.Optimizer, step: int, device: torch.device):
    """Number of updates as this Adam keeps it."""
    own = isinstance(optimizer, torch.optim.Adam)  # torch's AdamW is one as well
    return torch.tensor(float(step), device=device) if own else step
