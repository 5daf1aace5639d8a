"""How long texts are in tokens, and how many of them a limit would cut."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from vt_fairseq.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextLengths:
    """Lengths of one text or more.

    Attributes:
        tokens: of each text, without eos, in ascending order.
    """

    tokens: list[int]

    @classmethod
    def of(cls, tokenizer: Tokenizer, texts: Iterable[str]) -> "TextLengths | None":
        """The lengths of ``texts``; None where there is none."""
        tokens = sorted(len(tokenizer.encode(text)) for text in texts)
        return cls(tokens) if tokens else None

    def percentile(self, per_cent: float) -> int:
        """The length that so many of a hundred texts do not pass (nearest rank)."""
        return self.tokens[max(math.ceil(per_cent / 100 * len(self.tokens)), 1) - 1]

    @property
    def longest(self) -> int:
        """The length of the longest text."""
        return self.tokens[-1]

    def above(self, limit: int) -> int:
        """How many texts are longer than ``limit`` tokens."""
        return len(self.tokens) - bisect_right(self.tokens, limit)

    def counted(self, limit: int) -> dict[str, int]:
        """The numbers that data.json keeps, with those above ``limit``."""
        return {
            "texts": len(self.tokens),
            "median": self.percentile(50),
            "percentile_95": self.percentile(95),
            "longest": self.longest,
            "limit": limit,
            "above_limit": self.above(limit),
        }
