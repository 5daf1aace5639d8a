"""Whether torch has code for this machine's GPUs, and its processor instructions for a dtype."""

import re

import torch

from vt_fairseq.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""By the names that the commands' option ``--dtype`` has for them."""


def check_gpus() -> None:
    """Raise UserError when torch has no code for one of the visible GPUs."""
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if not has_code_for(capability, torch.cuda.get_arch_list()):
            major, minor = capability
            advice = ""
            if capability == (7, 0):
                advice = "; for V100s install a CUDA 12.6 build, up to torch 2.14"
            raise UserError(
                f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(index)} "
                f"(sm_{major}{minor}), only for {', '.join(torch.cuda.get_arch_list())}{advice}; "
                "or run on the CPU (fairseq's commands: --cpu; vt-*: --device cpu)"
            )


def has_code_for(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Whether a GPU of this compute capability can run one of torch's architectures.

    ``sm_XY`` is machine code for X.Y and later minor versions of X; ``compute_XY`` is PTX, which
    any later GPU translates. A suffix (sm_90a) ties it to that version alone.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
        if match is None:
            continue
        kind, version, suffix = match[1], (int(match[2]), int(match[3])), match[4]
        same_major = capability[0] == version[0]
        runs = {"sm": capability >= version and same_major, "compute": capability >= version}[kind]
        if capability == version or (runs and not suffix):
            return True
    return False


def emulates(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``dtype`` is one of half precision that this processor has no instructions for.

    x86 without AVX512: torch then converts, and R(2+1)D takes 30 times as long as in fp32.
    """
    half = dtype in (torch.bfloat16, torch.float16)
    return half and device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
