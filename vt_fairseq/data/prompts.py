"""Tasks as actions: a prompt, and where the target text comes from (paper, section 3.1).

Built in are the paper's CAPTION, CLASSIFY and ANSWER. Users add their own with
``--define-action NAME=FIELD:PROMPT``, for instance ``--define-action 'verb=verb:name the verb :'``.
A prompt may hold ``{question}``, which becomes the row's question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError

# "action" is verb and noun together, for EPIC-Kitchens ("cut tomato").
FIELDS = ("caption", "label", "verb", "noun", "action", "answer")
# Narrations have 20 and descriptions 12 tokens in the paper's pretraining (section 3.1).
DEFAULT_TARGET_TOKENS = {"caption": 20, "classify": 12, "answer": 20}
OTHER_TARGET_TOKENS = 20


@dataclass(frozen=True)
class Action:
    """One task: ``prompt`` in the source, the text of ``field`` as the target.

    Attributes:
        name: what ``--action`` and ``--actions`` call it.
        prompt: prefix of the source; ``{question}`` stands for the row's question.
        field: one of FIELDS.
        max_target_tokens: longer targets are cut, before eos is appended.
    """

    name: str
    prompt: str
    field: str
    max_target_tokens: int

    def prompt_for(self, row: ClipRow) -> str:
        """The prompt with the row's question in it."""
        return self.prompt.replace("{question}", row.question or "").strip()

    def references(self, row: ClipRow) -> tuple[str, ...]:
        """Every right text for ``row``, empty when the row has none for this action."""
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


BUILT_IN = {
    "caption": Action("caption", "caption :", "caption", DEFAULT_TARGET_TOKENS["caption"]),
    "classify": Action("classify", "classify :", "label", DEFAULT_TARGET_TOKENS["classify"]),
    "answer": Action("answer", "answer : {question}", "answer", DEFAULT_TARGET_TOKENS["answer"]),
}


def parse_max_target_tokens(option: str) -> dict[str, int]:
    """Read ``caption=20,classify=12``; raise UserError on anything else."""
    limits = {}
    for part in filter(None, (p.strip() for p in option.split(","))):
        name, _, number = part.partition("=")
        if not number.isdigit() or int(number) == 0:
            raise UserError(
                f"--max-target-tokens: expected ACTION=NUMBER,..., found {part!r} "
                "(for instance caption=20,classify=12)"
            )
        limits[name] = int(number)
    return limits


def build_actions(definitions: Sequence[str], max_target_tokens: str) -> dict[str, Action]:
    """The built-in actions and the user's ``NAME=FIELD:PROMPT`` ones, by name.

    Raises UserError for a malformed definition, an unknown field, or a limit without an action.
    """
    table = dict(BUILT_IN)
    for text in definitions:
        name, equals, rest = text.partition("=")
        field, colon, prompt = rest.partition(":")
        if not (name and equals and colon and prompt.strip()) or field not in FIELDS:
            raise UserError(
                f"--define-action: expected NAME=FIELD:PROMPT with FIELD one of "
                f"{', '.join(FIELDS)}, found {text!r}"
            )
        table[name] = Action(name, prompt.strip(), field, OTHER_TARGET_TOKENS)
    for name, limit in parse_max_target_tokens(max_target_tokens).items():
        if name not in table:
            raise UserError(f"--max-target-tokens names {name!r}; the actions are {list(table)}")
        old = table[name]
        table[name] = Action(old.name, old.prompt, old.field, limit)
    return table


def select_actions(table: dict[str, Action], names: str) -> list[Action]:
    """The actions named in a comma-separated list; raise UserError for an unknown one."""
    chosen = [n.strip() for n in names.split(",") if n.strip()]
    unknown = [n for n in chosen if n not in table]
    if unknown or not chosen:
        raise UserError(
            f"unknown action {', '.join(unknown) or names!r}; there are {', '.join(table)} "
            "(--define-action NAME=FIELD:PROMPT adds one)"
        )
    return [table[n] for n in chosen]
