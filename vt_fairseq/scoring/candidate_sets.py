"""What is asked of whom: heads or decoder, which candidates, with which prompt."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.data.head_targets import ANSWER
from vt_fairseq.data.manifest import ClipRow, DataDirectory, Manifest
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.errors import UserError
from vt_fairseq.inference.loading import Loaded
from vt_fairseq.scoring.answers import Answers
from vt_fairseq.scoring.classification import Actions, Labels
from vt_fairseq.scoring.distributions import Pairs
from vt_fairseq.scoring.options import Options
from vt_fairseq.scoring.records import Record
from vt_fairseq.scoring.retrieval import Retrieval
from vt_fairseq.scoring.scorers import Found, Question

logger = logging.getLogger(__name__)

TRAIN_SPLIT = "train"  # where --pairs seen looks


class Kind(Protocol):
    """What becomes of the scores.

    Attributes:
        candidates: names that all rows share; empty where the rows say them.
    """

    candidates: Sequence[str]

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Found]]) -> Record:
        """Of one row; ``predictions`` has for each model what it found in each window."""

    def missing(self, row: ClipRow) -> Record:
        """Of a row whose clip could not be read."""

    def finish(self, folder: Path, rows: Sequence[ClipRow], records: Iterable[Record]) -> dict:
        """Write the results; return the metrics."""


def scorer_in_use(options: Options, model: Loaded) -> str:
    heads = model.task.heads
    if options.use == "heads" and heads is None:
        raise UserError(f"--use heads: {options.path} has none")
    if options.use or options.fuse:
        return options.use or "decoder"
    return "decoder" if heads is None else "heads"


def targets_in_use(options: Options, by_heads: Sequence[Loaded]) -> str:
    """``--targets``, by default what the heads are for."""
    if options.kind != "classify":
        return ""
    if options.targets or not by_heads:
        return options.targets or "label"
    names = by_heads[0].task.heads.names()
    if "label" in names or ANSWER in names:
        return "label"
    both = "action" if options.use == "decoder" else "verb,noun"
    return both if len(names) == 2 else next(iter(names))


def check_heads(options: Options, model: Loaded) -> None:
    """Raise UserError unless the model's heads are those that the scoring needs."""
    if model.task.heads is None:
        raise UserError(f"--fuse {options.fuse}: the checkpoint has no heads")
    has = set(model.task.heads.names())
    wanted = {"verb", "noun"} if options.targets == "action" else set(options.targets.split(","))
    wanted = {"vqa": {ANSWER}, "retrieval": {"-"}}.get(options.kind, wanted)
    if not wanted <= has:
        raise UserError(
            f"the heads of {options.fuse or options.path} are {', '.join(sorted(has))}, which does "
            f"not do for {options.kind} {options.targets}".rstrip()
            + ("" if options.fuse else "; --use decoder ranks texts instead")
        )


def kind_and_questions(
    options: Options, model: Loaded, rows: Manifest
) -> tuple[Kind, list[Question]]:
    """Records and results, and what the decoder is asked, where one is."""
    task, decoder = model.task, options.use == "decoder"

    def question(key: str, field: str, texts: Sequence[str] | None) -> list[Question]:
        if not decoder:
            return []
        action = _action(options, model, field)
        return [Question(key, action, None if texts is None else _tree(model, action, texts))]

    if options.kind == "vqa":
        return Answers(), question("scores", "answer", None)
    if options.kind == "retrieval":
        return Retrieval(), question("scores", "caption", _first_captions(rows))
    if options.targets == "label":
        labels = Labels(_labels(options, task.classes.get("label", [])), options.top_k)
        labels.check(rows)
        return labels, question("scores", "label", labels.labels)
    pairs = _pairs(options, task.data, task.classes)
    if options.targets == "action":
        kind = Actions(pairs, ("verb", "noun"), options.top_k)
        return kind, question("action", "action", pairs.texts())
    parts = options.targets.split(",")
    names = {"verb": pairs.verbs, "noun": pairs.nouns}
    return Actions(pairs, parts), [q for p in parts for q in question(p, p, names[p])]


def _action(options: Options, model: Loaded, field: str) -> Prompt:
    """``--action``, or the action whose target is ``field``, or the one to classify with."""
    if options.action:
        return model.task.selected_prompts(options.action)[0]
    table = model.task.prompt_table()
    fitting = [action for action in table.values() if action.field == field]
    return fitting[0] if fitting else table["classify"]


def _tree(model: Loaded, action: Prompt, texts: Sequence[str]) -> PrefixTree:
    ids = [model.task.tokenizer.encode(text) for text in texts]
    cut = sum(len(one) > action.max_target_tokens for one in ids)
    if cut:
        logger.warning(
            "%d of %d candidates are cut to %d tokens, the longest that the model was trained on",
            *(cut, len(ids), action.max_target_tokens),
        )
    return PrefixTree.build(one[: action.max_target_tokens] for one in ids)


def _first_captions(rows: Manifest) -> list[str]:
    captions = list(rows.column("captions"))
    without = [row_id for row_id, own in zip(rows.column("id"), captions, strict=True) if not own]
    if without:
        raise UserError(f"retrieval needs a caption in every row; {without[0]} has none")
    return [own[0] for own in captions]


def _labels(options: Options, classes: Sequence[str]) -> Sequence[str]:
    if options.labels is not None:
        if not options.labels.is_file():
            raise UserError(f"no label file at {options.labels}")
        lines = options.labels.read_text(encoding="utf-8").splitlines()
        classes = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not classes:
        raise UserError(f"no class names in {options.data}: give them with --labels FILE")
    return classes


def _pairs(options: Options, data: DataDirectory, classes: dict[str, list[str]]) -> Pairs:
    verbs, nouns = classes.get("verb", []), classes.get("noun", [])
    for part in ("verb", "noun"):
        if not classes.get(part) and part in (options.targets.replace("action", "verb,noun")):
            raise UserError(f"--targets {options.targets}: {options.data} has no {part} classes")
    ranked = options.use == "decoder" and options.targets == "action"
    if (options.pairs or ("seen" if ranked else "all")) == "all":
        return Pairs.every(verbs, nouns)
    train = data.manifest(TRAIN_SPLIT)
    pairs = Pairs.seen(verbs, nouns, zip(train.column("verb"), train.column("noun"), strict=True))
    if not len(pairs):
        raise UserError(
            f"no row of the split {TRAIN_SPLIT} of {options.data} has a verb and a noun; "
            "--pairs all takes every pair of classes"
        )
    return pairs
