"""What a model says of one video: texts, scores and times.

Scores are log-likelihoods: natural logarithm, <= 0, summed over the text's tokens and its eos.
``start`` and ``end`` are the seconds that were asked for; None is the video's own start or end.
"""

from dataclasses import dataclass

import torch

from vt_fairseq.candidates.probabilities import softmax


@dataclass(frozen=True)
class Text:
    """One generated text and its log-likelihood."""

    text: str
    score: float


@dataclass(frozen=True)
class Caption:
    """Generated texts of one clip, best first: beam search orders them by score per token."""

    candidates: tuple[Text, ...]
    start: float | None = None
    end: float | None = None

    @property
    def text(self) -> str:
        """The best text."""
        return self.candidates[0].text

    @property
    def score(self) -> float:
        """Log-likelihood of the best text."""
        return self.candidates[0].score


@dataclass(frozen=True)
class Choice:
    """Given texts (answers, class names) under one clip.

    Attributes:
        texts: as they were given.
        scores: the log-likelihood of each, or with ``length_normalize`` its mean per token.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    start: float | None = None
    end: float | None = None

    @property
    def index(self) -> int:
        """Index of the likeliest text, the first among equals."""
        return self.order[0]

    @property
    def text(self) -> str:
        """The likeliest text."""
        return self.texts[self.index]

    @property
    def score(self) -> float:
        """Score of the likeliest text."""
        return self.scores[self.index]

    @property
    def order(self) -> list[int]:
        """Indices of the texts, likeliest first."""
        return sorted(range(len(self.scores)), key=lambda k: -self.scores[k])

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Softmax of the scores: how the texts compare with one another; sums to 1."""
        return tuple(softmax(self.scores))


@dataclass(frozen=True)
class Ranked:
    """One video under a query.

    Attributes:
        index: of the video in the list that was ranked.
        score: of the query under this video.
    """

    index: int
    score: float
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, eq=False)
class Encoding:
    """The encoder's states of one clip.

    Attributes:
        states: (S, C) fp32 on the CPU, without padding; the first is that of [CLS].
        tokens: their S ids.
        video: which of them are the T video tokens.
    """

    states: torch.Tensor
    tokens: tuple[int, ...]
    video: slice
    start: float | None = None
    end: float | None = None

    @property
    def cls(self) -> torch.Tensor:
        """(C,), the state at [CLS]."""
        return self.states[0]
