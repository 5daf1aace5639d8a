"""Linear heads on the encoder's state at [CLS]: discriminative fine-tuning (paper, section 3.1).

Shapes: R rows of the source, C width, N classes of a head, B questions, K candidates of the
question that has most.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.errors import UserError

PREFIX = "heads."


class LinearHead(nn.Linear):
    """Computed and returned in fp32 whatever type the weights are kept in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C) -> (R, N) fp32."""
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x.float(), self.weight.float(), bias)


class ClassHeads(nn.ModuleDict):
    """One linear layer a head.

    Args:
        sizes: N of each head by its name. A head with one output scores candidates against each
            other, where a bias would make no difference; it has none.
        width: C.
    """

    def __init__(self, sizes: Mapping[str, int], width: int):
        super().__init__({n: LinearHead(width, size, bias=size > 1) for n, size in sizes.items()})

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """(R, C) states at [CLS] -> logits (R, N) fp32 of each head."""
        return {name: head(states) for name, head in self.items()}


def scores_by_question(scores: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Scores (R, 1) of all candidates one after the other -> (B, K).

    ``candidates`` (B, K) bool is True at the R candidates that there are; the other places get
    the lowest finite number, which a softmax over K makes 0.
    """
    lowest = torch.full(
        candidates.shape, torch.finfo(scores.dtype).min, dtype=scores.dtype, device=scores.device
    )
    return lowest.masked_scatter(candidates, scores.squeeze(1))


def add_new_heads(
    state_dict: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor], allowed: bool
) -> list[str]:
    """Complete a checkpoint's ``state_dict`` by the parameters ``own`` of heads that it lacks.

    Args:
        state_dict: changed in place.
        own: the model's parameters under their full names.
        allowed: whether a head may start anew.

    Returns the names of what was added. Raises UserError for heads that the model does not have,
    and for missing ones unless ``allowed``.
    """
    saved, wanted = head_names(state_dict), head_names(own)
    if extra := saved - wanted:
        raise UserError(
            f"the checkpoint has heads that the model has not: {', '.join(sorted(extra))}; "
            f"expected --heads {','.join(sorted(saved))}"
        )
    new = sorted(k for k in own if head_names([k]) & (wanted - saved))
    if new and not allowed:
        raise UserError(
            f"the checkpoint has no heads {', '.join(sorted(wanted - saved))}: to start them from "
            "its other weights, give it as --finetune-from-model, or add --reset-optimizer"
        )
    state_dict.update({name: own[name] for name in new})
    return new


def head_names(names) -> set[str]:
    """Names of the heads that the parameters ``names`` belong to."""
    return {n.removeprefix(PREFIX).split(".")[0] for n in names if n.startswith(PREFIX)}
