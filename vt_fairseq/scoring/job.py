"""From the options of ``vt-score`` to all that scoring a split takes: the ``Job``."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.texts import candidate_ids, warn_of_cuts
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.head_targets import ANSWER
from vt_fairseq.data.manifest import ClipRow, DataDirectory, Manifest
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.devices import DTYPES
from vt_fairseq.errors import UserError
from vt_fairseq.inference.loading import Loaded, open_checkpoint, usable_device
from vt_fairseq.scoring.answers import MultipleChoice
from vt_fairseq.scoring.classification import (
    LabelClassification,
    VerbNounClassification,
    VerbNounPairs,
)
from vt_fairseq.scoring.options import ScoreOptions
from vt_fairseq.scoring.records import ScoreRecord
from vt_fairseq.scoring.retrieval import Retrieval
from vt_fairseq.scoring.scorers import DecoderQuery, DecoderScorer, HeadScorer, Prediction
from vt_fairseq.version import __version__
from vt_fairseq.video.transforms import ClipTransform

TRAIN_SPLIT = "train"  # where --pairs seen looks
# Options that do not change the scores, or not by more than rounding, or that are hashed instead.
NOT_SETTINGS = frozenset(
    ("data", "path", "out", "labels", "fuse", "video_root", "restart", "batch_size", "max_nodes")
) | {"num_workers", "device", "follow_links", "cuda_graphs"}


class ScoringTask(Protocol):
    """What becomes of the scores.

    Attributes:
        candidates: names that all rows share; empty where each row has its own.
    """

    candidates: Sequence[str]

    def record(self, row: ClipRow, predictions: Sequence[Sequence[Prediction]]) -> ScoreRecord:
        """The record of one row; ``predictions`` has one list per model, one item per window."""

    def missing(self, row: ClipRow) -> ScoreRecord:
        """The record of a row whose clip could not be read."""

    def finish(
        self, folder: Path, rows: Sequence[ClipRow], records: Iterable[ScoreRecord]
    ) -> dict[str, Any]:
        """Write the results; return the metrics."""


@dataclass(frozen=True)
class Job:
    """All that scoring a split takes.

    Attributes:
        options: what was asked for; ``use`` and ``targets`` are never None.
        rows: of the split.
        task: records and metrics.
        scorers: one per model.
        loaders: decoders of clips, all different; ``loader_of`` has the index of each scorer's.
        pin_memory: whether clips go to a GPU.
        settings: what the scores depend on, hashes of files among it.
        signatures: how the numbers are made, for metrics.json.
    """

    options: ScoreOptions
    rows: Manifest
    task: ScoringTask
    scorers: list[DecoderScorer | HeadScorer]
    loaders: list[ClipLoader]
    loader_of: list[int]
    pin_memory: bool
    settings: dict[str, Any]
    signatures: dict[str, str]


def prepare(options: ScoreOptions) -> Job:
    """Open the models and look up the candidates; raise UserError for what does not fit.

    Under torchrun each process takes the GPU of its local rank.
    """
    options.check()
    device = _device(options.device)
    models = [_open(options, path, device) for path in (options.path, options.fuse) if path]
    rows = _data(models[0]).manifest(options.split)
    if not len(rows):
        raise UserError(f"the split {options.split} of {options.data} has no rows")
    options = replace(options, use=_scorer_in_use(options, models[0]))
    options.check()  # again: heads that no option chose are in use, too
    head_models = models[1:] if options.use == "decoder" else models
    options = replace(options, targets=_targets_in_use(options, head_models))
    for model in head_models:
        _check_heads(options, model)
    task, queries = _task_and_queries(options, models[0], rows)
    prompts = [query.prompt for query in queries]
    models[0].task.warn_of_unknown_text(rows, prompts, options.split, task.candidates)
    scorers: list[DecoderScorer | HeadScorer] = [HeadScorer(model) for model in head_models]
    if options.use == "decoder":
        caption_prompt = _prompt_named(models[0], "caption") if options.caption_first else None
        decoder = DecoderScorer(
            models[0],
            queries,
            length_normalize=options.length_normalize,
            max_nodes=options.max_nodes,
            top_k=options.top_k,
            beam=options.beam,
            caption_prompt=caption_prompt,
            generate_answer=options.decoding == "beam",
        )
        scorers.insert(0, decoder)
    loaders = [_clip_loader(model) for model in models]
    distinct = list(dict.fromkeys(loaders))
    return Job(
        options=options,
        rows=rows,
        task=task,
        scorers=scorers,
        loaders=distinct,
        loader_of=[distinct.index(loader) for loader in loaders],
        pin_memory=device.type == "cuda",
        settings=_settings(options, rows, task, _data(models[0]).video_root),
        signatures=_signatures(options),
    )


# Models


def _device(name: str | None) -> torch.device:
    if name == "cuda" or (name is None and torch.cuda.is_available()):
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return usable_device(name)


def _open(options: ScoreOptions, path: Path, device: torch.device) -> Loaded:
    overrides: dict[str, Any] = {
        "video_root": options.video_root,
        "follow_links": options.follow_links,
        "cuda_graphs": options.cuda_graphs,
        "blank_video": options.blank_video,
        "action": "",
    }
    if options.context is not None:
        overrides["no_context"] = not options.context
    if options.test_window:
        overrides["test_window"] = options.test_window
    return open_checkpoint(
        path,
        data=options.data,
        device=device,
        dtype=DTYPES[options.dtype],
        overrides=overrides,
    )


def _data(model: Loaded) -> DataDirectory:
    data = model.task.data
    if data is None:
        raise ValueError("expected a model that was opened with a data directory")
    return data


def _clip_loader(model: Loaded) -> ClipLoader:
    loader = model.task.clip_loader(_data(model).video_root, train=False)
    # What differs between two models in training alone must not make them decode twice.
    transform = loader.transform
    return replace(loader, transform=ClipTransform(transform.size, False, whole=transform.whole))


def _scorer_in_use(options: ScoreOptions, model: Loaded) -> str:
    """``--use``; without it the heads of a model that has any, unless others' are fused."""
    heads = model.task.heads
    if options.use == "heads" and heads is None:
        raise UserError(f"--use heads: {options.path} has none")
    if model.model.encoder.video_only and (options.use == "decoder" or options.fuse):
        raise UserError(f"{options.path} has heads on the video alone and writes no text")
    if options.use or options.fuse:
        return options.use or "decoder"
    return "decoder" if heads is None else "heads"


def _targets_in_use(options: ScoreOptions, head_models: Sequence[Loaded]) -> str:
    """``--targets``, by default what the heads are for."""
    if options.kind != "classify":
        return ""
    if options.targets or not head_models:
        return options.targets or "label"
    names = _head_names(head_models[0])
    if "label" in names or ANSWER in names:
        return "label"
    both = "action" if options.use == "decoder" else "verb,noun"
    return both if len(names) == 2 else names[0]


def _check_heads(options: ScoreOptions, model: Loaded) -> None:
    """Raise UserError unless the model's heads are those that the scoring needs."""
    if model.task.heads is None:
        raise UserError(f"--fuse {options.fuse}: the checkpoint has no heads")
    names = _head_names(model)
    targets = options.targets or ""
    wanted = {"verb", "noun"} if targets == "action" else set(targets.split(","))
    if options.kind == "vqa":
        wanted = {ANSWER}
    if options.kind == "retrieval" or not wanted <= set(names):
        raise UserError(
            f"the heads of {options.fuse or options.path} are {', '.join(sorted(names))}, which "
            f"does not do for {options.kind} {targets}".rstrip()
            + ("" if options.fuse else "; --use decoder ranks texts instead")
        )


def _head_names(model: Loaded) -> list[str]:
    return [] if model.task.heads is None else list(model.task.heads.names())


# Candidates


def _task_and_queries(
    options: ScoreOptions, model: Loaded, rows: Manifest
) -> tuple[ScoringTask, list[DecoderQuery]]:
    """Records and results, and what the decoder is asked, where one is."""

    def query(key: str, field: str, texts: Sequence[str] | None) -> list[DecoderQuery]:
        if options.use != "decoder":
            return []
        prompt = _prompt_for(options, model, field)
        return [DecoderQuery(key, prompt, None if texts is None else _tree(model, prompt, texts))]

    if options.kind == "vqa":
        return MultipleChoice(), query("scores", "answer", None)
    if options.kind == "retrieval":
        return Retrieval(), query("scores", "caption", _first_captions(rows))
    if options.targets == "label":
        names = options.labels or model.task.classes.get("label", [])
        if not names:
            raise UserError(f"no class names in {options.data}: give them with --labels FILE")
        labels = LabelClassification(names, options.top_k)
        labels.check(rows)
        return labels, query("scores", "label", names)
    pairs = _pairs(options, model)
    if options.targets == "action":
        actions = VerbNounClassification(pairs, ("verb", "noun"), options.top_k)
        return actions, query("action", "action", pairs.texts())
    parts = (options.targets or "").split(",")
    texts = {"verb": pairs.verbs, "noun": pairs.nouns}
    return VerbNounClassification(pairs, parts), [
        one for part in parts for one in query(part, part, texts[part])
    ]


def _prompt_named(model: Loaded, name: str) -> Prompt:
    return model.task.selected_prompts(name)[0]


def _prompt_for(options: ScoreOptions, model: Loaded, field: str) -> Prompt:
    """``--action``, or the action whose target is ``field``, or the one to classify with."""
    if options.action:
        return _prompt_named(model, options.action)
    table = model.task.prompt_table()
    return next((one for one in table.values() if one.field == field), table["classify"])


def _tree(model: Loaded, prompt: Prompt, texts: Sequence[str]) -> PrefixTree:
    ids, cut = candidate_ids(model.task.tokenizer, prompt, texts)
    warn_of_cuts(cut, len(ids), prompt)
    return PrefixTree.build(ids)


def _first_captions(rows: Manifest) -> list[str]:
    captions = list(rows.column("captions"))
    without = [row_id for row_id, own in zip(rows.column("id"), captions, strict=True) if not own]
    if without:
        raise UserError(f"retrieval needs a caption in every row; {without[0]} has none")
    return [own[0] for own in captions]


def _pairs(options: ScoreOptions, model: Loaded) -> VerbNounPairs:
    targets = options.targets or ""
    verbs, nouns = (model.task.classes.get(part, []) for part in ("verb", "noun"))
    for part, names in (("verb", verbs), ("noun", nouns)):
        if not names and part in targets.replace("action", "verb,noun"):
            raise UserError(f"--targets {targets}: {options.data} has no {part} classes")
    ranked = options.use == "decoder" and targets == "action"
    wanted = options.pairs or ("labeled" if ranked else "all")
    if wanted == "all":
        return VerbNounPairs.every(verbs, nouns)
    data = _data(model)
    splits = [data.manifest(name) for name in ([TRAIN_SPLIT] if wanted == "seen" else data.splits)]
    columns = ((split.column("verb"), split.column("noun")) for split in splits)
    pairs = VerbNounPairs.of_rows(
        verbs, nouns, chain.from_iterable(zip(*both, strict=True) for both in columns)
    )
    if not len(pairs):
        where = f"the split {TRAIN_SPLIT} of " if wanted == "seen" else ""
        raise UserError(
            f"no row of {where}{options.data} has a verb and a noun; --pairs all takes every pair "
            "of classes"
        )
    return pairs


# What the results say of themselves


def _settings(
    options: ScoreOptions, rows: Manifest, task: ScoringTask, video_root: Path | None
) -> dict[str, Any]:
    chosen = {k: v for k, v in asdict(options).items() if k not in NOT_SETTINGS}
    files = {"path": options.path, "fuse": options.fuse, "rows": rows.path}
    return {
        "version": __version__,
        **chosen,
        **{name: None if path is None else _sha256(path) for name, path in files.items()},
        "video_root": None if video_root is None else str(video_root.resolve()),
        "candidates": hashlib.sha256(repr(list(task.candidates)).encode()).hexdigest(),
    }


def _sha256(path: Path) -> str:
    """The digest of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def _signatures(options: ScoreOptions) -> dict[str, str]:
    per = "mean per token" if options.length_normalize else "sum over tokens"
    score = f"log-likelihood, {per}, eos included" if options.use == "decoder" else "heads"
    signatures = {"score": score}
    if options.windows > 1:
        what = "likelihood" if options.kind == "retrieval" else "prediction"
        signatures["windows"] = f"mean {what} of {options.windows} uniformly spaced windows"
    if options.decoding == "beam":
        signatures["decoding"] = f"beam {options.beam}, matched to a candidate"
    if options.fuse:
        signatures["fuse"] = "mean of the softmax of the scores and of the heads' distribution"
    return signatures
