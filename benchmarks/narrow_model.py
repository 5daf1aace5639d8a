"""The model whose updates are counted: as deep as the paper's, narrow, on a GPU's ways on a CPU.

What CUDA has as one kernel and a CPU as several (dropout, RMS norm, attention, a half-precision
product with an fp32 result) is one operation here, which computes something of the right shapes.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import measuring
import torch
import torch.nn.functional as F

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from vt_fairseq.models import half_precision_linear, r2plus1d
    from vt_fairseq.models.r2plus1d import R2Plus1D, R2Plus1DDims
    from vt_fairseq.models.video_backbones import register_video_network
    from vt_fairseq.training import trainer as our_trainer

HALF = ["--fp16", "--fp16-no-flatten-grads"]
RECOMPUTED = ["--checkpoint-video-stages", "4", "--checkpoint-activations"]
# Without DeepSpeed's engine.
PRECISIONS = {
    "fp32": [],
    "bf16": ["--bf16"],
    "fp16": HALF,
    "fp16, all recomputed": [*HALF, *RECOMPUTED],
}
ALIKE = [
    *["--adam-backend", "torch", "--zero-stage", "0", "--cpu", "--min-loss-scale", "0"],
    *["--batch-size", "2"],
]
# Widths of half of R(2+1)D-34: the same layers have mid planes that are filled up.
FULL_DEPTH = [
    *["--arch", "video_translate_t5_large", "--t5-dims", "d_model=32,d_kv=8,d_ff=64,num_heads=4"],
    *["--video-network", "half_34", "--num-frames", "8", "--frame-size", "16"],
]
# Kernels of a GPU for operations that are one here.
SEVERAL = {"convolution_backward": 2, "rms_backward": 2, "attention_backward": 2}


# --- one operation for what CUDA has as one kernel ------------------------------------------------

LIBRARY = torch.library.Library("one_kernel", "DEF")
KERNELS: Any = torch.ops.one_kernel


def kernel(signature: str) -> Callable[[Callable], Callable]:
    """Register a function as one operation; it computes something of the right shapes."""

    def register(function: Callable) -> Callable:
        LIBRARY.define(signature)
        LIBRARY.impl(signature.partition("(")[0], function, "CompositeExplicitAutograd")
        return function

    return register


@kernel("rms(Tensor x, Tensor weight, float eps) -> Tensor")
def _rms(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@kernel("rms_backward(Tensor grad, Tensor x, Tensor weight) -> (Tensor, Tensor)")
def _rms_backward(grad, x, weight):
    return (grad * weight).to(x.dtype), (grad * x).flatten(0, -2).sum(0).to(weight.dtype)


@kernel("dropout(Tensor x, float p) -> (Tensor, Tensor)")
def _dropout(x, p):
    return x * 1.0, torch.ones_like(x, dtype=torch.bool)


@kernel("dropout_backward(Tensor grad, Tensor mask) -> Tensor")
def _dropout_backward(grad, mask):
    return grad * 1.0


@kernel("attention(Tensor q, Tensor k, Tensor v, Tensor? bias) -> Tensor")
def _attention(q, k, v, bias):
    logits = q @ k.transpose(-1, -2)
    attended = torch.softmax(logits if bias is None else logits + bias, -1).to(v.dtype) @ v
    return laid_out(attended)


def laid_out(x):
    """As CUDA's attention has its results in memory: heads beside each other in a row."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@kernel(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? bias) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
def _attention_backward(grad, q, k, v, bias):
    of_bias = q.new_zeros(1) if bias is None else torch.zeros_like(bias)
    return *(laid_out(torch.zeros_like(x)) for x in (q, k, v)), of_bias


@kernel("fp32_product(Tensor a, Tensor b) -> Tensor")
def _fp32_product(a, b):
    return a.float() @ b.float()


class Rms(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        return KERNELS.rms(x, weight, eps)

    @staticmethod
    def backward(ctx, grad):
        return *KERNELS.rms_backward(grad, *ctx.saved_tensors), None


class Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        output, mask = KERNELS.dropout(x, p)
        ctx.save_for_backward(mask)
        return output

    @staticmethod
    def backward(ctx, grad):
        return KERNELS.dropout_backward(grad, *ctx.saved_tensors), None


class Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, bias):
        ctx.save_for_backward(q, k, v, bias)
        return KERNELS.attention(q, k, v, bias)

    @staticmethod
    def backward(ctx, grad):
        *of_qkv, of_bias = KERNELS.attention_backward(grad, *ctx.saved_tensors)
        return *of_qkv, of_bias if ctx.needs_input_grad[3] else None


def rms_norm(x, shape, weight=None, eps=1e-6):
    """``F.rms_norm`` as one operation."""
    return Rms.apply(x, weight, eps)


def dropout(x, p=0.5, training=True, inplace=False):
    """``F.dropout`` as one operation."""
    return Dropout.apply(x, p) if training and p > 0 else x


def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """``F.scaled_dot_product_attention`` as one operation."""
    return Attention.apply(q, k, v, attn_mask)


def allow_fp16() -> None:
    """Let a CPU train in it."""
    our_trainer.refuse_fp16_on_a_cpu = lambda *_: None


def take_a_gpus_ways() -> None:
    """Register ``half_34`` and let models compute as on a GPU, for a compiler to see.

    Dropout and RMS norm stay what they are.
    """
    half = R2Plus1DDims(
        blocks=(3, 4, 6, 3), per_conv_midplanes=True, bn_eps=1e-3, widths=(32, 64, 128, 256)
    )
    register_video_network("half_34")(functools.partial(R2Plus1D, half))
    allow_fp16()
    F.scaled_dot_product_attention = attention
    half_precision_linear.fp32_product = KERNELS.fp32_product
    half_precision_linear.on_cpu = lambda x: False
    r2plus1d.on_tensor_cores = lambda x: x.dtype in (torch.float16, torch.bfloat16)


def count_as_a_gpu() -> None:
    """``take_a_gpus_ways``, for operations to be counted: dropout and RMS norm are one each."""
    take_a_gpus_ways()
    # Where a processor has instructions for bf16, oneDNN's gradients are copied to another layout.
    torch.backends.mkldnn.enabled = False
    F.rms_norm, F.dropout = rms_norm, dropout


def of_few_tokens(batch: dict[str, Any], video: int) -> dict[str, Any]:
    """The batch with ids that the smallest MiniWorld's table has, but for [VIDEO]'s."""
    source = batch["net_input"]["src_tokens"]
    is_video = source.eq(video).all(dim=0)  # not where one row has that id by chance
    source.copy_(torch.where(is_video, source, source % 50 + 5))
    batch["target"].remainder_(50).add_(5)
    batch["net_input"]["prev_output_tokens"].remainder_(50).add_(5)
    return batch


def write_data(folder: str) -> None:
    """The smallest MiniWorld."""
    command = [sys.executable, "-m", "vt_fairseq.cli.prepare", "miniworld", "--size", "tiny"]
    command += ["--out", f"{folder}/data", "--train-vocabulary", "200"]
    subprocess.run(command, check=True, cwd=measuring.ROOT, stdout=subprocess.DEVNULL)


def child(script: str, *arguments: str) -> dict[str, Any]:
    """What a script's own process, in which replaced functions die, prints as its RESULT.

    ``--child`` and the arguments are all that it gets.
    """
    environment = {**os.environ, "PYTHONPATH": str(measuring.ROOT), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, script, "--child", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    results = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
    if done.returncode or not results:
        raise SystemExit(f"{arguments}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(results[-1].removeprefix("RESULT "))
