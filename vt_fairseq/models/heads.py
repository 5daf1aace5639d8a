"""Linear heads on the encoder's state at [CLS]: discriminative fine-tuning (paper, section 3.1).

Shapes: R rows of the source, C width, N classes of a head, B questions, K most candidates of a
question.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.models.half_precision_linear import at_least_fp32
from vt_fairseq.models.masked_rows import rows_at


class LinearHead(nn.Linear):
    """nn.Linear, computed and returned in fp32 if its weights are half precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C) -> (R, N) fp32."""
        bias = None if self.bias is None else at_least_fp32(self.bias)
        return F.linear(at_least_fp32(x), at_least_fp32(self.weight), bias)


class ClassHeads(nn.ModuleDict):
    """One linear layer per head.

    Args:
        sizes: N of each head by its name. A head with one output has no bias: it scores candidates
            against each other, where a bias would make no difference.
        width: C.
    """

    def __init__(self, sizes: Mapping[str, int], width: int):
        super().__init__({n: LinearHead(width, size, bias=size > 1) for n, size in sizes.items()})

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """(R, C) states at [CLS] -> logits (R, N) fp32 of each head."""
        return {name: head(states) for name, head in self.items()}


def scores_by_question(scores: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Scores (R, 1) of all candidates, question after question -> (B, K).

    ``candidates`` (B, K) bool is True at the R candidates that exist; elsewhere the score is the
    lowest finite number, which a softmax over K makes 0.
    """
    by_question = rows_at(candidates, scores.squeeze(1))
    return by_question.masked_fill(~candidates, torch.finfo(scores.dtype).min)
