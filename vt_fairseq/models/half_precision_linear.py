"""Linear maps without biases whose outputs stay in the range of half precision.

With fp32 weights they are plain nn.Linear.
"""

import torch
import torch.nn.functional as F
from torch import nn

# Largest magnitude of a clamped fp16 output: half of the range, because dropout with
# probability p <= 0.5 multiplies it by 1 / (1 - p).
CLAMP = torch.finfo(torch.float16).max / 2


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
    return _Clamp.apply(x) if x.dtype == torch.float16 else x


class Fp32OutputLinear(nn.Linear):
    """nn.Linear without a bias, computed and returned in fp32 whatever its weight's dtype."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out) fp32."""
        return fp32_linear(x, self.weight)


def fp32_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., in), (out, in) of any dtypes -> (..., out) fp32.

    It is ``F.linear(x.float(), weight.float())`` without the fp32 copies that autograd would keep,
    for t5-large 1 GiB of weights.
    """
    if weight.dtype == torch.float32:
        return F.linear(x.float(), weight)
    return _Fp32Linear.apply(x, weight)


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


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.clamp_(-CLAMP, CLAMP)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return grad


def fp32_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, k), (k, n) in half precision or fp32 -> (m, n) fp32.

    A GPU's tensor cores multiply half precision exactly and add up in fp32: the same as a product
    of fp32 copies, but many times faster.
    """
    if a.is_cuda and a.dtype == b.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class _Fp32Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return fp32_product(x.flatten(0, -2), weight.T).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.flatten(0, -2)
        if grad.is_cuda:  # for the tensor cores; the sums stay fp32
            grad = grad.to(weight.dtype)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = fp32_product(grad, weight).to(x.dtype).view_as(x)
        if ctx.needs_input_grad[1]:
            of_weight = fp32_product(grad.T, x.flatten(0, -2)).to(weight.dtype)
        return of_x, of_weight
