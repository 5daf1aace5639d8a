"""``vt-prepare``: annotation files and videos to a data directory."""

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vt_fairseq.cli import command
from vt_fairseq.corpora.registry import BUILT_IN, LAYOUTS, SUBTITLED, corpus_reader
from vt_fairseq.errors import UserError
from vt_fairseq.visible_text import say

if TYPE_CHECKING:
    from vt_fairseq.corpora.rows import Source
    from vt_fairseq.corpora.shards import Shard

PROG = "vt-prepare"
EXAMPLE = (
    "vt-prepare jsonl --annotations clips.jsonl --videos videos --out data "
    "--vocabulary t5/spiece.model"
)
SHOWN_REASONS = 5
MINIWORLD = "miniworld"
JOIN = "join"


def open_source(args: argparse.Namespace) -> "Source":
    """The rows that ``args`` (of ``build_parser``) name; makes a MiniWorld where it names none."""
    reader = corpus_reader("jsonl" if args.corpus == MINIWORLD else args.corpus)
    given = (args.annotations is not None, args.videos is not None)
    if args.corpus == MINIWORLD and not any(given):
        from vt_fairseq.miniworld.world import generate

        world = args.out / "world"
        generate(world, **_world(args))
        source = reader(world / "annotations.jsonl", world / "videos")
        settings = {"seed": args.seed, "size": args.size}
    elif all(given):
        source = reader(args.annotations, args.videos, **_reader_options(args))
        settings = {"annotations": str(args.annotations), **source.settings}
    else:
        hint = ", or neither to make a world" if args.corpus == MINIWORLD else ""
        raise UserError(f"{args.corpus} needs --annotations PATH and --videos DIR{hint}")
    return replace(source, settings={**settings, "probed": not args.skip_probe})


def _reader_options(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if args.subtitles is not None:
        options["subtitles"] = args.subtitles
    if args.follow_links and args.corpus in (*SUBTITLED, "jsonl", "video2dataset"):
        options["follow_links"] = True
    if args.shard is not None and args.corpus == "howto100m":
        options["keeps"] = args.shard.keeps  # saves it the work on the other shards' rows
    return options


def _world(args: argparse.Namespace) -> dict[str, Any]:
    """Which MiniWorld to make, and how."""
    from vt_fairseq.miniworld.world import SIZES

    return {"size": SIZES[args.size], "seed": args.seed, "workers": args.workers}


def _write_layout(args: argparse.Namespace) -> list[str]:
    """``miniworld --as CORPUS``: no data directory, but the files that CORPUS's reader takes."""
    from vt_fairseq.miniworld import official_layouts

    world = official_layouts.write(args.layout, args.out, **_world(args))
    return [
        f"{len(world.videos())} videos of MiniWorld as {args.layout}; next:",
        f"vt-prepare {args.layout} --annotations {args.out}/annotations "
        f"--videos {args.out}/videos --out DATA --train-vocabulary 300",
    ]


def _shard(text: str) -> "Shard":
    from vt_fairseq.corpora.shards import Shard

    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected K/N, K from 1 to N, found {text!r}")
    return Shard(int(index), int(count))


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-prepare``."""
    parser = command.parser(PROG, "Make a data directory of annotations and videos.", EXAMPLE)
    add = parser.add_argument
    add(
        "corpus",
        metavar="CORPUS",
        help=f"{', '.join((MINIWORLD, *BUILT_IN))}; one that --user-dir registers; or {JOIN}, "
        "which joins the parts that --shard has made",
    )
    add(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="directory of the corpus's official files; for jsonl the file itself; for "
        "video2dataset --videos or a folder in it",
    )
    add("--videos", type=Path, metavar="DIR", help="directory that the rows' videos lie under")
    add(
        "--out",
        type=Path,
        metavar="DATA",
        required=True,
        help="data directory to write; one that is there is replaced",
    )
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="sentencepiece model to use: T5's spiece.model for T5's weights",
    )
    vocabulary.add_argument(
        "--train-vocabulary",
        type=command.positive,
        metavar="N",
        help="train a sentencepiece model of at most N pieces on the training texts instead",
    )
    add(
        "--skip-probe",
        action="store_true",
        help="trust the annotations: do not check that the videos are there and can be read",
    )
    add(
        "--transcode",
        type=command.positive,
        nargs="?",
        const=128,
        metavar="PIXELS",
        help="copy the videos to DATA/videos with this short side (default: %(const)s), from where "
        "they load many times faster; a run that was stopped goes on",
    )
    add(
        "--tar",
        type=command.positive,
        nargs="?",
        const=1000,
        default=0,
        metavar="N",
        help="pack the copies of --transcode into tar files of N videos (default: %(const)s), as "
        "video2dataset does; folders of frames stay folders",
    )
    command.add_follow_links(parser)
    command.add_with_aliases(
        parser,
        "--num-workers",
        "--workers",
        dest="workers",
        type=command.positive,
        default=min(16, os.cpu_count() or 1),
        metavar="N",
        help="number of videos that are opened at a time (default: %(default)s)",
    )
    add(
        "--shard",
        type=_shard,
        metavar="K/N",
        help="prepare only the K-th of N parts, any number of them side by side; "
        f"vt-prepare {JOIN} then makes the data directory",
    )
    add(
        "--subtitles",
        choices=("none", "span", "whole"),
        help=f"{' and '.join(SUBTITLED)}: which subtitles are a row's context, those of its span "
        "(default), of the whole clip, or none",
    )
    add(
        "--seed",
        type=command.seed,
        default=0,
        help="miniworld: seed of the world (default: %(default)s)",
    )
    add(
        "--size",
        choices=("default", "tiny"),
        default="default",
        help="miniworld: number of videos (default: %(default)s)",
    )
    add(
        "--as",
        dest="layout",
        choices=LAYOUTS,
        help="miniworld: write the official files of this corpus instead of a data directory",
    )
    command.add_user_dir(parser)
    return parser


def _table(data: dict[str, Any], out: Path) -> Iterator[str]:
    splits, published = data["splits"], data["published"]
    width = max(len("split"), *map(len, splits))
    last = f"  {'published':>11}" if published else ""
    yield f"{'split':{width}}  {'rows':>10}  {'rejected':>10}{last}"
    for name, counts in splits.items():
        last = f"  {published[name]:>11,}" if name in published else ""
        yield f"{name:{width}}  {counts['rows']:>10,}  {counts['rejected']:>10,}{last}"
    reasons = list(data["reasons"].items())
    for reason, rows in reasons[:SHOWN_REASONS]:
        yield f"rejected {rows:,}: {reason}"
    if reasons:
        yield f"every rejected row with its reason: {out / 'rejected.jsonl'}"
    if splits.get("train", {}).get("rows") and not splits.get("valid", {}).get("rows"):
        yield "no rows of the split valid: give it some, or train with --disable-validation"
    for name, counts in data.get("caption_tokens", {}).items():
        yield _lengths(name, counts)
    for note in data["notes"]:
        yield f"note: {note}"


def _lengths(split: str, counts: dict[str, int]) -> str:
    """How long the captions of a split are, and what training's limit does to them."""
    limit, longest = counts["limit"], counts["longest"]
    line = (
        f"captions of {split}: median {counts['median']} tokens, 95th percentile "
        f"{counts['percentile_95']}, longest {longest}; "
    )
    if not counts["above_limit"]:
        return f"{line}none is cut at {limit}, the default"
    share = counts["above_limit"] / counts["texts"]
    return (
        f"{line}{share:.1%} would be cut at {limit}, the default: "
        f"--max-target-tokens caption={longest} cuts none"
    )


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    """What the command does; returns the content of the data.json that it wrote."""
    from vt_fairseq.corpora.prepare import (
        Probing,
        VocabularyOptions,
        check_vocabulary,
        prepare,
    )
    from vt_fairseq.corpora.shards import join, prepare_shard

    probing = Probing(
        probe=not args.skip_probe,
        workers=args.workers,
        copies=args.out / "videos" if args.transcode else None,
        short_side=args.transcode or 0,
        follow_links=args.follow_links,
        tar=args.tar,
        tar_folder=args.shard.name if args.shard else "",
    )
    if args.shard is not None:
        return prepare_shard(args.corpus, open_source(args), args.out, args.shard, probing)
    vocabulary = VocabularyOptions(args.vocabulary, args.train_vocabulary)
    if args.corpus == JOIN:
        return join(args.out, vocabulary)
    if args.train_vocabulary is not None:
        check_vocabulary(open_source(args), args.train_vocabulary)
    return prepare(args.corpus, open_source(args), args.out, vocabulary, probing)


def _check_options(args: argparse.Namespace) -> None:
    if args.layout is not None and args.corpus != MINIWORLD:
        raise UserError(f"--as is for {MINIWORLD}, not for {args.corpus}")
    if args.subtitles is not None and args.corpus not in SUBTITLED:
        raise UserError(f"--subtitles is for {', '.join(SUBTITLED)}, not for {args.corpus}")
    if args.shard is None:
        return
    if args.corpus in (JOIN, MINIWORLD):
        raise UserError(f"--shard is not for {args.corpus}")
    if args.vocabulary is not None or args.train_vocabulary is not None:
        raise UserError("a shard has no vocabulary; give it to vt-prepare join, after all shards")


@command.console_script(PROG)
def main() -> None:
    """The console script."""
    args = build_parser().parse_args()
    _check_options(args)
    if args.layout:
        for line in _write_layout(args):
            say(line)
        return
    command.import_user_dir(args.user_dir)
    data = _prepare(args)
    for line in _table(data, args.out):
        say(line)
    for warning in data["warnings"]:
        say(f"{PROG}: warning: {warning}", sys.stderr)
    if args.shard is None:  # else join says it of all of them
        from vt_fairseq.corpora.prepare import check_splits

        check_splits(data)


if __name__ == "__main__":
    main()
