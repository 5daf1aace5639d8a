"""``vt-submit``: predictions to the archive that a benchmark's server takes."""

import argparse
from pathlib import Path

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError
from vt_fairseq.visible_text import say

PROG = "vt-submit"
EXAMPLE = (
    "vt-submit tvc --annotations TVCaption/data --out submission.zip \\\n"
    "      --predictions valid=valid/predictions.jsonl test=test/predictions.jsonl"
)
WANTED = {
    "tvqa": "valid and test, predictions.jsonl of vt-score vqa, and --meta",
    "tvc": "valid and test, predictions.jsonl of fairseq-generate",
    "epic-kitchens": "test_s1 and test_s2, scores.jsonl of vt-score classify",
}


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-submit``."""
    made = command.parser(PROG, "Make the file that a benchmark's server takes.", EXAMPLE)
    made.add_argument("server", choices=list(WANTED), metavar="SERVER",
        help="; ".join(f"{name}: {what}" for name, what in WANTED.items()))  # fmt: skip
    made.add_argument("--annotations", type=Path, required=True, metavar="DIR",
        help="the official annotation files, which say what clips there are")  # fmt: skip
    made.add_argument("--predictions", required=True, nargs="+", metavar="SPLIT=FILE",
        help="the predictions of each split that the server takes")  # fmt: skip
    made.add_argument(
        "--meta", type=Path, metavar="FILE", help="tvqa: JSON that describes the model"
    )
    made.add_argument("--out", type=Path, required=True, metavar="FILE.zip",
        help="the archive to write")  # fmt: skip
    return made


def _by_split(arguments: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for argument in arguments:
        split, equals, path = argument.partition("=")
        if not equals or split in files:
            raise UserError(
                f"--predictions: expected SPLIT=FILE once per split, found {argument!r}"
            )
        files[split] = Path(path)
    return files


@command.console_script(PROG)
def main() -> None:
    """The console script."""
    args = build_parser().parse_args()
    from vt_fairseq.evaluation.submissions import archive

    predictions = _by_split(args.predictions)
    files = archive.write(args.server, args.annotations, predictions, args.out, args.meta)
    for name, file in files.items():
        say(f"{name}: {len(file.ids):,} clips, {file.missing:,} without a prediction")
    say(f"wrote {args.out}")


if __name__ == "__main__":
    main()
