import pytest
import torch

from vt_fairseq.devices import check_gpus, emulates, has_code_for
from vt_fairseq.errors import UserError

CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((7, 0), CUDA_12_6, True),
        ((7, 0), CUDA_13, False),
        ((8, 9), CUDA_13, True),  # machine code for 8.6 runs on 8.9
        ((10, 0), CUDA_12_6, False),
        ((12, 1), ["compute_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120a"], False),
        ((7, 0), [], False),
    ],
)
def test_machine_code_runs_within_a_major_version_and_ptx_on_all_later_ones(
    capability, architectures, expected
):
    assert has_code_for(capability, architectures) is expected


def test_a_v100_without_code_is_told_which_build_to_install(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CUDA_13)
    with pytest.raises(UserError, match=r"Tesla V100 .*sm_70.* CUDA 12\.6 build"):
        check_gpus()


def test_a_machine_without_gpus_has_nothing_to_check():
    check_gpus()


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "expected"),
    [
        ("cpu", torch.bfloat16, "AVX2", True),
        ("cpu", torch.float16, "AVX2", True),
        ("cpu", torch.float32, "AVX2", False),
        ("cpu", torch.bfloat16, "AVX512", False),
        ("cuda", torch.bfloat16, "AVX2", False),
    ],
)
def test_half_precision_is_emulated_by_processors_without_avx512(
    device, dtype, capability, expected, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert emulates(torch.device(device), dtype) is expected
