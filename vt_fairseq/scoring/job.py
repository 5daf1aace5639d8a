"""From the options of ``vt-score`` to models, loaders and settings."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow, Manifest
from vt_fairseq.errors import UserError
from vt_fairseq.inference.loading import Loaded, open_checkpoint
from vt_fairseq.scoring.candidate_sets import (
    Kind,
    check_heads,
    kind_and_questions,
    scorer_in_use,
    targets_in_use,
)
from vt_fairseq.scoring.options import DTYPES, Options
from vt_fairseq.scoring.scorers import DecoderScorer, Found, HeadScorer, Ranking
from vt_fairseq.version import __version__
from vt_fairseq.video.transforms import ClipTransform

# Options that do not change the scores, or not by more than rounding, or that are hashed instead.
NOT_SETTINGS = frozenset(
    ("data", "path", "out", "labels", "fuse", "video_root", "restart", "batch_size", "max_nodes")
) | {"num_workers", "cpu"}


@dataclass(frozen=True)
class Job:
    """All that is needed to score a split.

    Attributes:
        rows: the split.
        kind: records and metrics.
        scorers: of each model.
        loaders: decoders of clips, all different; ``loader_of`` says which is whose.
        settings: what the scores depend on, hashes of files among it.
        signatures: how the numbers are made, for metrics.json.
    """

    rows: Manifest
    kind: Kind
    scorers: list[Callable[[Sequence[ClipRow], torch.Tensor], list[Found]]]
    loaders: list[ClipLoader]
    loader_of: list[int]
    settings: dict[str, Any]
    signatures: dict[str, str]


def prepare(options: Options, device: torch.device) -> Job:
    """Open the models and look up the candidates; raises UserError for what does not fit."""
    options.check()
    models = [_open(options, path, device) for path in (options.path, options.fuse) if path]
    use = scorer_in_use(options, models[0])
    by_heads = models[1:] if use == "decoder" else models
    rows = models[0].task.data.manifest(options.split)
    if not len(rows):
        raise UserError(f"the split {options.split} of {options.data} has no rows")
    options = replace(options, use=use)
    options = replace(options, targets=targets_in_use(options, by_heads))
    for model in by_heads:
        check_heads(options, model)
    kind, questions = kind_and_questions(options, models[0], rows)
    scorers = [HeadScorer(model) for model in by_heads]
    if use == "decoder":
        scorers = [DecoderScorer(models[0], questions, _ranking(options, models[0])), *scorers]
    loaders = [_loader(model) for model in models]
    distinct = list(dict.fromkeys(loaders))
    return Job(
        rows=rows,
        kind=kind,
        scorers=scorers,
        loaders=distinct,
        loader_of=[distinct.index(loader) for loader in loaders],
        settings=_settings(options, rows, kind),
        signatures=_signatures(options),
    )


def _open(options: Options, path: Path, device: torch.device) -> Loaded:
    overrides: dict[str, Any] = {
        "video_root": options.video_root,
        "blank_video": options.blank_video,
        "action": "",
    }
    if options.no_context:
        overrides["no_context"] = True
    if options.test_window:
        overrides["test_window"] = options.test_window
    dtype = getattr(torch, DTYPES[options.dtype])
    return open_checkpoint(path, data=options.data, device=device, dtype=dtype, overrides=overrides)


def _loader(model: Loaded) -> ClipLoader:
    loader = model.task.clip_loader(model.task.data.video_root, train=False)
    # What differs between two models in training alone must not make them decode twice.
    return replace(loader, transform=ClipTransform(loader.transform.size, train=False))


def _ranking(options: Options, model: Loaded) -> Ranking:
    caption = model.task.selected_prompts("caption")[0] if options.caption_first else None
    return Ranking(
        length_normalize=options.length_normalize,
        max_nodes=options.max_nodes,
        top_k=options.top_k,
        beam=options.beam,
        caption=caption,
        generate=options.decoding == "beam",
    )


def _settings(options: Options, rows: Manifest, kind: Kind) -> dict[str, Any]:
    chosen = {k: v for k, v in asdict(options).items() if k not in NOT_SETTINGS}
    hashes = {"path": options.path, "fuse": options.fuse, "rows": rows.path}
    return {
        "version": __version__,
        **chosen,
        **{name: None if path is None else _sha256(path) for name, path in hashes.items()},
        "candidates": hashlib.sha256(repr(list(kind.candidates)).encode()).hexdigest(),
    }


def _sha256(path: Path) -> str:
    """Of a file, or of all files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()


def _signatures(options: Options) -> dict[str, str]:
    per = "mean per token" if options.length_normalize else "sum over tokens"
    score = f"log-likelihood, {per}, eos included" if options.use == "decoder" else "heads"
    signatures = {"score": score}
    if options.clips > 1:
        what = "likelihood" if options.kind == "retrieval" else "prediction"
        signatures["clips"] = f"mean {what} of {options.clips} uniformly spaced windows"
    if options.decoding == "beam":
        signatures["decoding"] = f"beam {options.beam}, matched to a candidate"
    if options.fuse:
        signatures["fuse"] = "mean of the softmax of the scores and of the heads' distribution"
    return signatures
