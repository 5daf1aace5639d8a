"""``vt-score``: rank candidates for every clip of a split by the decoder's log-likelihood."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError

if TYPE_CHECKING:
    from vt_fairseq.data.manifest import ClipRow
    from vt_fairseq.inference import Loaded

DEFAULT_ACTIONS = {"vqa": "answer", "retrieval": "caption", "classify": "classify"}


@dataclass(frozen=True)
class Scored:
    """One clip's row with a score for each of its candidates; None when it could not be read."""

    row: "ClipRow"
    scores: list[float] | None


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-score."""
    parser = command.parser(
        "vt-score",
        "Rank candidate texts for every clip of a split by their log-likelihood: answers (vqa), "
        "class names (classify), or captions of all clips (retrieval).",
        "vt-score vqa DATA --path checkpoints/checkpoint_best.pt --out scores/vqa",
    )
    parser.add_argument("kind", choices=sorted(DEFAULT_ACTIONS))
    parser.add_argument("data", type=Path, help="data directory that vt-prepare wrote")
    parser.add_argument("--path", type=Path, required=True, help="checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", default="test", help="split to score (default: test)")
    parser.add_argument("--action", help="prompt (default: the one that fits the kind)")
    parser.add_argument("--labels", type=Path, help="classify: class names, one a line")
    parser.add_argument("--video-root", default="", help="folder of the videos, if they moved")
    parser.add_argument("--test-window", default="", help="window of long clips: centre or whole")
    parser.add_argument("--blank-video", action="store_true", help="show uniform grey instead")
    parser.add_argument(
        "--length-normalise",
        action="store_true",
        help="rank by the mean log-likelihood per token instead of the sum",
    )
    parser.add_argument("--batch-size", type=int, default=8, help="clips at once")
    parser.add_argument("--max-nodes", type=int, default=2048, help="prefixes decoded at once")
    parser.add_argument("--num-workers", type=int, default=1, help="decoding processes")
    parser.add_argument("--cpu", action="store_true", help="no GPU even if there is one")
    return parser


def load(args: argparse.Namespace) -> "Loaded":
    """Model, task and the split's dataset; raise UserError when the checkpoint is missing."""
    with command.quiet_imports():
        from vt_fairseq.inference import open_checkpoint

    overrides = {
        "video_root": args.video_root,
        "blank_video": args.blank_video,
        "action": args.action or DEFAULT_ACTIONS[args.kind],
    }
    if args.test_window:
        overrides["test_window"] = args.test_window
    loaded = open_checkpoint(
        args.path, data=args.data, device="cpu" if args.cpu else None, overrides=overrides
    )
    loaded.task.load_dataset(args.split, task_cfg=loaded.cfg)
    return loaded


def candidate_texts(args: argparse.Namespace, rows: Sequence["ClipRow"], task) -> list[str] | None:
    """Texts that every clip is scored against, or None when each row has its own (vqa)."""
    if args.kind == "vqa":
        return None
    if args.kind == "retrieval":
        without = [row.id for row in rows if not row.captions]
        if without:
            raise UserError(f"retrieval needs a caption in every row; {without[0]} has none")
        return [row.captions[0] for row in rows]
    if args.labels:
        if not args.labels.is_file():
            raise UserError(f"no label file at {args.labels}")
        lines = args.labels.read_text(encoding="utf-8").splitlines()
        labels = [line.strip() for line in lines if line.strip()]
    else:
        field = task.selected_actions()[0].field
        labels = task.data.classes(field)
    if not labels:
        raise UserError(f"no class names in {args.data}: give them with --labels FILE")
    return labels


def score_split(args: argparse.Namespace, loaded: "Loaded", texts: list[str] | None) -> Iterator:
    """Scored rows of the split, in order; each clip is decoded and encoded once."""
    from tqdm import tqdm

    from vt_fairseq.inference import encode
    from vt_fairseq.scoring.candidates import score_candidates
    from vt_fairseq.scoring.prefix_tree import PrefixTree

    task, dataset = loaded.task, loaded.task.dataset(args.split)
    action = dataset.actions[0]
    ids = task.tokenizer.encode
    shared = texts and PrefixTree.build([ids(text, action.max_target_tokens) for text in texts])
    batches = task.get_batch_iterator(
        dataset, max_sentences=args.batch_size, num_workers=args.num_workers
    ).next_epoch_itr(shuffle=False)
    for sample in tqdm(batches, desc=f"vt-score {args.kind}", disable=None):
        task.report_bad(sample)
        rows = [dataset.manifest[i] for i in sample["id"].tolist()]
        trees = [shared] if shared else [PrefixTree.build(map(ids, r.candidates)) for r in rows]
        found = score_candidates(loaded.model, encode(loaded, sample), trees, args.max_nodes)
        trees *= len(rows) // len(trees)
        for row, missing, sums, tree in zip(
            rows, sample["missing"].tolist(), found, trees, strict=True
        ):
            scores = sums / tree.lengths if args.length_normalise else sums
            yield Scored(row, None if missing else scores.tolist())


def vqa(scored: list[Scored], texts: None) -> tuple[list[dict], dict[str, Any]]:
    """The likeliest candidate's index a row, and the accuracy."""
    from vt_fairseq.metrics import accuracy

    records = [
        {"id": s.row.id, "prediction": best(s.scores), "scores": s.scores or []} for s in scored
    ]
    answered = [(r["prediction"], s.row.answer) for r, s in zip(records, scored, strict=True)]
    known = [pair for pair in answered if pair[1] is not None]
    if not known:
        return records, {}
    return records, accuracy([p for p, _ in known], [a for _, a in known])


def classify(scored: list[Scored], labels: list[str], field: str) -> tuple[list[dict], dict]:
    """The likeliest class name a row with the ranking of all, and top-1 and top-5 accuracy."""
    import numpy as np

    from vt_fairseq.metrics import classification_metrics

    records = []
    for s in scored:
        order = [] if s.scores is None else np.argsort(-np.array(s.scores), kind="stable")
        ranking = [labels[k] for k in order]
        records.append(
            {
                "id": s.row.id,
                "prediction": ranking[0] if ranking else None,
                "ranking": ranking[:5],
            }
        )
    known = [s for s in scored if getattr(s.row, field) is not None]
    if not known:
        return records, {}
    index = {label: k for k, label in enumerate(labels)}
    unknown = sorted({getattr(s.row, field) for s in known} - index.keys())
    if unknown:
        raise UserError(
            f"{len(unknown)} labels of the split are no candidates, for instance {unknown[0]!r}"
        )
    # A clip that could not be read ties all classes, and the right one loses every tie.
    matrix = [[0.0] * len(labels) if s.scores is None else s.scores for s in known]
    found = classification_metrics(np.array(matrix), [index[getattr(s.row, field)] for s in known])
    found["missing"] = sum(s.scores is None for s in known)
    return records, {"accuracy": found["top1"], **found}


def retrieval(scored: list[Scored], texts: list[str]) -> tuple[list[dict], dict[str, Any]]:
    """For each row's first caption the clips ranked by its likelihood, and recall."""
    import numpy as np

    from vt_fairseq.metrics import retrieval_metrics

    # (Q, N): row q's caption under clip n; a clip that could not be read comes last.
    matrix = np.array([s.scores or [-np.inf] * len(texts) for s in scored]).T
    ids = [s.row.id for s in scored]
    order = np.argsort(-matrix, axis=1, kind="stable")
    records = [
        {"id": clip_id, "ranking": [ids[k] for k in row]}
        for clip_id, row in zip(ids, order, strict=True)
    ]
    found = retrieval_metrics(matrix, list(range(len(ids))))
    found["missing"] = sum(s.scores is None for s in scored)
    return records, found


def best(scores: list[float] | None) -> int | None:
    """Index of the highest score; None without scores."""
    return max(range(len(scores)), key=scores.__getitem__) if scores else None


def write_results(out: Path, scored: list[Scored], records: list[dict], metrics: dict) -> None:
    """``scores.jsonl``, ``predictions.jsonl`` and ``metrics.json``, each whole or not at all."""
    from vt_fairseq.data.manifest import atomic_file

    out.mkdir(parents=True, exist_ok=True)
    score_records = ({"id": s.row.id, "scores": s.scores} for s in scored)
    for name, rows in (("scores.jsonl", score_records), ("predictions.jsonl", records)):
        with atomic_file(out / name) as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    with atomic_file(out / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=1).encode() + b"\n")


def score(args: argparse.Namespace) -> dict[str, Any]:
    """Score one split as the parsed command says; write the results and return the metrics."""
    loaded = load(args)
    dataset = loaded.task.dataset(args.split)
    texts = candidate_texts(args, dataset.manifest, loaded.task)
    scored = list(score_split(args, loaded, texts))
    if args.kind == "classify":
        records, metrics = classify(scored, texts, dataset.actions[0].field)
    else:
        records, metrics = {"vqa": vqa, "retrieval": retrieval}[args.kind](scored, texts)
    normalised = "mean per token" if args.length_normalise else "sum over tokens"
    metrics["signatures"] = {"score": f"log-likelihood, {normalised}, eos included"}
    write_results(args.out, scored, records, metrics)
    return metrics


def _main() -> None:
    args = build_parser().parse_args()
    for name, value in score(args).items():
        if name != "signatures":
            print(f"{name:>12} {value:8.2f}")
    print(f"wrote {args.out}/{{scores,predictions}}.jsonl and metrics.json")


def main() -> None:
    """Entry point."""
    command.run("vt-score", _main)


if __name__ == "__main__":
    main()
