"""Tasks as prompts: what is asked, and where the target text comes from (paper, section 3.1).

Built in are the paper's CAPTION, CLASSIFY and ANSWER. Users add their own as ``NAME=FIELD:PROMPT``,
for instance ``verb=verb:name the verb :``. A row's question is part of the source's text (section
4.2.4), or of the prompt where that holds ``{question}``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError

# "action" is verb and noun together, for EPIC-Kitchens ("cut tomato").
FIELDS = ("caption", "label", "verb", "noun", "action", "answer")
OTHER_TARGET_TOKENS = 20
QUESTION = "{question}"


@dataclass(frozen=True)
class Prompt:
    """One task: ``text`` goes into the source, and the row's ``field`` is the target.

    Attributes:
        name: what the user calls it.
        text: prefix of the source; ``{question}`` stands for the row's question.
        field: one of FIELDS.
        max_target_tokens: longer targets are cut, before eos is appended.
    """

    name: str
    text: str
    field: str
    max_target_tokens: int

    def text_for(self, row: ClipRow) -> str:
        """The text, with the row's question in it where it has a place for it."""
        return self.text.replace(QUESTION, row.question or "").strip()

    @property
    def fixed_text(self) -> str:
        """The text without a place for the question."""
        return self.text.replace(QUESTION, "").strip()

    def question_for(self, row: ClipRow) -> str:
        """The row's question where it is to be answered and does not stand in the prompt."""
        asked = self.field == "answer" and QUESTION not in self.text
        return (row.question or "") if asked else ""

    def references(self, row: ClipRow) -> tuple[str, ...]:
        """Every correct text for ``row``; empty when the row has none for this prompt."""
        if self.field == "caption":
            return row.captions
        if self.field == "answer":
            return () if row.answer is None else (row.candidates[row.answer],)
        if self.field == "action":
            return () if None in (row.verb, row.noun) else (f"{row.verb} {row.noun}",)
        text = {"label": row.label, "verb": row.verb, "noun": row.noun}[self.field]
        return () if text is None else (text,)

    def target(self, row: ClipRow, rng: np.random.Generator | None) -> str | None:
        """The training target: one of the references at random, the first without ``rng``."""
        texts = self.references(row)
        if not texts:
            return None
        return texts[0] if rng is None else texts[int(rng.integers(len(texts)))]


# Narrations have 20 and descriptions 12 tokens in the paper's pretraining (section 3.1).
BUILT_IN = {
    "caption": Prompt("caption", "caption :", "caption", 20),
    "classify": Prompt("classify", "classify :", "label", 12),
    "answer": Prompt("answer", "answer :", "answer", 20),
}
# Of checkpoints of version 0.1: see ``vt_fairseq.data.text.EARLY``.
EARLY_ANSWER = replace(BUILT_IN["answer"], text=f"answer : {QUESTION}")


def build_prompts(
    definitions: Sequence[str], built_in: Mapping[str, Prompt] = BUILT_IN
) -> dict[str, Prompt]:
    """The built-in prompts and the user's ``NAME=FIELD:PROMPT`` ones, by name.

    Raise UserError for a malformed definition or an unknown field.
    """
    prompts = dict(built_in)
    for definition in definitions:
        name, equals, rest = definition.partition("=")
        field, colon, text = rest.partition(":")
        if not (name and equals and colon and text.strip()) or field not in FIELDS:
            raise UserError(
                f"expected NAME=FIELD:PROMPT with FIELD one of {', '.join(FIELDS)}, "
                f"found {definition!r}"
            )
        prompts[name] = Prompt(name, text.strip(), field, OTHER_TARGET_TOKENS)
    return prompts


def limit_targets(prompts: dict[str, Prompt], limits: str) -> dict[str, Prompt]:
    """``prompts`` with the longest targets of ``limits``, say ``caption=20,classify=12`` tokens.

    Raise UserError when ``limits`` is malformed or names none of the prompts.
    """
    limited = dict(prompts)
    for part in filter(None, (p.strip() for p in limits.split(","))):
        name, _, number = part.partition("=")
        if not number.isdigit() or int(number) == 0:
            raise UserError(
                f"expected ACTION=NUMBER,..., found {part!r} (for instance caption=20,classify=12)"
            )
        if name not in limited:
            raise UserError(f"names {name!r}; the actions are {', '.join(limited)}")
        limited[name] = replace(limited[name], max_target_tokens=int(number))
    return limited


def select_prompts(prompts: dict[str, Prompt], names: str) -> list[Prompt]:
    """The prompts named in a comma-separated list; raise UserError for an unknown or empty one."""
    chosen = [n.strip() for n in names.split(",") if n.strip()]
    unknown = [n for n in chosen if n not in prompts]
    if unknown or not chosen:
        raise UserError(
            f"unknown action {', '.join(unknown) or names!r}; there are {', '.join(prompts)}"
        )
    return [prompts[n] for n in chosen]
