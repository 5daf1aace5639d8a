import json

import pytest

from vt_fairseq.errors import UserError
from vt_fairseq.zero.config import engine_config
from vt_fairseq.zero.launch import join_launcher
from vt_fairseq.zero.shards import check_stages

OPTIONS = {
    "stage": 2,
    "precision": "fp16",
    "batch_size": 8,
    "world_size": 4,
    "clip_norm": 1.0,
    "update_freq": 2,
    "offload": "none",
    "nvme_path": "",
}


def config_with(tmp_path, user: object, **changes) -> dict:
    path = tmp_path / "ds.json"
    path.write_text(user if isinstance(user, str) else json.dumps(user))
    return engine_config(**{**OPTIONS, **changes}, user_file=str(path))


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
    ],
)
def test_what_fairseqs_options_say_as_well_is_accepted(tmp_path, user):
    # Accumulation and clipping stay with fairseq, whatever the file repeats.
    config = config_with(tmp_path, user)
    assert config["gradient_accumulation_steps"] == 1 and config["gradient_clipping"] == 0.0
    assert config["fp16"]["enabled"] is True and "train_batch_size" not in config


@pytest.mark.parametrize(
    ("user", "both"),
    [
        (
            {"zero_optimization": {"stage": 3}},
            "zero_optimization.stage is 3, but --zero-stage is 2",
        ),
        ({"gradient_clipping": 5}, "gradient_clipping is 5, but --clip-norm is 1.0"),
        ({"train_batch_size": 32}, "train_batch_size is 32, but --batch-size is 64"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is true, but --bf16 is False"),
        ({"optimizer": {"type": "Adam"}}, "but --optimizer has no place for it"),
        ([1], "expected a JSON object"),
        ({"fp16": True}, "expected an object as fp16, found True"),
        ("{", "expected a JSON file"),
    ],
)
def test_a_contradiction_names_both_sides(tmp_path, user, both):
    with pytest.raises(UserError) as error:
        config_with(tmp_path, user)
    assert both in str(error.value)


def test_offloading_to_nvme_needs_a_folder():
    with pytest.raises(UserError, match="--nvme-path"):
        engine_config(**{**OPTIONS, "offload": "nvme"}, user_file="")
    config = engine_config(**{**OPTIONS, "offload": "nvme", "nvme_path": "/nvme"}, user_file="")
    assert config["zero_optimization"]["offload_optimizer"] == {
        "device": "nvme",
        "nvme_path": "/nvme",
    }


@pytest.mark.parametrize(("saved", "stage"), [(1, 2), (2, 1), (3, 3), (1, 1)])
def test_stages_that_deepspeed_can_convert_pass(saved, stage):
    check_stages(saved, stage)


@pytest.mark.parametrize(("saved", "stage"), [(2, 3), (3, 2), (1, 3)])
def test_stages_that_deepspeed_cannot_convert_are_refused_with_the_way_out(saved, stage):
    with pytest.raises(UserError, match=f"--zero-stage {saved}.*--reset-optimizer"):
        check_stages(saved, stage)


class Options:
    """fairseq's distributed options, as far as a launcher sets them."""

    distributed_init_method = None
    distributed_world_size = 1
    distributed_rank = 0
    device_id = 0
    distributed_no_spawn = False
    distributed_backend = "nccl"


LAUNCHED = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
}


def test_a_launchers_process_joins_the_others_also_without_gpus(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = Options()
    join_launcher(options)
    assert (options.distributed_world_size, options.distributed_rank) == (4, 3)
    assert (options.device_id, options.distributed_no_spawn) == (1, True)
    assert (options.distributed_init_method, options.distributed_backend) == ("env://", "gloo")


def test_more_processes_a_node_than_gpus_are_refused(monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match="GPU 1 of this node, which has 1"):
        join_launcher(Options())


def test_half_a_launchers_environment_is_refused_and_not_trained_alone(monkeypatch):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="RANK, LOCAL_RANK are not set"):
        join_launcher(Options())
