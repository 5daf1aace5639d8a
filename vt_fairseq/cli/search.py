"""``vt-search``: the segments of a library that fit a query, or look like a video."""

import argparse
import os
import re
import sys

from vt_fairseq.cli import command, libraries
from vt_fairseq.cli.command import add_with_aliases, positive
from vt_fairseq.cli.library_formats import FORMATS
from vt_fairseq.errors import UserError
from vt_fairseq.visible_text import say

PROG = "vt-search"
MOMENT = re.compile(r"(.+)@(\d+(?:\.\d+)?)", re.DOTALL)


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-search."""
    parser = command.parser(
        PROG,
        "Find the moments of indexed videos that make a text likeliest, without decoding them.",
        'vt-search holiday.vtlib "a man opens a door" --top-k 5',
    )
    libraries.add_library(parser)
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="texts, each with its own list")
    parser.add_argument(
        "--like",
        metavar="VIDEO[@SECONDS]",
        help="instead of a text: what looks like this video, or like it at that time",
    )
    add_with_aliases(
        parser, "--top-k", "--top", type=positive, default=10, metavar="K",
        help="segments to show per query (default: 10)")  # fmt: skip
    parser.add_argument(
        "--shortlist",
        type=positive,
        metavar="N",
        help="compare only the N segments whose captions share most words with the query "
        "(default: all, which is exact)",
    )
    parser.add_argument(
        "--length-normalize",
        action="store_true",
        help="compare the mean log-likelihood per token",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="format of the output (default: text)"
    )
    libraries.add_model(parser)
    return parser


def check(args: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if bool(args.queries) == bool(args.like):
        raise UserError("expected queries or --like VIDEO")
    if args.like and (args.shortlist or args.length_normalize):
        raise UserError("--shortlist and --length-normalize are for queries, not for --like")


def moment(name: str) -> tuple[str, float | None]:
    """A video and a time: ``film.mp4@90``; a file that has such a name is the file."""
    match = MOMENT.fullmatch(name)
    if match is None or os.path.exists(name):
        return name, None
    return match[1], float(match[2])


@command.console_script(PROG)
def main() -> None:
    """Entry point."""
    args = build_parser().parse_args()
    check(args)
    command.import_user_dir(args.user_dir)
    with libraries.open_library(args) as library:
        if args.like:
            results = [(args.like, library.like(*moment(args.like), top=args.top_k))]
        else:
            found = library.search(
                args.queries,
                top=args.top_k,
                shortlist=args.shortlist,
                length_normalize=args.length_normalize,
            )
            results = list(zip(args.queries, found, strict=True))
        for query, own in results:
            if len(own) < min(args.top_k, len(library)) and args.shortlist:
                say(
                    f"{PROG}: note: captions of only {len(own)} segments share a word with "
                    f"{query!r}; without --shortlist all are compared",
                    sys.stderr,
                )
    command.write_lines(FORMATS[args.format](results))


if __name__ == "__main__":
    main()
