"""Text that a vocabulary cannot spell: a run of characters that it lacks is one unknown piece.

The model then reads and writes the same piece for all of them, so that of a caption in another
script nothing is left.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain

from vt_fairseq.data.manifest import Manifest, texts_of
from vt_fairseq.data.tokenizer import UNK, Tokenizer


@dataclass
class UnknownText:
    """Counts of texts.

    Attributes:
        texts: all of them.
        affected: those with a character that the vocabulary lacks.
        lost: those of them that have nothing else.
        rows: of a split, that the texts come from, evenly spread over it; 0 for all.
        first: the first one affected.
    """

    texts: int = 0
    affected: int = 0
    lost: int = 0
    rows: int = 0
    first: str = ""

    @classmethod
    def of(cls, tokenizer: Tokenizer, texts: Iterable[str]) -> "UnknownText":
        """The counts of ``texts``."""
        counts = cls()
        for text in texts:
            counts.texts += 1
            ids = tokenizer.encode(text)
            if UNK in ids:
                counts.affected += 1
                counts.lost += not tokenizer.decode(i for i in ids if i != UNK).strip()
                counts.first = counts.first or text
        return counts

    @classmethod
    def of_split(
        cls, tokenizer: Tokenizer, rows: Manifest, most: int, more: Iterable[str] = ()
    ) -> "UnknownText":
        """The counts of ``more`` texts and those of at most ``most`` rows."""
        read = 0

        def texts() -> Iterator[str]:
            nonlocal read
            for row in rows.spread(most):
                read += 1
                yield from texts_of(row)

        counts = cls.of(tokenizer, chain(more, texts()))
        counts.rows = read if read < len(rows) else 0
        return counts

    def counted(self) -> dict[str, int]:
        """The numbers alone."""
        return {name: value for name, value in asdict(self).items() if name != "first"}

    def warning(self, whose: str) -> str | None:
        """One line on the texts ``whose`` ("of the split train"); None where all can be spelled."""
        if not self.affected:
            return None
        rows = f" (in {self.rows:,} of its rows)" if self.rows else ""
        lost = f", and {self.lost:,} of them hold nothing else" if self.lost else ""
        return (
            f"{self.affected:,} of {self.texts:,} texts {whose}{rows} have characters that the "
            f"vocabulary lacks{lost} (the first: {self.first!r:.80}); each run of them is one "
            "unknown piece: take a vocabulary that was made of such texts"
        )
