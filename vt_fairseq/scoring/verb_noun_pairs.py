"""Verb-noun pairs: their texts, and how scores of pairs, verbs and nouns follow from one another.

Scores are natural logarithms. Plain numpy. Shapes: V verbs, N nouns, P pairs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vt_fairseq.candidates.probabilities import log_softmax


@dataclass(frozen=True)
class VerbNounPairs:
    """Verb-noun pairs that can be an action.

    Attributes:
        verbs, nouns: (V,) and (N,) names of the classes.
        verb_of, noun_of: (P,) int64 class indices of each pair; all pairs are different.
    """

    verbs: Sequence[str]
    nouns: Sequence[str]
    verb_of: np.ndarray
    noun_of: np.ndarray

    @classmethod
    def every(cls, verbs: Sequence[str], nouns: Sequence[str]) -> "VerbNounPairs":
        """All V * N."""
        verb_of, noun_of = np.divmod(np.arange(len(verbs) * len(nouns)), max(1, len(nouns)))
        return cls(verbs, nouns, verb_of, noun_of)

    @classmethod
    def seen(
        cls,
        verbs: Sequence[str],
        nouns: Sequence[str],
        seen: Iterable[tuple[str | None, str | None]],
    ) -> "VerbNounPairs":
        """Those among ``seen``, pairs of names, in the order of the classes."""
        verb, noun = ({name: k for k, name in enumerate(names)} for names in (verbs, nouns))
        pairs = sorted({(verb[v], noun[n]) for v, n in seen if v in verb and n in noun})
        verb_of, noun_of = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return cls(verbs, nouns, verb_of, noun_of)

    def __len__(self) -> int:
        return len(self.verb_of)

    def names(self, pair: int) -> tuple[str, str]:
        """Verb and noun of one pair."""
        return self.verbs[self.verb_of[pair]], self.nouns[self.noun_of[pair]]

    def texts(self) -> list[str]:
        """Each pair as a candidate: the verb, then the noun."""
        return [" ".join(self.names(pair)) for pair in range(len(self))]

    def verb_scores(self, scores: np.ndarray) -> np.ndarray:
        """(P,) -> (V,): log of the sum of exp over each verb's pairs; -inf where it has none."""
        return _grouped_sums(scores, self.verb_of, len(self.verbs))

    def noun_scores(self, scores: np.ndarray) -> np.ndarray:
        """(P,) -> (N,), as ``verb_scores``."""
        return _grouped_sums(scores, self.noun_of, len(self.nouns))

    def product(self, verb_scores: np.ndarray, noun_scores: np.ndarray) -> np.ndarray:
        """(V,), (N,) -> (P,): log of p(verb) p(noun), normalized over these pairs."""
        verbs, nouns = log_softmax(verb_scores), log_softmax(noun_scores)
        return log_softmax(verbs[self.verb_of] + nouns[self.noun_of])


def _grouped_sums(scores: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    sums = np.full(count, -np.inf)
    np.logaddexp.at(sums, group, scores)
    return sums
