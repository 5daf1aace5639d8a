"""Linear maps without biases whose outputs stay in the range of half precision.

With fp32 or fp64 weights they are plain nn.Linear.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# Largest magnitude of a clamped fp16 output: half of the range, because dropout with
# probability p <= 0.5 multiplies it by 1 / (1 - p).
CLAMP = torch.finfo(torch.float16).max / 2
HALVES = (torch.float16, torch.bfloat16)


def at_least_fp32(x: torch.Tensor) -> torch.Tensor:
    """``x`` in fp32 if it is in half precision, else ``x`` itself: fp64 is not rounded."""
    return x.float() if x.dtype in HALVES else x


class ClampedLinear(nn.Linear):
    """nn.Linear without a bias; fp16 outputs are clamped to +-``CLAMP`` instead of overflowing.

    The gradient ignores the clamping, so nothing is kept for it.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out) in the weights' dtype."""
        return clamped(super().forward(x))


def clamped(x: torch.Tensor) -> torch.Tensor:
    """``x`` clamped to +-``CLAMP`` in place if it is fp16, else unchanged."""
    if x.dtype == torch.float16:
        if torch.compiler.is_compiling():  # which makes no copy, and cannot recompute after this
            return _Clamped.apply(x)
        with torch.no_grad():  # the gradient passes as if nothing had been clamped
            x.clamp_(-CLAMP, CLAMP)
    return x


def joined(layers: Sequence[ClampedLinear], x: torch.Tensor) -> list[torch.Tensor]:
    """``[layer(x) for layer in layers]``, in half-precision training by one product.

    A GPU then waits less for the CPU. The product needs a copy of all the weights for a moment, on
    which generation, with few rows of ``x``, would spend more time than it saves.
    """
    in_half_training = layers[0].training and x.dtype in HALVES
    if not in_half_training or is_partitioned(layers[0]):
        return [layer(x) for layer in layers]
    weights = [layer.weight for layer in layers]
    return list(clamped(_Joined.apply(x, *weights)).split([len(w) for w in weights], dim=-1))


def is_partitioned(module: nn.Module) -> bool:
    """Whether DeepSpeed's ZeRO-3 has the parameters, which are there in the module's calls only."""
    return hasattr(next(module.parameters()), "ds_id")  # ``module.weight`` would gather it


class Fp32OutputLinear(nn.Linear):
    """nn.Linear without a bias, computed and returned in fp32 if its weight is half precision."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out) fp32."""
        return fp32_linear(x, self.weight)


def fp32_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., in), (out, in) of one dtype -> (..., out) fp32, or fp64 as they are.

    In half precision it is ``F.linear(x.float(), weight.float())`` without the fp32 copies that
    autograd would keep, for t5-large 1 GiB of weights.
    """
    if weight.dtype in HALVES:
        return _Fp32Linear.apply(x, weight)
    return F.linear(x, weight)


# Outputs in one block, whose weights stay in the processor's cache while all rows use them.
BLOCK = 128
FEW_ROWS = 256


def vocabulary_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``fp32_linear`` to the vocabulary, in blocks where it has few rows on a CPU.

    A step of generation has few rows; most CPUs are faster with several products of blocks then.
    """
    rows = x.shape[:-1].numel()
    fp32_cpu = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not fp32_cpu or rows > FEW_ROWS or len(weight) % BLOCK or torch.is_grad_enabled():
        return fp32_linear(x, weight)
    blocks = weight.view(-1, BLOCK, weight.size(1)).transpose(1, 2)
    products = torch.matmul(x.float().reshape(rows, -1), blocks)
    return products.transpose(0, 1).reshape(*x.shape[:-1], -1)


def fp32_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, k), (k, n) in half precision -> (m, n) fp32.

    A GPU's tensor cores multiply half precision exactly and add up in fp32: the same as a product
    of fp32 copies, but many times faster.
    """
    if on_cpu(a):
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)


def on_cpu(x: torch.Tensor) -> bool:
    """Whether products are made of fp32 copies, which a CPU is faster with."""
    return x.device.type == "cpu"


class _Clamped(torch.autograd.Function):
    """A clamped copy; the gradient passes as if nothing had been clamped."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(-CLAMP, CLAMP)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return grad


class _Fp32Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return fp32_product(x.flatten(0, -2), weight.T).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        dtype = grad.dtype if on_cpu(grad) else weight.dtype
        grad, x_, weight_ = grad.to(dtype), x.to(dtype), weight.to(dtype)
        of_x = (grad @ weight_).to(x.dtype) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(grad, x_).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return of_x, of_weight


class _Joined(torch.autograd.Function):
    """``F.linear(x, torch.cat(weights))`` that keeps no copy of the weights."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, *weights)
        return F.linear(x, torch.cat(weights))

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        of_x = grad @ torch.cat(weights) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return of_x, *[None] * len(weights)
        return of_x, *_of_weight(grad, x).split([len(weight) for weight in weights])


def _of_weight(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return grad.flatten(0, -2).T @ x.flatten(0, -2)
