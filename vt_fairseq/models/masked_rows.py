"""Rows in the places of a mask, without a shape that depends on values.

``torch.masked_scatter`` does the same, but its backward pass selects by the mask, for which the CPU
has to wait for the GPU.
"""

import torch


def rows_at(mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The n-th row (N, ...) at the n-th True of ``mask`` (M, ...) bool: (M, ..., ...).

    Elsewhere it has some row or other. No rows at all give zeros, whatever the mask says. Raises
    IndexError where there are fewer rows than places; on a GPU that is a device-side assert.
    """
    if not len(rows):  # the sum keeps them in the graph: other processes wait for their gradients
        return rows.sum() + rows.new_zeros(mask.shape + rows.shape[1:])
    order = mask.flatten().cumsum(0).sub(1).clamp(min=0)
    return rows.index_select(0, order).unflatten(0, mask.shape)
