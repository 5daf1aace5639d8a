import importlib
import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf

from vt_fairseq.errors import UserError
from vt_fairseq.training.zero.adam import DeepSpeedAdamConfig
from vt_fairseq.training.zero.config import engine_config, step_in_parts
from vt_fairseq.training.zero.optimizer import DeepSpeedOptimizer
from vt_fairseq.training.zero.shards import check_stages


def options(precision: str = "fp16", **optimizer: str) -> Any:
    """fairseq's configuration of ZeRO-2 on four processes."""
    cfg = OmegaConf.structured(FairseqConfig())
    cfg.optimizer = DeepSpeedAdamConfig(zero_stage="2", **optimizer)
    cfg.optimizer._name = "deepspeed_adam"
    cfg.common[precision] = True
    cfg.common.fp16_init_scale, cfg.common.fp16_scale_window = 128, 2048
    cfg.dataset.batch_size, cfg.optimization.update_freq = 8, [2]
    cfg.optimization.clip_norm = 1.0
    return cfg


def config_with(tmp_path, user: object, precision: str = "fp16") -> dict:
    path = tmp_path / "ds.json"
    path.write_text(user if isinstance(user, str) else json.dumps(user))
    return engine_config(options(precision, deepspeed_config=str(path)), world_size=4)


def test_the_users_file_is_laid_over_ours_key_by_key(tmp_path):
    user = {"zero_optimization": {"overlap_comm": True}, "flops_profiler": {"enabled": True}}
    config = config_with(tmp_path, user)
    assert config["zero_optimization"]["stage"] == 2
    assert config["zero_optimization"]["overlap_comm"] is True
    assert config["zero_optimization"]["reduce_bucket_size"] == 50_000_000
    assert config["flops_profiler"] == {"enabled": True}


@pytest.mark.parametrize(
    "user",
    [
        {"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}},
        {"train_batch_size": 64, "train_micro_batch_size_per_gpu": 8},
        {"train_batch_size": "auto", "gradient_accumulation_steps": 2, "gradient_clipping": 1.0},
        {
            "fp16": {
                "loss_scale": 0,
                "initial_scale_power": 7,
                "loss_scale_window": 2048,
                "hysteresis": 1,
                "min_loss_scale": 0.0001,
            }
        },
        {"zero_optimization": {"offload_optimizer": {"device": "none"}}},
    ],
)
def test_what_fairseqs_options_say_as_well_is_accepted(tmp_path, user):
    # Accumulation and clipping stay with fairseq, whatever the file repeats.
    config = config_with(tmp_path, user)
    assert config["gradient_accumulation_steps"] == 1 and config["gradient_clipping"] == 0.0
    assert config["fp16"] == {"enabled": True, "loss_scale": 1.0}
    assert "train_batch_size" not in config


@pytest.mark.parametrize(
    ("user", "both"),
    [
        (
            {"zero_optimization": {"stage": 3}},
            "zero_optimization.stage is 3, but --zero-stage is 2",
        ),
        ({"gradient_clipping": 5}, "gradient_clipping is 5, but --clip-norm is 1;"),
        (
            {"train_batch_size": 32},
            "train_batch_size is 32, but --batch-size times --update-freq times processes is 64",
        ),
        ({"bf16": {"enabled": True}}, "bf16.enabled is true, but --bf16 is False"),
        ({"optimizer": {"type": "Adam"}}, "but --optimizer has no place for it"),
        (
            {"fp16": {"loss_scale": 128}},
            "fp16.loss_scale is 128, but the dynamic scale of --fp16-init-scale is 0",
        ),
        (
            {"fp16": {"initial_scale_power": 16}},
            "is 16, but --fp16-init-scale 128 as a power of 2 is 7;",
        ),
        ({"fp16": {"loss_scale_window": 1000}}, "is 1000, but --fp16-scale-window is 2048"),
        ({"fp16": {"min_loss_scale": 1}}, "is 1, but --min-loss-scale is 0.0001"),
        ({"fp16": {"hysteresis": 2}}, "is 2, but --fp16-scale-tolerance 0 is 1"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            'offload_optimizer.device is "cpu", but --offload-optimizer is none',
        ),
        (
            {"activation_checkpointing": {"partition_activations": True}},
            "but --checkpoint-activations has no place for it",
        ),
        ([1], "expected a JSON object"),
        ({"fp16": True}, "expected an object as fp16, found True"),
        ("{", "is not JSON"),
    ],
)
def test_a_contradiction_names_both_sides(tmp_path, user, both):
    with pytest.raises(UserError) as error:
        config_with(tmp_path, user)
    assert both in str(error.value)


def test_a_loss_scale_in_the_file_says_nothing_without_fp16(tmp_path):
    user = {"fp16": {"enabled": False, "loss_scale": 0, "initial_scale_power": 16}}
    assert config_with(tmp_path, user, precision="bf16")["bf16"] == {"enabled": True}


def test_offloading_to_nvme_needs_a_folder():
    with pytest.raises(UserError, match="--nvme-path"):
        engine_config(options(offload_optimizer="nvme"), world_size=4)
    config = engine_config(options(offload_optimizer="nvme", nvme_path="/nvme"), world_size=4)
    assert config["zero_optimization"]["offload_optimizer"] == {
        "device": "nvme",
        "nvme_path": "/nvme",
    }


def test_stages_that_deepspeed_cannot_convert_are_refused_with_the_way_out():
    for saved, stage in ((1, 2), (2, 1), (3, 3), (1, 1)):
        check_stages(saved, stage)
    for saved, stage in ((2, 3), (3, 2), (1, 3)):
        with pytest.raises(UserError, match=f"--zero-stage {saved}.*--reset-optimizer"):
            check_stages(saved, stage)


def adam_of(*sizes: int) -> torch.optim.Optimizer:
    """Of parameters of so many elements, the last of which learns slower."""
    *first, last = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    groups = [{"params": first, "lr_scale": 1.0}, {"params": [last], "lr_scale": 0.1}]
    return torch.optim.AdamW(groups, lr=1e-3)


@pytest.mark.parametrize("stage", [1, 2])
def test_parameters_are_stepped_in_groups_of_a_quarter_that_keep_their_settings(stage):
    adam = adam_of(*[10] * 8, 20)
    whole = [p for group in adam.param_groups for p in group["params"]]
    step_in_parts(adam, {"zero_optimization": {"stage": stage}}, world_size=4)
    sizes = [sum(p.numel() for p in group["params"]) for group in adam.param_groups]
    assert sizes == [20, 20, 20, 20, 20]
    assert [group["lr_scale"] for group in adam.param_groups] == [1.0] * 4 + [0.1]
    assert all(group["lr"] == 1e-3 for group in adam.param_groups)
    assert [id(p) for g in adam.param_groups for p in g["params"]] == list(map(id, whole))


def test_stage_3_steps_a_tenth_of_its_share_unless_the_users_file_says_otherwise():
    adam, config = adam_of(400, 80), {"zero_optimization": {"stage": 3}}
    step_in_parts(adam, config, world_size=4)
    assert config["zero_optimization"]["sub_group_size"] == 480 / 4 / 10
    assert len(adam.param_groups) == 2
    config["zero_optimization"]["sub_group_size"] = 7
    step_in_parts(adam, config, world_size=4)
    assert config["zero_optimization"]["sub_group_size"] == 7


def test_stage_3_gathers_at_once_what_layers_and_blocks_hold():
    cfg = options()
    cfg.optimizer.zero_stage = "3"
    names = engine_config(cfg, world_size=4)["zero_optimization"]["leaf_module"]["classes"]
    found = [name.rpartition(".")[::2] for name in names]
    classes = [getattr(importlib.import_module(module), name) for module, name in found]
    assert classes and all(issubclass(each, torch.nn.Module) for each in classes)


@pytest.mark.parametrize(
    ("stage", "offloading"), [(1, "cpu_offload"), (2, "cpu_offload"), (3, "offload_optimizer")]
)
@pytest.mark.parametrize("offloaded", [False, True])
def test_overflow_is_looked_for_in_the_norm_alone_unless_the_optimizer_is_offloaded(
    stage, offloading, offloaded
):
    """DeepSpeed's own look takes stage 3 a mask of a byte per parameter."""
    zero = SimpleNamespace(check_overflow=print, **{offloading: offloaded})
    engine = SimpleNamespace(optimizer=zero, zero_optimization_stage=lambda: stage)
    DeepSpeedOptimizer(None, engine, None, shards=None)
    assert (zero.check_overflow is print) == offloaded


def test_the_engines_clock_which_no_compiler_can_trace_is_off_unless_a_users_file_has_it(
    tmp_path,
):
    assert engine_config(options(), world_size=4)["timers"]["throughput"]["enabled"] is False
    user = {"timers": {"throughput": {"enabled": True}}}
    assert config_with(tmp_path, user)["timers"]["throughput"]["enabled"] is True
