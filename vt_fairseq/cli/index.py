"""``vt-index``: one's own videos to a library that ``vt-search`` and ``vt-ask`` read.

Exit code: 0 when everything was read, 1 when something was not (it is named on stderr and listed in
the library, and the rest is done), 2 for a mistake in the command.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vt_fairseq.cli import command, libraries
from vt_fairseq.cli.caption import seconds
from vt_fairseq.cli.command import positive
from vt_fairseq.cli.inputs import STDIN, find_videos
from vt_fairseq.cli.processes import check_one_machine, local_gpu, own_share, shard
from vt_fairseq.cli.progress import progress
from vt_fairseq.errors import FOLLOW_LINKS, UserError, naming
from vt_fairseq.visible_text import say, visible

if TYPE_CHECKING:
    from vt_fairseq.inference.api import VideoTranslate
    from vt_fairseq.library.indexing import Counts, Cut, Part, Video
    from vt_fairseq.library.library import Library

PROG = "vt-index"
MERGE, RESCUE = "merge", "rescue"
SCENES = "scenes"
EXIT_SOME_FAILED = 1


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-index."""
    parser = command.parser(
        PROG,
        "Index videos: each segment is decoded once, and what the model sees of it is kept with "
        "its caption. A second run does what is new or changed; one that was stopped goes on. "
        "Under torchrun the processes share the videos.\n\n"
        f"{PROG} {MERGE} LIBRARY PART...  puts libraries that --shard made into one\n"
        f"{PROG} {RESCUE} DAMAGED NEW     takes over what a damaged one still holds",
        "vt-index holiday.vtlib holiday/ --path checkpoints/checkpoint_best.pt --every 5",
    )
    libraries.add_library(parser)
    parser.add_argument(
        "videos",
        nargs="*",
        metavar="VIDEO",
        help="files, folders, patterns such as 'clips/*.mp4', - for a list on stdin, jsonl files "
        "with a line per clip, or data directories that vt-prepare wrote",
    )
    add_segments(parser)
    parser.add_argument(
        "--videos",
        dest="root",
        type=Path,
        metavar="DIR",
        help="folder of the videos that a jsonl file or data directory names (default: its own)",
    )
    add_run(parser.add_argument_group("the run"))
    libraries.add_model(parser)
    command.add_dtype(parser)
    return parser


def add_segments(parser: argparse.ArgumentParser) -> None:
    """How videos are cut; those of jsonl files and data directories have their segments."""
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--every", type=seconds, metavar="S", help="cut videos into parts of about S seconds"
    )
    parts.add_argument(
        "--segments",
        metavar="FILE",
        help=f"cut videos as the jsonl FILE says (video, start, end), or at their {SCENES}",
    )
    parser.add_argument(
        "--test-window",
        help="window shown of a part that is longer than in training: center, whole or K/N",
    )


def add_run(group: argparse._ArgumentGroup) -> None:
    """What is done again, sizes, many machines."""
    add = group.add_argument
    add("--forget", action="store_true", help="take out the videos that are no longer there")
    add("--retry", action="store_true", help="try again what could not be read before")
    add(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="K/N",
        help=f"only the K-th of N parts of the videos, into a library that {MERGE} joins",
    )
    add("--batch-size", type=positive, default=8, help="segments at once (default: 8)")
    add(
        "--num-workers",
        type=int,
        default=2,
        metavar="N",
        help="processes that decode for a GPU (default: 2)",
    )


# --- which videos ---------------------------------------------------------------------------------


def named_videos(args: argparse.Namespace) -> tuple[list["Video"], list[tuple[str, str]]]:
    """The videos of the command line in their order, and rows of jsonl files that are none."""
    from vt_fairseq.library.indexing import Video

    videos: list[Video] = []
    bad: list[tuple[str, str]] = []
    for name in args.videos:
        if os.path.isfile(os.path.join(name, "data.json")):
            videos += of_directory(Path(name), args)
        elif name != STDIN and name.endswith(".jsonl"):
            videos += of_manifest(Path(name), args, bad)
        else:
            paths = find_videos([name], args.follow_links, lambda line: note(line))
            videos += [Video(path) for path in paths]
    return videos, bad


def of_directory(path: Path, args: argparse.Namespace) -> list["Video"]:
    """The clips of all splits of a data directory."""
    from vt_fairseq.data.manifest import DataDirectory, UnconfirmedRootError

    data = DataDirectory.open(path, args.root, args.follow_links)
    try:
        root = data.video_root
    except UnconfirmedRootError as error:
        raise UserError(f"{error}; if it is the right one, confirm it: --videos DIR") from error
    rows = (row for split in sorted(data.splits) for row in data.manifest(split))
    return by_video(((row.video, (row.start, row.end, row.context or "")) for row in rows), root)


def of_manifest(path: Path, args: argparse.Namespace, bad: list[tuple[str, str]]) -> list["Video"]:
    """The clips of a jsonl file; ``bad`` gets the rows that name none, with their reasons."""
    from vt_fairseq.corpora.jsonl import read
    from vt_fairseq.corpora.rows import Rejected, check_row

    folder = (args.root or path.parent).absolute()

    def clips() -> Iterator[tuple[str, "Part"]]:
        for entry in read(path, folder, args.follow_links):
            entry = check_row(entry, folder)
            if isinstance(entry, Rejected):
                bad.append((entry.where, entry.reason))
            else:
                row = entry.row
                yield row.video, (row.start, row.end, row.context or "")

    return by_video(clips(), folder)


def by_video(clips: Iterator[tuple[str, "Part"]], root: Path) -> list["Video"]:
    """The clips of each video together, in the order in which the videos come first."""
    from vt_fairseq.library.indexing import Video

    parts: dict[str, dict[Part, None]] = {}
    for video, part in clips:
        parts.setdefault(video, {})[part] = None
    return [Video(video, root, tuple(own)) for video, own in parts.items()]


# --- which segments -------------------------------------------------------------------------------


def cutter(args: argparse.Namespace) -> "Cut":
    """How a video is cut into segments."""
    from vt_fairseq.library.indexing import whole
    from vt_fairseq.video.frame_sampling import regular_segments

    if args.every:
        return lambda path, duration: regular_segments(duration, args.every)
    if args.segments == SCENES:
        from vt_fairseq.library.scenes import scene_detector

        return scene_detector()
    if args.segments:
        with naming("--segments"):
            return given_segments(Path(args.segments))
    return whole


def given_segments(path: Path) -> "Cut":
    """Those of a jsonl file, by the video's path or the end of it, such as its name."""
    from vt_fairseq.errors import VideoError
    from vt_fairseq.files.result_files import field, objects

    times: dict[str, list[tuple[float, float]]] = {}
    for row in objects(path):
        video = field(row, "video", lambda v: isinstance(v, str) and bool(v), "a path or name")
        start, end = (field(row, key, is_seconds, "seconds") for key in ("start", "end"))
        times.setdefault(os.path.normpath(video), []).append((float(start), float(end)))

    def cut(video: str, duration: float) -> list[tuple[float, float]]:
        parts = Path(video).parts
        for k in range(len(parts)):
            if found := times.get(os.path.join(*parts[k:])):
                return found
        raise VideoError(f"{path} has no segments of it")

    return cut


def is_seconds(value: object) -> bool:
    """A number of seconds, not negative."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


# --- the run --------------------------------------------------------------------------------------


def load(args: argparse.Namespace) -> "VideoTranslate":
    """The model of ``--path``, or the one that the library was made with."""
    from vt_fairseq.devices import DTYPES
    from vt_fairseq.library.origin import read_origin

    if args.path is None and not args.library.exists():
        raise UserError(f"{args.library} is new: name a model (--path CHECKPOINT)")
    path = args.path or libraries.checkpoint(args, read_origin(args.library).checkpoint)
    with command.quiet_imports():
        from vt_fairseq import VideoTranslate
    model = VideoTranslate.from_pretrained(
        path,
        device=args.device or local_gpu(),
        dtype=DTYPES[args.dtype],
        vocabulary=args.vocabulary,
        test_window=args.test_window,
        follow_links=args.follow_links,
    )
    model.batch_size = args.batch_size
    return model


def index(args: argparse.Namespace, videos: Sequence["Video"], rank: int, count: int) -> "Counts":
    """Index this process's share of the videos."""
    from vt_fairseq.library.indexing import Options

    model = load(args)
    on_gpu = model.loaded.device.type != "cpu"
    with (
        contextlib.closing(model.create_library(args.library)) as library,
        progress(PROG, len(videos), quiet=rank > 0) as advance,
    ):
        options = Options(
            cut=cutter(args),
            batch_size=args.batch_size,
            num_workers=args.num_workers if on_gpu else 0,
            shard=own_share(args.shard, rank, count),
            retry=args.retry,
            follow_links=args.follow_links,
            link_suggestion=FOLLOW_LINKS,
            on_error=report,
            on_progress=lambda files: advance(files * count),
        )
        loader = model.loaded.task.clip_loader(None, train=False)
        counts = library.index(videos, loader, options)
        if rank == 0 and args.forget:
            forget(library)
    return counts


def forget(library: "Library") -> None:
    """Take out the videos that are gone, and name them."""
    for path in library.forget_gone():
        say(f"{PROG}: forgotten: {path}", sys.stderr)


def report(video: str, reason: str) -> None:
    """Name what could not be read."""
    tqdm.write(visible(f"{PROG}: error: {video}: {reason}"), file=sys.stderr)


def note(text: str) -> None:
    """Say on stderr what is no error."""
    say(f"{PROG}: note: {text}", file=sys.stderr)


@command.console_script(PROG)
def main() -> None:
    """Entry point."""
    args = build_parser().parse_args()
    if str(args.library) in (MERGE, RESCUE):
        join_or_rescue(str(args.library), args.videos)
        return
    command.import_user_dir(args.user_dir)
    if not args.videos and not args.forget:
        raise UserError("no videos were named")
    with command.quiet_imports():
        from vt_fairseq.library.indexing import held
        from vt_fairseq.scoring.run import joined_processes
    with joined_processes() as processes:
        check_one_machine(processes.count)
        with held(args.library) if processes.first else contextlib.nullcontext():
            processes.wait()
            # The list on stdin is the first one's.
            named = processes.from_first(named_videos(args) if processes.first else None)
            videos, bad = named
            counts = index(args, videos, processes.rank, processes.count)
            for where, reason in bad if processes.first else ():
                report(where, reason)
            processes.wait()
    if processes.first:
        summarize(args.library)
    if counts.failures or bad:
        sys.exit(EXIT_SOME_FAILED)


def summarize(library: Path) -> None:
    """What the library holds now."""
    from vt_fairseq.library.store import Store

    with contextlib.closing(Store(library)) as store:
        files, segments, failures = store.count_files(), store.count(), store.count(False)
    say(f"{library}: {segments:,} segments of {files:,} videos")
    if failures:
        note(f"{failures:,} segments of it could not be read; --retry tries them again")


def join_or_rescue(what: str, names: Sequence[str]) -> None:
    """``vt-index merge`` and ``vt-index rescue``."""
    from vt_fairseq.library.indexing import held
    from vt_fairseq.library.merging import merge, rescue

    if what == MERGE:
        if len(names) < 2:
            raise UserError("expected vt-index merge LIBRARY PART...")
        with held(Path(names[0])):
            merge(names[0], names[1:])
        summarize(Path(names[0]))
        return
    if len(names) != 2:
        raise UserError("expected vt-index rescue DAMAGED NEW")
    with held(Path(names[1])):
        copied = rescue(*names)
    for reason in copied.lost:
        note(reason)
    say(f"{names[1]}: {copied.segments:,} segments rescued, {len(copied.lost):,} lost")


if __name__ == "__main__":
    main()
