"""Parts of a model's parameters that the optimizer steps one after the other."""

import torch

# By ZeRO's stage (0: fairseq's trainer), the share of the elements that the optimizer steps at once
# or, in half precision without ZeRO, at first. Each of them needs an fp32 gradient then (4 bytes),
# with ZeRO also a flat copy of the 16-bit one.
SHARES = {0: 1 / 21, 1: 1 / 4, 2: 1 / 4, 3: 1 / 10}


def in_parts(
    groups: list[list[torch.Tensor]], share: float, growth: float = 0.0
) -> list[tuple[int, list[torch.Tensor]]]:
    """Cut groups of parameters into parts, whose fp32 gradients are not needed at the same time.

    Args:
        groups: the optimizer's; their order is kept.
        share: of all elements, which the first part may have. A larger parameter is a part of its
            own.
        growth: how many more elements a part may have than the first, for each element of the parts
            before it, whose steps have freed memory.

    Returns:
        For each part the index of its group, and its parameters.
    """
    room = share * sum(p.numel() for group in groups for p in group)
    parts: list[tuple[int, list[torch.Tensor]]] = []
    done = 0
    for index, group in enumerate(groups):
        begins, size = True, 0
        for parameter in group:
            if begins or size + parameter.numel() > room + growth * done:
                parts.append((index, []))
                done, begins, size = done + size, False, 0
            parts[-1][1].append(parameter)
            size += parameter.numel()
        done += size
    return parts
