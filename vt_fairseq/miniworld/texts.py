"""What MiniWorld says: the combinations of attributes and all texts about them.

All words are lower-case and few, so that the smallest sentencepiece model covers them. Apart from
the names of color, shape and action, hardly a word depends on chance: little can be guessed.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vt_fairseq.miniworld.rendering import ACTIONS, COLORS, SHAPES


class Combination(NamedTuple):
    color: str
    shape: str
    action: str

    @property
    def noun(self) -> str:
        return f"{self.color} {self.shape}"


ALL = tuple(itertools.starmap(Combination, itertools.product(COLORS, SHAPES, ACTIONS)))


def _held_out() -> Iterator[Combination]:
    """Each color and action twice, each shape three times, no pair of attributes twice."""
    colors = tuple(COLORS)
    for k in range(12):
        action = (k + 1) % 6 if k < 6 else (k + 4) % 6
        yield Combination(colors[k % 6], SHAPES[k % 4], ACTIONS[action])


HELD_OUT = tuple(_held_out())
SEEN = tuple(c for c in ALL if c not in HELD_OUT)


CANDIDATES = 5
QUESTION_KINDS = 3
FORMS = {  # base form: third person, -ing form
    "rise": ("rises", "rising"),
    "fall": ("falls", "falling"),
    "slide": ("slides", "sliding"),
    "grow": ("grows", "growing"),
    "shrink": ("shrinks", "shrinking"),
    "rest": ("rests", "resting"),
}
FILLERS = ("um", "uh", "so", "okay", "well", "like", "you know")
CHATTER = (
    "hello",
    "what is it",
    "wait a moment",
    "look at this",
    "i like it",
    "here it comes",
    "this is fun",
    "let me see",
    "oh no",
    "thank you",
)
NAMES = ("amy", "bob", "eva", "max", "tom")


def captions(combination: Combination) -> list[str]:
    """The references, always in this order. Few words that do not depend on the video."""
    color, shape, action = combination
    does = FORMS[action][0]
    return [
        f"a {color} {shape} {does}",
        f"we see a {color} {shape} {action}",
        f"the {shape} that {does} is {color}",
    ]


def label(combination: Combination) -> str:
    """The activity description, one of 144."""
    return f"{combination.noun} {FORMS[combination.action][1]}"


def question(combination: Combination, kind: int) -> tuple[str, str, list[str]]:
    """Question, correct answer and all wrong answers that make a combination of ``SEEN``.

    A wrong answer that training never shows could be ruled out without the video. Of the questions
    about ``HELD_OUT`` only the correct answer is new: there guessing scores below one in five.
    """
    color, shape, action = combination
    others = [c for c in SEEN if c != combination]
    does = FORMS[action][0]
    if kind == 0:
        wrong = [FORMS[c.action][0] for c in others if c.noun == combination.noun]
        return f"what does the {combination.noun} do ?", does, wrong
    if kind == 1:
        wrong = [c.color for c in others if (c.shape, c.action) == (shape, action)]
        return f"what colour is the {shape} that {does} ?", color, wrong
    wrong = [c.noun for c in others if c.action == action]
    return f"which shape {does} ?", combination.noun, wrong


def subtitles(rng: np.random.Generator) -> str:
    """Two lines of talk that tell nothing about the picture."""
    lines = rng.choice(len(CHATTER), size=2, replace=False)
    speakers = rng.choice(len(NAMES), size=2, replace=False)
    return " . ".join(f"{NAMES[s]} : {CHATTER[i]}" for s, i in zip(speakers, lines, strict=True))


def narration(combination: Combination, rng: np.random.Generator) -> str:
    """What a speech recognizer might hear: fillers, chatter, and words lost."""
    doing = FORMS[combination.action][1]
    says = (
        f"now the {combination.noun} is {doing}",
        f"look at this {combination.noun} it is {doing}",
        f"{doing} is what the {combination.noun} does",
    )
    words = [rng.choice(FILLERS), *str(rng.choice(says)).split()]
    if rng.random() < 0.3:
        words.insert(int(rng.integers(1, len(words))), rng.choice(FILLERS))
    if rng.random() < 0.3:
        words.append(rng.choice(CHATTER))
    return " ".join(word for word in words if rng.random() > 0.05) or "um"
