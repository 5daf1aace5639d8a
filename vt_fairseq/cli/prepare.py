"""``vt-prepare``: annotation files and videos to a data directory."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError

if TYPE_CHECKING:
    from vt_fairseq.corpora.rows import Source
    from vt_fairseq.corpora.shards import Shard

PROG = "vt-prepare"
EXAMPLE = (
    "vt-prepare jsonl --annotations clips.jsonl --videos videos --out data "
    "--vocabulary t5/spiece.model"
)
SHOWN_REASONS = 5
OFFICIAL = ("howto100m", "epic-kitchens", "tvqa", "tvc", "youcook2", "msrvtt")
SUBTITLED = ("tvqa", "tvc")
JOIN = "join"


def _jsonl(args: argparse.Namespace) -> "Source":
    from vt_fairseq.corpora import jsonl
    from vt_fairseq.corpora.rows import Source

    if args.annotations is None or args.videos is None:
        raise UserError("jsonl needs --annotations FILE and --videos DIR")
    return Source(jsonl.read(args.annotations), args.videos, {"annotations": str(args.annotations)})


def _miniworld(args: argparse.Namespace) -> "Source":
    from vt_fairseq.corpora import jsonl
    from vt_fairseq.corpora.rows import Source
    from vt_fairseq.miniworld.world import generate

    if (args.annotations is None) != (args.videos is None):
        raise UserError(
            "miniworld needs both --annotations and --videos (a world that is there) or neither "
            "(it makes one)"
        )
    if args.annotations is not None:
        return _jsonl(args)
    world = args.out / "world"
    generate(world, **_world(args))
    settings = {"seed": args.seed, "size": args.size}
    return Source(jsonl.read(world / "annotations.jsonl"), world / "videos", settings)


def _world(args: argparse.Namespace) -> dict[str, Any]:
    """Which MiniWorld to make, and how."""
    from vt_fairseq.miniworld.world import SIZES

    if args.size not in SIZES:
        raise UserError(f"--size {args.size}: no such size of MiniWorld; known: {', '.join(SIZES)}")
    progress = _bar("making videos") if sys.stderr.isatty() else None
    size = SIZES[args.size]
    return {"size": size, "seed": args.seed, "workers": args.workers, "progress": progress}


def _write_layout(args: argparse.Namespace) -> str:
    """``miniworld --as CORPUS``: no data directory, but the files that CORPUS's reader takes."""
    from vt_fairseq.miniworld import official_layouts

    if args.corpus != "miniworld" or args.layout not in official_layouts.LAYOUTS:
        known = ", ".join(official_layouts.LAYOUTS)
        raise UserError(f"--as {args.layout}: expected miniworld as one of {known}")
    world = official_layouts.write(args.layout, args.out, **_world(args))
    return (
        f"{len(world.videos())} videos of MiniWorld as {args.layout}; next:\n"
        f"vt-prepare {args.layout} --annotations {args.out}/annotations "
        f"--videos {args.out}/videos --out DATA --train-vocabulary 300"
    )


def _official(args: argparse.Namespace) -> "Source":
    """A public corpus: its reader is the module of that name."""
    if args.annotations is None or args.videos is None:
        raise UserError(
            f"{args.corpus} needs --annotations DIR (its official files) and --videos DIR"
        )
    if not args.annotations.is_dir():
        raise UserError(
            f"no directory {args.annotations}; --annotations names the one that holds the "
            f"official files of {args.corpus}"
        )
    reader = importlib.import_module(f"vt_fairseq.corpora.{args.corpus.replace('-', '_')}")
    options: dict[str, Any] = {}
    if args.subtitles is not None:
        options["subtitles"] = args.subtitles
    if args.shard is not None and args.corpus == "howto100m":
        options["keeps"] = args.shard.keeps  # saves it the work on the other shards' rows
    return reader.open_corpus(args.annotations, args.videos, **options)


def _own(args: argparse.Namespace) -> "Source":
    """A corpus that ``--user-dir`` has registered."""
    from vt_fairseq.corpora.registry import OWN_READERS

    if args.corpus not in OWN_READERS:
        known = ", ".join((*CORPORA, JOIN, *OWN_READERS))
        raise UserError(
            f"CORPUS {args.corpus}: expected one of {known}; those of your own are known where "
            "--user-dir names the folder that registers them"
        )
    if args.annotations is None or args.videos is None:
        raise UserError(f"{args.corpus} needs --annotations PATH and --videos DIR")
    return OWN_READERS[args.corpus](args.annotations, args.videos)


CORPORA: dict[str, Callable[[argparse.Namespace], "Source"]] = {
    "jsonl": _jsonl,
    "miniworld": _miniworld,
    **dict.fromkeys(OFFICIAL, _official),
}


def _bar(what: str) -> Callable[[int, int], None]:
    import tqdm

    bar = tqdm.tqdm(desc=what, unit="video")

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return update


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _shard(text: str) -> "Shard":
    from vt_fairseq.corpora.shards import Shard

    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected K/N, K from 1 to N, found {text!r}")
    return Shard(int(index), int(count))


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-prepare``."""
    made = command.parser(PROG, "Annotation files and videos to a data directory.", EXAMPLE)
    made.add_argument(
        "corpus",
        metavar="CORPUS",
        help=f"{', '.join(CORPORA)}; {JOIN}, after --shard; or one that --user-dir registers",
    )
    made.add_argument(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="the official files' directory; for jsonl the file itself",
    )
    made.add_argument("--videos", type=Path, metavar="DIR", help="what the rows' videos lie under")
    made.add_argument("--out", type=Path, metavar="DATA", required=True, help="made or replaced")
    vocabulary = made.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="T5's spiece.model, for T5 weights"
    )
    vocabulary.add_argument(
        "--train-vocabulary", type=_positive, metavar="N", help="train one of at most N pieces"
    )
    made.add_argument(
        "--skip-probe", action="store_true", help="trust the annotations: do not open the videos"
    )
    made.add_argument(
        "--transcode",
        type=_positive,
        nargs="?",
        const=128,
        metavar="PIXELS",
        help="copy the videos to DATA/videos with this short side (default: %(const)s), from where "
        "they load many times faster; a run that was stopped goes on",
    )
    made.add_argument(
        "--workers",
        type=_positive,
        default=min(16, os.cpu_count() or 1),
        metavar="N",
        help="videos opened at a time (default: %(default)s)",
    )
    made.add_argument(
        "--shard",
        type=_shard,
        metavar="K/N",
        help="prepare one of N parts, any number of them side by side; then: vt-prepare join",
    )
    made.add_argument(
        "--subtitles",
        choices=("none", "span", "whole"),
        help=f"{', '.join(SUBTITLED)}: subtitles of the span or the whole clip (default: span)",
    )
    made.add_argument("--seed", type=int, default=0, help="miniworld: which world (default: 0)")
    made.add_argument(
        "--as",
        dest="layout",
        metavar="CORPUS",
        help="miniworld: write the official files of this corpus instead of a data directory",
    )
    made.add_argument(
        "--size", default="default", help="miniworld: default or tiny (default: default)"
    )
    command.add_user_dir(made)
    return made


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
    for note in data["notes"]:
        yield f"note: {note}"


def _source(args: argparse.Namespace) -> "Source":
    from dataclasses import replace

    source = CORPORA.get(args.corpus, _own)(args)
    return replace(source, settings={**source.settings, "probed": not args.skip_probe})


def _prepare(args: argparse.Namespace) -> dict[str, Any]:
    """What the command does; returns the content of the data.json that it wrote."""
    from vt_fairseq.corpora.prepare import Probing, Vocabulary, prepare
    from vt_fairseq.corpora.shards import join, prepare_shard

    vocabulary = Vocabulary(args.vocabulary, args.train_vocabulary)
    probing = Probing(
        probe=not args.skip_probe,
        workers=args.workers,
        progress=sys.stderr.isatty(),
        copies=args.out / "videos" if args.transcode else None,
        short_side=args.transcode or 0,
    )
    if args.shard is not None:
        return prepare_shard(args.corpus, _source(args), args.out, args.shard, probing)
    if args.corpus == JOIN:
        return join(args.out, vocabulary)
    vocabulary.check()  # before a world is made, which takes minutes
    return prepare(args.corpus, _source(args), args.out, vocabulary, probing)


def _check_options(args: argparse.Namespace) -> None:
    if args.subtitles is not None and args.corpus not in SUBTITLED:
        raise UserError(f"--subtitles is for {', '.join(SUBTITLED)}, not for {args.corpus}")
    if args.shard is None:
        return
    if args.corpus in (JOIN, "miniworld"):
        raise UserError(f"--shard is not for {args.corpus}")
    if args.vocabulary is not None or args.train_vocabulary is not None:
        raise UserError("a shard has no vocabulary; give it to vt-prepare join, after all shards")


def _main() -> None:
    args = build_parser().parse_args()
    if args.layout:
        print(_write_layout(args))
        return
    _check_options(args)
    command.import_user_dir(args.user_dir)
    data = _prepare(args)
    print("\n".join(_table(data, args.out)))
    for warning in data["warnings"]:
        print(f"{PROG}: warning: {warning}", file=sys.stderr)


def main() -> None:
    """The console script."""
    command.run(PROG, _main)


if __name__ == "__main__":
    main()
