"""Tokens of a video network in space and time to those that the text model reads.

Shapes: B clips, T steps in time, P places of a step, C width, N queries.
"""

import torch
from torch import nn

from vt_fairseq.errors import UserError

POOLINGS = ("spatial", "none", "attention")


class TokenPooling(nn.Module):
    """(B, T, P, C) -> (B, tokens, C).

    Args:
        width: C.
        mode: "spatial", the mean of each step; "none", all T * P; or "attention", ``tokens``
            learned queries that attend to all of them.
        tokens: N of attention, and 0 for the others.

    Raises:
        UserError: another mode, or tokens without attention.
    """

    def __init__(self, width: int, mode: str = "spatial", tokens: int = 0):
        super().__init__()
        if mode not in POOLINGS or tokens < 0 or (tokens > 0) != (mode == "attention"):
            raise UserError(
                f"pooling={mode},tokens={tokens}: expected spatial, none, or attention with its "
                "number of tokens"
            )
        self.mode, self.tokens = mode, tokens
        if mode == "attention":
            self.queries = nn.Parameter(torch.randn(tokens, width) * width**-0.5)
            self.norm = nn.LayerNorm(width)
            heads = next(n for n in (12, 8, 4, 2, 1) if width % n == 0)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def num_tokens(self, steps: int, places: int) -> int:
        """How many tokens come of T steps with P places."""
        return {"spatial": steps, "none": steps * places, "attention": self.tokens}[self.mode]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, P, C) -> (B, ``num_tokens``, C)."""
        if self.mode == "spatial":
            return x.mean(dim=2)
        x = x.flatten(1, 2)
        if self.mode == "none":
            return x
        x = self.norm(x)
        return self.attention(self.queries.expand(len(x), -1, -1), x, x, need_weights=False)[0]
