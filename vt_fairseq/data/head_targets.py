"""What linear heads read and are trained on: classes, or the candidates of a question.

Shapes: B clips, R sources, K candidates of the question that has most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.text import TextOptions
from vt_fairseq.errors import UserError

CLASS_HEADS = ("verb", "noun", "label")
ANSWER = "answer"
# Stands for the class of a row that has none; torch's cross-entropy leaves it out.
NO_CLASS = -100


def parse_heads(option: str) -> list[str]:
    """Read ``verb,noun``; empty without any. Raise UserError for what cannot be trained."""
    names = [name.strip() for name in option.split(",") if name.strip()]
    known = (*CLASS_HEADS, ANSWER)
    if len(set(names)) != len(names) or not set(names) <= set(known):
        raise UserError(f"expected some of {', '.join(known)}, each once, found {option!r}")
    if ANSWER in names and len(names) > 1:
        raise UserError(
            f"{option}: answer has one source per candidate and the others have one per clip; "
            "train them apart"
        )
    return names


@dataclass(frozen=True)
class HeadTargets:
    """The heads of a model and what a row says about them.

    Attributes:
        classes: of each head, class name -> number of its output; none for ``answer``.
    """

    classes: dict[str, dict[str, int]]

    @classmethod
    def of(
        cls, names: Sequence[str], class_lists: Mapping[str, Sequence[str]], where: str
    ) -> "HeadTargets":
        """The heads ``names``; raise UserError for an empty class list, which ``where`` has."""
        classes = {}
        for name in names:
            texts = () if name == ANSWER else class_lists.get(name, ())
            if name != ANSWER and not texts:
                raise UserError(
                    f"no row of {where} has a {name}; prepare annotations that have one"
                )
            classes[name] = {text: number for number, text in enumerate(texts)}
        return cls(classes)

    def names(self) -> dict[str, list[str]]:
        """The class names of each head in the order of its outputs: plain lists to be saved."""
        return {name: list(texts) for name, texts in self.classes.items()}

    @property
    def per_candidate(self) -> bool:
        """Whether each candidate has its own source."""
        return ANSWER in self.classes

    @property
    def prompt_name(self) -> str:
        """The built-in prompt that fits."""
        return "answer" if self.per_candidate else "classify"

    def sizes(self) -> dict[str, int]:
        """Outputs of each head: its classes, or one score for a question with a candidate."""
        return {name: 1 if name == ANSWER else len(texts) for name, texts in self.classes.items()}

    def sources(
        self,
        text: TextOptions,
        prompt: Prompt,
        rows: Sequence[ClipRow],
        num_video_tokens: Sequence[int],
    ) -> tuple[list[list[int]], list[int], torch.Tensor]:
        """The encoder's input, the same in training and at test: no noise, nothing of the target.

        Args:
            num_video_tokens: T of each of the B rows; 0 for a row without video.

        Returns:
            The ids of the R sources, row after row; how many each row has (one, or one per
            candidate); and the int64 clip of each source with [VIDEO] tokens, counted over the
            rows that have video.
        """
        texts = [row.candidates if self.per_candidate else ("",) for row in rows]
        sources = [
            text.source(row, prompt, tokens, (), candidate)
            for row, tokens, candidates in zip(rows, num_video_tokens, texts, strict=True)
            for candidate in candidates
        ]
        counts = [len(candidates) for candidates in texts]
        seen = [count for count, tokens in zip(counts, num_video_tokens, strict=True) if tokens]
        clips = torch.arange(len(seen)).repeat_interleave(torch.tensor(seen, dtype=torch.long))
        return sources, counts, clips

    def targets(self, rows: Sequence[ClipRow]) -> dict[str, torch.Tensor]:
        """(B,) int64 per head, NO_CLASS where a row does not say; UserError for another class."""
        return {
            name: torch.tensor([self._target(name, row) for row in rows]) for name in self.classes
        }

    def _target(self, name: str, row: ClipRow) -> int:
        if name == ANSWER:
            return NO_CLASS if row.answer is None else row.answer
        text = {"verb": row.verb, "noun": row.noun, "label": row.label}[name]
        if text is None:
            return NO_CLASS
        try:
            return self.classes[name][text]
        except KeyError:
            raise UserError(
                f"clip {row.id}: {name} {text!r} is none of the {len(self.classes[name])} classes "
                "of the data directory; make it again with vt-prepare"
            ) from None


def candidate_mask(counts: Sequence[int]) -> torch.Tensor:
    """(B, K) bool: True at the candidates that there are, ``counts`` of them in each row."""
    return torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
