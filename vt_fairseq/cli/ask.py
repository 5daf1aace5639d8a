"""``vt-ask``: a question about the segments of a library, without decoding them."""

import argparse
import os

from vt_fairseq.cli import command, libraries
from vt_fairseq.cli.command import add_with_aliases, positive
from vt_fairseq.cli.library_formats import ANSWER_FORMATS
from vt_fairseq.errors import UserError

PROG = "vt-ask"


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-ask."""
    parser = command.parser(
        PROG,
        "Ask about the segments of indexed videos: all, those of some videos, or those that fit "
        "a text.",
        'vt-ask holiday.vtlib "what is it ?" --candidates "a cat" "a dog"',
    )
    libraries.add_library(parser)
    parser.add_argument("question", metavar="QUESTION", help="question to answer")
    parser.add_argument(
        "--candidates",
        nargs="+",
        metavar="TEXT",
        help="answers to choose from (default: an answer in free words)",
    )
    parser.add_argument(
        "--videos", nargs="+", metavar="VIDEO", help="ask about these videos (default: all)"
    )
    parser.add_argument(
        "--search", metavar="QUERY", help="ask about the segments that make this text likeliest"
    )
    add_with_aliases(
        parser, "--top-k", "--top", type=positive, default=10, metavar="K",
        help="how many segments of --search (default: 10)")  # fmt: skip
    parser.add_argument(
        "--length-normalize",
        action="store_true",
        help="compare candidates by the mean log-likelihood per token",
    )
    parser.add_argument(
        "--format",
        choices=ANSWER_FORMATS,
        default="text",
        help="format of the output (default: text)",
    )
    libraries.add_model(parser)
    return parser


@command.console_script(PROG)
def main() -> None:
    """Entry point."""
    args = build_parser().parse_args()
    if args.videos and args.search:
        raise UserError("--videos and --search both choose segments: give one of them")
    command.import_user_dir(args.user_dir)
    with libraries.open_library(args) as library:
        segments = None
        if args.videos:
            segments = [one for video in args.videos for one in library.captions(video)]
            unknown = [v for v in args.videos if os.path.abspath(v) not in library.videos()]
            if unknown:
                raise UserError(f"{args.library} has no video {os.path.abspath(unknown[0])}")
        elif args.search:
            (found,) = library.search([args.search], top=args.top_k)
            segments = [one.segment for one in found]
        answers = library.ask(
            args.question,
            args.candidates,
            segments=segments,
            length_normalize=args.length_normalize,
        )
    command.write_lines(ANSWER_FORMATS[args.format](args.question, answers))


if __name__ == "__main__":
    main()
