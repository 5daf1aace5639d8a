"""From the log of a search to its texts, as fairseq's generator gives them.

Shapes: T steps, B sources, beams, C = 2 * beams candidates.
"""

from typing import Any

import numpy as np
import torch

from vt_fairseq.errors import UserError
from vt_fairseq.models.search_step import BEAM, SCORE, TOKEN

DIVERGED = (
    "the model's scores of the next token are not finite numbers: the model has diverged, or its "
    "numbers pass fp16's range (take bf16 or fp32)"
)
FORBIDDEN = "no text is possible: every next token is forbidden"


class SearchLog:
    """The log of a search, read on the host.

    Args:
        log: (T, 3, B, C) int32, see ``SearchState``.
        eos: id of the end of a text.
    """

    def __init__(self, log: np.ndarray, eos: int):
        scores, tokens, beams = (log[:, part] for part in (SCORE, TOKEN, BEAM))
        self.eos, self.beams = eos, log.shape[-1] // 2
        self.scores = np.ascontiguousarray(scores).view(np.float32)
        self.ends = (tokens == eos) & (self.scores != -np.inf)
        self.parents = beams
        # What goes on: (T, B, beams) each.
        order = np.argsort(self.ends, axis=-1, kind="stable")[..., : self.beams]
        self.totals, self.tokens, self.came_from = (
            np.take_along_axis(x, order, -1) for x in (self.scores, tokens, beams)
        )

    def texts_of(self, source: int, length_power: float) -> list[dict[str, Any]]:
        """The first ``beams`` texts of a source that ended, by score.

        Args:
            source: its number.
            length_power: a score is the sum of the log-likelihoods over (tokens) ** this.

        Raises UserError for log-likelihoods that are not numbers.
        """
        texts: list[dict[str, Any]] = []
        for step, (scores, ends) in enumerate(
            zip(self.scores[:, source], self.ends[:, source], strict=True)
        ):
            if np.isnan(scores).any():
                raise UserError(DIVERGED)
            for rank in np.flatnonzero(ends[: self.beams]):
                if len(texts) < self.beams:
                    texts.append(self._text(source, step, int(rank), length_power))
            if len(texts) == self.beams:
                break
        if not texts:
            raise UserError(FORBIDDEN)
        # fairseq's order where scores are equal
        _, order = torch.sort(torch.stack([text["score"] for text in texts]), descending=True)
        return [texts[i] for i in order]

    def _text(self, source: int, step: int, rank: int, length_power: float) -> dict[str, Any]:
        """The text that ends at ``step`` with the candidate ``rank``."""
        tokens, sums = [self.eos], [self.scores[step, source, rank]]
        beam = self.parents[step, source, rank]
        for before in range(step - 1, -1, -1):
            tokens.append(self.tokens[before, source, beam])
            sums.append(self.totals[before, source, beam])
            beam = self.came_from[before, source, beam]
        total = torch.tensor(sums[0])
        sums_so_far = np.array(sums[::-1], dtype=np.float32)
        return {
            "tokens": torch.tensor(tokens[::-1], dtype=torch.int64),
            "score": total / (step + 1) ** length_power,
            "attention": torch.empty(0),
            "alignment": torch.empty(0),
            "positional_scores": torch.from_numpy(np.diff(sums_so_far, prepend=np.float32(0))),
        }
