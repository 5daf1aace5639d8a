"""What the commands of a library share: opening it with its model."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError

if TYPE_CHECKING:
    from vt_fairseq.inference.api import VideoTranslate
    from vt_fairseq.library.library import Library
    from vt_fairseq.library.store import Segment


def add_library(parser: argparse.ArgumentParser) -> None:
    """The library, as the first argument."""
    parser.add_argument("library", type=Path, metavar="LIBRARY", help="file that vt-index made")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model that answers."""
    parser.add_argument(
        "--path",
        type=Path,
        metavar="CHECKPOINT",
        help="model of the library, if it is no longer where it was",
    )
    parser.add_argument("--vocabulary", type=Path, help="spiece.model, if the checkpoint has none")
    command.add_follow_links(parser)
    command.add_device(parser)
    command.add_user_dir(parser)


def open_library(args: argparse.Namespace) -> "Library":
    """The library with its model."""
    return load(args).library(args.library)


def load(args: argparse.Namespace) -> "VideoTranslate":
    """The library's model, in the precision in which it was indexed."""
    from vt_fairseq.devices import DTYPES
    from vt_fairseq.library.origin import read_origin

    origin = read_origin(args.library)
    with command.quiet_imports():
        from vt_fairseq import VideoTranslate
    return VideoTranslate.from_pretrained(
        checkpoint(args, origin.checkpoint),
        device=args.device,
        dtype=DTYPES[origin.dtype],
        vocabulary=args.vocabulary,
        test_window=origin.window,
        follow_links=args.follow_links,
    )


def checkpoint(args: argparse.Namespace, recorded: Path | None) -> Path:
    """The user's, or the one that the library was made with by this user."""
    path = args.path or recorded
    if path is None:
        raise UserError(
            f"{args.library} was made by another user or on another machine: name its model "
            "(--path CHECKPOINT)"
        )
    return path


def clocked(segment: "Segment", name: Callable[[str], str] = str) -> str:
    """The path, and the times of a segment that is not the whole video."""
    from vt_fairseq.cli.caption_formats import clock

    if segment.asked == (None, None) or segment.end is None:
        return name(segment.path)
    return f"{name(segment.path)} [{clock(segment.start, '.')} - {clock(segment.end, '.')}]"
