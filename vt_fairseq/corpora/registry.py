"""Corpora of the user's own, known to ``vt-prepare`` where its ``--user-dir`` registers them."""

from collections.abc import Callable
from pathlib import Path

from vt_fairseq.corpora.rows import Source

# (--annotations, --videos) -> the corpus, opened
Reader = Callable[[Path, Path], Source]
OWN_READERS: dict[str, Reader] = {}


def register_corpus(name: str) -> Callable[[Reader], Reader]:
    """Make ``vt-prepare name`` read annotations by the function below it.

    It takes the paths of ``--annotations`` and ``--videos``, raises UserError where the files are
    missing or not what they should be, and returns the rows as a ``Source``.
    """

    def register(reader: Reader) -> Reader:
        OWN_READERS[name] = reader
        return reader

    return register
