"""What an experiment consists of: models, what is measured of them, and tables of it."""

from dataclasses import dataclass
from fractions import Fraction

Pair = tuple[str, str]


@dataclass(frozen=True)
class Model:
    """One training.

    Attributes:
        name: of its folder.
        options: of fairseq-train, after those that all have.
        start: the model whose weights it starts from; "": it starts from scratch.
        share: its updates, as a share of the scale's.
        falling: the learning rate falls evenly to 0; else it falls once, after two thirds.
    """

    name: str
    options: tuple[str, ...]
    start: str = ""
    share: Fraction = Fraction(1)
    falling: bool = True


@dataclass(frozen=True)
class Measured:
    """One call of vt-score.

    Attributes:
        row: which row of the tables its numbers are for.
        kind: classify, retrieval or vqa.
        model: that is scored, with its decoder or its heads.
        fuse: the model with heads whose distribution is averaged with it.
    """

    row: str
    kind: str
    model: str
    split: str = "test"
    options: tuple[str, ...] = ()
    fuse: str = ""

    @property
    def name(self) -> str:
        return f"{self.row}-{self.kind}"


@dataclass(frozen=True)
class Row:
    """A line of a table; ``paper``: its numbers there, in the order of ``Part.paper``."""

    label: str
    name: str
    paper: tuple[float, ...] = ()


@dataclass(frozen=True)
class Part:
    """One table.

    Attributes:
        letter: what ``--only`` calls it.
        columns: (heading, key of metrics.json).
        paper: headings of the paper's numbers.
        orderings: (worse, better) rows as the paper has them; in ``judged`` keys.
    """

    letter: str
    title: str
    columns: tuple[Pair, ...]
    rows: tuple[Row, ...]
    paper: tuple[str, ...] = ()
    orderings: tuple[Pair, ...] = ()
    judged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Everything that can be trained and measured, and the tables."""

    models: tuple[Model, ...]
    measured: tuple[Measured, ...]
    parts: tuple[Part, ...]

    def chosen(self, names: list[str]) -> list[Measured]:
        """What the parts or rows of these names need, in their order; all of it without names."""
        rows = dict.fromkeys(row.name for part in self.parts for row in part.rows)
        letters = dict.fromkeys(part.letter for part in self.parts)
        if unknown := set(names) - {*letters, *rows}:
            raise SystemExit(
                f"--only {','.join(sorted(unknown))}: expected some of the parts "
                f"{', '.join(letters)} or of the rows {', '.join(rows)}"
            )
        wanted = names or list(letters)
        rows = dict.fromkeys(
            row.name
            for part in self.parts
            for row in part.rows
            if part.letter in wanted or row.name in wanted
        )
        return [one for row in rows for one in self.measured if one.row == row]
