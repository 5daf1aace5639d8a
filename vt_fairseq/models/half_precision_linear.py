"""Linear maps without biases whose results cannot leave the range of half precision.

With fp32 weights both are nn.Linear.
"""

import torch
import torch.nn.functional as F
from torch import nn

# Largest magnitude of a saturated fp16 result: half of the range, because dropout with
# probability p multiplies by 1 / (1 - p) and must not reach infinity after all (p <= 0.5).
SATURATION = torch.finfo(torch.float16).max / 2


class SaturatingLinear(nn.Linear):
    """Computed in the weights' type; fp16 results stop at +-``SATURATION`` instead of infinity.

    The gradient passes as if nothing had been cut off, so nothing is kept for it.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out) in the weights' type."""
        return saturated(super().forward(x))


def saturated(x: torch.Tensor) -> torch.Tensor:
    """``x`` stopped at +-``SATURATION``, in place, where it is fp16; anything else as it is."""
    return _Saturate.apply(x) if x.dtype == torch.float16 else x


class Fp32OutputLinear(nn.Linear):
    """Computed and returned in fp32 whatever type its weight is kept in."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out) fp32."""
        return fp32_linear(x, self.weight)


def fp32_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., in), (out, in) of any types -> (..., out) fp32.

    ``F.linear(x.float(), weight.float())``, except that autograd would keep those copies: 1 GiB of
    fp32 weights in t5-large.
    """
    if weight.dtype == torch.float32:
        return F.linear(x.float(), weight)
    return _Fp32Linear.apply(x, weight)


# Outputs of one block: its weights stay in the processor's cache while all rows meet them.
BLOCK = 128
FEW_ROWS = 256


def wide_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``fp32_linear`` for a vocabulary of outputs, on most CPUs faster for few rows.

    A generation step has few rows, for which one product often reads the weights badly.
    """
    rows = x.shape[:-1].numel()
    fp32_cpu = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not fp32_cpu or rows > FEW_ROWS or len(weight) % BLOCK or torch.is_grad_enabled():
        return fp32_linear(x, weight)
    blocks = weight.view(-1, BLOCK, weight.size(1)).transpose(1, 2)
    products = torch.matmul(x.float().reshape(rows, -1), blocks)
    return products.transpose(0, 1).reshape(*x.shape[:-1], -1)


class _Saturate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.clamp_(-SATURATION, SATURATION)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return grad


def fp32_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, k), (k, n) in half precision or fp32 -> (m, n) fp32.

    A GPU's tensor cores multiply half precision exactly and add up in fp32, as the product of fp32
    copies would, many times faster.
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
