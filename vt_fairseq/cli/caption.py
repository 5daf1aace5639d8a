"""``vt-caption``: captions, answers, classes or a ranking of one's own videos.

Exit code: 0 when everything was read, 1 when something was not (it is named on stderr and the rest
is done), 2 for a mistake in the command.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vt_fairseq.cli import command
from vt_fairseq.cli.caption_formats import (
    FORMATS,
    PARQUET,
    SUBTITLES,
    SegmentResult,
    as_utf8,
    clock,
)
from vt_fairseq.cli.caption_progress import Progress
from vt_fairseq.cli.caption_subtitles import AUTO, OwnSubtitles
from vt_fairseq.cli.command import add_with_aliases, positive
from vt_fairseq.cli.inputs import find_videos, read_labels
from vt_fairseq.cli.processes import Share, launched, local_gpu, own_share, shard
from vt_fairseq.cli.progress import progress
from vt_fairseq.errors import FOLLOW_LINKS, UserError, VideoError, naming
from vt_fairseq.files.atomic_files import write_file
from vt_fairseq.visible_text import json_text, say, visible

if TYPE_CHECKING:
    from vt_fairseq.inference.api import VideoTranslate
    from vt_fairseq.video.frame_sampling import Plan

PROG = "vt-caption"
EXIT_SOME_FAILED = 1
# On a GPU the model gets so many batches at once, so that processes can decode ahead of it.
BATCHES_AT_ONCE = 8
TOP_CLASSES = 5
FILM_SECONDS = 60.0  # of a longer video that is not cut it is said what was seen

# Options that do not change the results, or not by more than rounding.
NOT_SETTINGS = {
    *("videos", "out", "shard", "batch_size", "num_workers", "device", "follow_links", "user_dir"),
    "cuda_graphs",
}

# (paths, start=, end=), lists of the same length -> a result for each, None where it was not read
Predict = Callable[..., Any]


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-caption."""
    parser = command.parser(
        PROG,
        "Caption videos, ask about them, classify them, or rank them by a query.",
        "vt-caption talk.mp4 --path checkpoints/checkpoint_best.pt --every 5 --format srt",
    )
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="files, folders, patterns such as 'clips/*.mp4', or - for a list on stdin",
    )
    parser.add_argument(
        "--path", type=Path, required=True, metavar="CHECKPOINT", help="model to use"
    )
    parser.add_argument("--vocabulary", type=Path, help="spiece.model, if the checkpoint has none")
    add_tasks(parser)
    add_decoding(parser)
    add_segments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="format of the output (default: text)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write one file per video there; videos that are done with the same options are left "
        "as they are",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="K/N",
        help="only the K-th of N parts of the videos, each for a machine of its own",
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="clips at once (default: 8)")
    parser.add_argument(
        "--num-workers",
        type=int,
        default=2,
        metavar="N",
        help="processes that decode for a GPU (default: 2)",
    )
    command.add_follow_links(parser)
    command.add_device(parser)
    command.add_dtype(parser)
    command.add_cuda_graphs(parser)
    command.add_user_dir(parser)
    return parser


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """What is asked; without any of these, a caption."""
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument(
        "--ask",
        metavar="QUESTION",
        help="question to answer, freely or with one of --candidates",
    )
    tasks.add_argument(
        "--classify",
        type=read_labels,
        metavar="FILE",
        help="rank the class names in FILE, one per line",
    )
    tasks.add_argument(
        "--rank",
        action="append",
        metavar="QUERY",
        help="query to order the videos by, by how likely each makes it; may be given several "
        "times",
    )
    parser.add_argument("--candidates", nargs="+", metavar="TEXT", help="answers for --ask")
    add_with_aliases(
        parser,
        "--top-k",
        "--top",
        type=positive,
        metavar="K",
        help="how many classes to show (default: 5), or videos of --rank (default: all)",
    )
    parser.add_argument("--action", help="action (prompt) to use (default: the one that fits)")
    add_with_aliases(
        parser,
        "--length-normalize",
        "--length-normalise",
        action="store_true",
        help="compare candidates, classes and videos by the mean log-likelihood per token",
    )


def add_decoding(parser: argparse.ArgumentParser) -> None:
    """How texts are generated."""
    parser.add_argument(
        "--decoding",
        choices=("beam", "greedy", "topk"),
        default="beam",
        help="how texts are generated (default: beam)",
    )
    parser.add_argument("--beam", type=positive, default=5, help="beams (default: 5)")
    add_with_aliases(
        parser,
        "--sampling-topk",
        "--topk",
        dest="topk",
        type=positive,
        default=5,
        metavar="K",
        help="topk draws from the K likeliest tokens (default: 5)",
    )
    parser.add_argument(
        "--seed", type=command.seed, default=1, help="random seed of topk (default: 1)"
    )
    parser.add_argument(
        "--num-candidates", type=positive, default=1, help="texts per clip (default: 1)"
    )
    add_with_aliases(
        parser,
        "--max-target-tokens",
        "--max-tokens",
        dest="max_tokens",
        type=positive,
        metavar="N",
        help="longest text in tokens (default: as in training)",
    )


def add_segments(parser: argparse.ArgumentParser) -> None:
    """Long videos in parts."""
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--segments", type=positive, metavar="N", help="cut videos into N parts")
    parts.add_argument(
        "--every", type=seconds, metavar="S", help="cut videos into parts of about S seconds"
    )
    parser.add_argument(
        "--test-window",
        help="window shown of a part that is longer than in training: center, whole or K/N",
    )
    parser.add_argument(
        "--subtitles",
        metavar="FILE",
        help="text that the model reads beside the video: what is said in each part, of a srt, vtt "
        f"or ass file, or {AUTO}: of the file beside each video",
    )


def seconds(text: str) -> float:
    """A time from 0.1 s on."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 on, found {text!r}")
    return value


def check(args: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if args.candidates and args.ask is None:
        raise UserError("--candidates are answers: add --ask QUESTION")
    if args.ask is not None and args.action:
        raise UserError("--ask has an action of its own: leave --action out")
    ranking = args.candidates or args.classify or args.rank is not None
    if ranking and args.num_candidates > 1:
        raise UserError("--num-candidates is for generated texts; --top-k limits what is ranked")
    if args.rank is not None and (args.format not in ("text", "jsonl") or args.out):
        raise UserError("--rank writes one list: --format text or jsonl, without --out")
    if args.format == PARQUET and args.out is None:
        raise UserError(f"--format {PARQUET} writes files: add --out DIR")
    if args.rank is not None and share_of(args) != (0, 1):
        raise UserError("--rank compares all videos in one process; vt-index shares them out")
    if args.out and args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file, expected a folder")


def share_of(args: argparse.Namespace) -> Share:
    """Which part of the videos this process has."""
    return own_share(args.shard, *launched())


def load(args: argparse.Namespace) -> "VideoTranslate":
    """The model as the options say."""
    from vt_fairseq import VideoTranslate
    from vt_fairseq.devices import DTYPES

    model = VideoTranslate.from_pretrained(
        args.path,
        device=args.device or local_gpu(),
        dtype=DTYPES[args.dtype],
        vocabulary=args.vocabulary,
        test_window=args.test_window,
        follow_links=args.follow_links,
        cuda_graphs=args.cuda_graphs,
    )
    model.batch_size, model.num_workers = args.batch_size, args.num_workers
    return model


def chosen_method(model: "VideoTranslate", args: argparse.Namespace) -> Predict:
    """The method of ``model`` that the options ask for, with all but the videos filled in."""
    from vt_fairseq import Decoding

    normalize = {"length_normalize": args.length_normalize}
    if args.rank is not None:
        return partial(model.score, texts=args.rank, action=args.action or "caption", **normalize)
    if args.classify:
        action = args.action or "classify"
        return partial(model.classify, labels=args.classify, action=action, **normalize)
    if args.candidates:
        return partial(model.answer, question=args.ask, candidates=args.candidates, **normalize)
    action = args.action or ("caption" if args.ask is None else "answer")
    names = ("beam", "topk", "seed", "num_candidates", "max_tokens")
    decoding = Decoding(args.decoding, **{name: getattr(args, name) for name in names})
    return partial(model.generate, action=action, question=args.ask, decoding=decoding)


def segments_of(
    path: str, args: argparse.Namespace, subtitles: OwnSubtitles | None, plan: "Plan"
) -> list[SegmentResult]:
    """The segments of a video, without results yet; one with an error if it cannot be opened.

    Args:
        plan: what the model sees of a video that is not cut.
    """
    from vt_fairseq.corpora.subtitles import said
    from vt_fairseq.video.boundary import Boundary
    from vt_fairseq.video.decoding import probe
    from vt_fairseq.video.frame_sampling import equal_segments, regular_segments
    from vt_fairseq.video.names import similar_file

    uncut = SegmentResult(path, 0.0, 0.0, question=args.ask)
    try:
        duration = probe(path, None if args.follow_links else Boundary(Path(path), FOLLOW_LINKS))
        seen = plan.window(duration)
        lines = () if subtitles is None else subtitles.of(path)
    except VideoError as error:
        beside = None if os.path.exists(path) else similar_file(path)
        return [replace(uncut, error=f"{error}{f', but {beside}' if beside else ''}")]
    if args.segments:
        times = equal_segments(duration, args.segments)
    elif args.every:
        times = regular_segments(duration, args.every)
    else:
        return [replace(uncut, end=duration, seen=seen, context=said(lines, *seen))]
    return [
        replace(uncut, start=a, end=b, parts=len(times), context=said(lines, a, b))
        for a, b in times
    ]


def predict_segments(
    segments: Sequence[SegmentResult], model: "VideoTranslate", predict: Predict
) -> None:
    """Fill in the results of the segments, or the errors of those that cannot be read."""
    readable = [one for one in segments if one.error is None]
    errors: dict[int, str] = {}
    model.on_error = errors.__setitem__
    results = predict(
        [one.video for one in readable],
        start=[one.start if one.parts else None for one in readable],
        end=[one.end if one.parts else None for one in readable],
        context=[one.context for one in readable],
    )
    for k, (one, result) in enumerate(zip(readable, results, strict=True)):
        if k in errors:
            one.error = errors[k]
        elif isinstance(result, list):  # of --rank
            one.scores = result
        else:
            one.result = result


class Output:
    """Where a video's results go: stdout, or a file of its own in ``--out``."""

    def __init__(
        self, args: argparse.Namespace, videos: Sequence[str], subtitles: OwnSubtitles | None
    ):
        """Raise UserError where several subtitle files would go to stdout."""
        count = len(videos)
        if args.format in SUBTITLES and count > 1 and args.out is None:
            raise UserError(f"{count} videos make {count} {args.format} files: add --out DIR")
        self.render, self.suffix = FORMATS[args.format]
        self.lists_errors = args.format in ("jsonl", PARQUET)
        self.top_k = args.top_k or (TOP_CLASSES if args.classify else sys.maxsize)
        self.folder = args.out
        # Of all videos, so that they do not depend on who does which.
        self.names = file_names(videos, self.suffix)
        self.progress = None
        if self.folder is not None:
            beside = None if subtitles is None else subtitles.file
            self.progress = Progress(self.folder, settings(args), share_of(args), beside)

    def is_done(self, video: str) -> bool:
        """Whether an earlier run has written its results, with the same options."""
        return self.progress is not None and self.progress.has(video, self.names[video])

    def write(self, segments: list[SegmentResult]) -> None:
        """Write the results of one video."""
        content = self.render(segments, self.top_k)
        if self.folder is None:
            print_lines(str(content))
        elif self.lists_errors or any(one.error is None for one in segments):
            video = segments[0].video
            data = content if isinstance(content, bytes) else as_utf8(content)
            write_file(self.folder / self.names[video], data)
            if self.progress is not None and all(one.error is None for one in segments):
                self.progress.add(video, self.names[video])


def file_names(videos: Sequence[str], suffix: str) -> dict[str, str]:
    """clip.mp4 -> clip.srt; a second clip.* becomes clip-2.srt."""
    names: dict[str, str] = {}
    used: set[str] = set()
    for video in dict.fromkeys(videos):
        stem = Path(os.path.abspath(video)).stem
        free = next(s for s in chain([stem], (f"{stem}-{n}" for n in count(2))) if s not in used)
        used.add(free)
        names[video] = f"{free}{suffix}"
    return names


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What the results depend on beside the videos, as JSON has it."""
    given = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
    paths = {name: str(value) for name, value in given.items() if isinstance(value, Path)}
    model = os.path.abspath(args.path)
    state = os.stat(model) if os.path.exists(model) else None
    changed = None if state is None else [state.st_size, state.st_mtime_ns]
    return {**given, **paths, "path": model, "changed": changed}


def print_lines(content: str) -> None:
    """Print lines beside a progress bar."""
    for line in content.removesuffix("\n").split("\n") if content else ():
        tqdm.write(visible(line), file=sys.stdout)
    sys.stdout.flush()


def note(text: str) -> None:
    """Say on stderr what is no error."""
    say(f"{PROG}: note: {text}", file=sys.stderr)


def report_errors(video: Sequence[SegmentResult]) -> int:
    """Name on stderr the segments that could not be read; return how many there are."""
    failed = [one for one in video if one.error is not None]
    for one in failed:
        tqdm.write(visible(f"{PROG}: error: {one.name}: {one.error}"), file=sys.stderr)
    return len(failed)


def predict_videos(
    args: argparse.Namespace, paths: list[str], subtitles: OwnSubtitles | None
) -> Iterator[list[SegmentResult]]:
    """The results of every video in order, with a progress bar on a terminal.

    Segments of several videos share batches.
    """
    from vt_fairseq.video.frame_sampling import plan_of

    model = load(args)
    loader = model.loaded.task.clip_loader(None, train=False)
    plan = plan_of(loader.sampling, loader.window)
    predict = chosen_method(model, args)
    on_gpu = model.loaded.device.type != "cpu"
    at_once = model.batch_size * (BATCHES_AT_ONCE if on_gpu else 1)
    segments = (one for path in paths for one in segments_of(path, args, subtitles, plan))
    video: list[SegmentResult] = []
    with progress(PROG, len(paths), quiet=launched()[0] > 0) as advance:
        while batch := list(islice(segments, at_once)):
            predict_segments(batch, model, predict)
            for one in batch:
                video.append(one)
                if len(video) >= one.parts:
                    yield video
                    video = []
            advance(sum(1 / max(1, one.parts) for one in batch))


@command.console_script(PROG)
def main() -> None:
    """Entry point."""
    args = build_parser().parse_args()
    check(args)
    command.import_user_dir(args.user_dir)
    paths = find_videos(args.videos, args.follow_links, note)
    subtitles = None
    if args.subtitles is not None:
        with naming("--subtitles"):
            subtitles = OwnSubtitles(args.subtitles, len(paths), args.follow_links)
    output = Output(args, paths, subtitles)
    number, parts = share_of(args)
    own = [path for path in paths[number::parts] if not output.is_done(path)]
    if done := len(paths[number::parts]) - len(own):
        note(f"{done} of {done + len(own)} videos are done in {args.out} with these options")
    failed, ranked, films = 0, [], []
    for video in predict_videos(args, own, subtitles) if own else ():
        failed += report_errors(video)
        films += [one for one in video if is_film(one)]
        if args.rank is None:
            output.write(video)
        else:
            ranked += [one for one in video if one.error is None]
    for k, query in enumerate(args.rank or ()):
        print_ranking(query, [(one.scores[k], one) for one in ranked], args)
    say_what_was_seen(films)
    if subtitles is not None and (without := subtitles.without):
        note(f"{len(without):,} of {len(own):,} videos have no subtitles, such as {without[0]}")
    if failed:
        sys.exit(EXIT_SOME_FAILED)


def print_ranking(
    query: str, scored: list[tuple[float, SegmentResult]], args: argparse.Namespace
) -> None:
    """The query's segments, likeliest first; below its name where there are several."""
    ranking = sorted(scored, key=lambda pair: -pair[0])[: args.top_k]
    if args.format == "text" and len(args.rank) > 1:
        say(query)
    for rank, (score, one) in enumerate(ranking, 1):
        if args.format == "text":
            say(f"{rank:4d}  {score:9.3f}  {one.name}")
            continue
        record = {"query": query, "rank": rank, "video": one.video}
        say(json_text({**record, "start": one.start, "end": one.end, "score": score}))


def is_film(video: SegmentResult) -> bool:
    """Whether the model saw only a part of a long video, as nobody may expect."""
    if video.error is not None or video.seen is None or video.end <= FILM_SECONDS:
        return False
    start, end = video.seen
    return end - start < video.end


def say_what_was_seen(films: Sequence[SegmentResult]) -> None:
    """Which part of the first film, how many others there are, and how all of it is seen."""
    if not films or films[0].seen is None:
        return
    first, (start, end) = films[0], films[0].seen
    others = f" ({len(films) - 1:,} more like it)" if len(films) > 1 else ""
    note(
        f"{first.video} lasts {clock(first.end, '.')}, of which the model saw "
        f"{clock(start, '.')} - {clock(end, '.')}{others}; --every {end - start:.3g} captions all "
        "of it, in parts"
    )


if __name__ == "__main__":
    main()
