"""The corpora that ``vt-prepare`` reads: those of this package, and those that a user registers."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vt_fairseq.errors import UserError

if TYPE_CHECKING:
    from vt_fairseq.corpora.rows import Source

LAYOUTS = ("howto100m", "epic-kitchens", "tvqa", "tvc", "youcook2", "msrvtt")
"""Those whose official files MiniWorld can be written as."""
BUILT_IN = ("jsonl", "video2dataset", *LAYOUTS)
"""Each is read by ``open_corpus`` of the module of its name."""
SUBTITLED = ("tvqa", "tvc")
"""Those whose ``open_corpus`` takes ``subtitles``: none, span or whole."""

OpenCorpus = Callable[[Path, Path], "Source"]
_registered: dict[str, OpenCorpus] = {}


def register_corpus(name: str) -> Callable[[OpenCorpus], OpenCorpus]:
    """Make ``vt-prepare name`` read annotations by the function below it.

    It takes the paths of ``--annotations`` and ``--videos``, raises UserError where the files are
    missing or not what they should be, and returns the rows as a ``Source``.
    """

    def register(open_corpus: OpenCorpus) -> OpenCorpus:
        _registered[name] = open_corpus
        return open_corpus

    return register


def corpus_reader(name: str) -> Callable[..., "Source"]:
    """The ``open_corpus`` of the corpus called ``name``; raise UserError where there is none."""
    if name in BUILT_IN:
        module = importlib.import_module(f"vt_fairseq.corpora.{name.replace('-', '_')}")
        return module.open_corpus
    if name not in _registered:
        known = ", ".join(("miniworld", *BUILT_IN, *_registered))
        raise UserError(
            f"no corpus {name!r}: expected one of {known}; those of your own are known where "
            "--user-dir names the folder that registers them"
        )
    return _registered[name]
