"""``vt-report``: results and training logs as one HTML file to look at."""

import argparse
from pathlib import Path

from vt_fairseq.cli import command
from vt_fairseq.cli.command import positive
from vt_fairseq.visible_text import say

PROG = "vt-report"


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-report``."""
    parser = command.parser(
        PROG,
        "Make one HTML file, which needs no other, of the results of vt-score and fairseq-generate "
        "--results-path, and of the logs of fairseq-train, in these folders and those below.",
        "vt-report runs/youcook2 --out report.html",
    )
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="DIR", help="folders, or files of logs")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE",
        help="HTML file to write (default: report.html)")  # fmt: skip
    add("--data", type=Path, nargs="+", default=[], metavar="DATA",
        help="data directories that lie elsewhere, for pictures and texts")  # fmt: skip
    command.add_with_aliases(
        parser, "--videos", "--video-root", dest="video_root", type=Path, metavar="DIR",
        help="folder of the videos of data directories that others have prepared")  # fmt: skip
    command.add_follow_links(parser)
    add("--clips", type=positive, default=400, metavar="N",
        help="the most clips that get pictures, failures first (default: 400)")  # fmt: skip
    return parser


@command.console_script(PROG)
def main() -> None:
    """The console script."""
    args = build_parser().parse_args()
    from vt_fairseq.errors import UserError
    from vt_fairseq.files.atomic_files import write_file
    from vt_fairseq.report.content import read_content
    from vt_fairseq.report.page import render

    if args.out.is_dir():
        raise UserError(f"--out {args.out} is a folder, expected a file")
    content = read_content(args.folders, args.data, args.clips, args.video_root, args.follow_links)
    page = render(content, args.out.parent)
    write_file(args.out, page)
    for note in filter(None, [*content.notes, content.pictures.limit_note]):
        say(note)
    rows = sum(len(result.rows) for result in content.results)
    counts = {
        "results": len(content.results),
        "rows": rows,
        "pictures of clips": len(content.pictures.of),
        "trainings": len(content.trainings),
    }
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    say(f"wrote {args.out} ({len(page) / 1e6:.1f} MB): {shown}")


if __name__ == "__main__":
    main()
