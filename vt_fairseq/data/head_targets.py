"""What linear heads are trained on: class numbers, or the number of the right candidate.

Shapes: B clips, K candidates of the question that has most.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from vt_fairseq.data.manifest import ClipRow
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
        raise UserError(
            f"--heads: expected some of {', '.join(known)}, each once, found {option!r}"
        )
    if ANSWER in names and len(names) > 1:
        raise UserError(
            f"--heads {option}: answer has a source for every candidate and the others have one "
            "for every clip; train them apart"
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
        """The heads ``names``; raise UserError where ``where``'s ``class_lists`` are empty."""
        classes = {}
        for name in names:
            found = () if name == ANSWER else class_lists[name]
            if name != ANSWER and not found:
                raise UserError(
                    f"--heads {name}: no row of {where} has a {name}; prepare annotations that have"
                )
            classes[name] = {text: number for number, text in enumerate(found)}
        return cls(classes)

    def names(self) -> dict[str, list[str]]:
        """The class names of each head in the order of its outputs: plain lists to be saved."""
        return {name: list(found) for name, found in self.classes.items()}

    @property
    def per_candidate(self) -> bool:
        """Whether every candidate has a source of its own."""
        return ANSWER in self.classes

    @property
    def action(self) -> str:
        """Name of the action whose prompt fits."""
        return "answer" if self.per_candidate else "classify"

    def sizes(self) -> dict[str, int]:
        """Outputs of each head: its classes, or one score for a question with a candidate."""
        return {name: 1 if name == ANSWER else len(found) for name, found in self.classes.items()}

    def candidates(self, row: ClipRow) -> tuple[str, ...]:
        """Texts that each get a source of their own; "" alone where candidates play no part."""
        return row.candidates if self.per_candidate else ("",)

    def targets(self, rows: Sequence[ClipRow]) -> dict[str, torch.Tensor]:
        """(B,) int64 a head, NO_CLASS where a row does not say; UserError for another class."""
        return {
            name: torch.tensor([self._target(name, row) for row in rows]) for name in self.classes
        }

    def _target(self, name: str, row: ClipRow) -> int:
        found = {"verb": row.verb, "noun": row.noun, "label": row.label, ANSWER: row.answer}[name]
        if found is None:
            return NO_CLASS
        if name == ANSWER:
            return found
        try:
            return self.classes[name][found]
        except KeyError:
            raise UserError(
                f"clip {row.id}: {name} {found!r} is none of the {len(self.classes[name])} classes "
                "of the data directory; make it again with vt-prepare"
            ) from None


def candidate_mask(counts: Sequence[int]) -> torch.Tensor:
    """(B, K) bool: True at the candidates that there are, ``counts`` of them in each row."""
    return torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)
