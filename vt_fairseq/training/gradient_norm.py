"""The norm of all gradients, and clipping by it, in operations over lists of tensors."""

from collections.abc import Callable, Iterable

import torch

AggregateNorm = Callable[[torch.Tensor], torch.Tensor] | None


def total_norm(gradients: list[torch.Tensor], aggregate: AggregateNorm = None) -> torch.Tensor:
    """L2 norm of all of them, a scalar in fp32 on the host, 0 of none.

    It is read here once. fairseq reads it in several places, and a device would be waited for in
    each.

    Args:
        gradients: of any floating-point dtype; sums are in fp32.
        aggregate: from the norm of this process's gradients to that of all processes'.
    """
    if gradients:
        norms = torch._foreach_norm(gradients, 2, dtype=torch.float32)
        norm = torch.linalg.vector_norm(torch.stack(norms))
    else:
        norm = torch.zeros(())
    return on_host(norm if aggregate is None else aggregate(norm))


def on_host(scalar: torch.Tensor) -> torch.Tensor:
    """A copy of the same dtype in the memory of the CPU."""
    return torch.tensor(scalar.item(), dtype=scalar.dtype)


@torch.no_grad()
def clip_grad_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    aggregate_norm_fn: AggregateNorm = None,
) -> torch.Tensor:
    """``fairseq.utils.clip_grad_norm_``, to the bit; returns the norm before clipping, on the host.

    Args:
        parameters: those whose gradients are scaled down together, in place.
        max_norm: their norm is at most this afterwards; 0 for no limit.
        aggregate_norm_fn: see ``total_norm``.
    """
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else parameters
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = total_norm(gradients, aggregate_norm_fn)
    if max_norm > 0 and (coefficient := clipping(norm, max_norm)) != 1:
        torch._foreach_mul_(gradients, coefficient.item())
    return norm


def clipping(norm: torch.Tensor, max_norm: float) -> torch.Tensor:
    """What gradients of this norm are multiplied by, as fairseq computes it."""
    return (max_norm / (norm + 1e-6)).clamp_(max=1)
