"""``vt-score``: answers, classes and captions ranked for every clip of a split."""

import argparse
import sys
from pathlib import Path

from vt_fairseq.cli import command
from vt_fairseq.cli.command import add_with_aliases, positive
from vt_fairseq.cli.inputs import read_labels
from vt_fairseq.scoring.options import (
    DECODINGS,
    KINDS,
    PAIRS,
    SCORERS,
    TARGETS,
    ScoreOptions,
)
from vt_fairseq.visible_text import say

PROG = "vt-score"


def build_parser() -> argparse.ArgumentParser:
    """The command line of vt-score."""
    parser = command.parser(
        PROG,
        "Rank texts for every clip of a split by their log-likelihood, or by linear heads: answers "
        "(vqa), classes (classify), or the captions of all clips (retrieval). A run that was "
        "stopped goes on when it is started again. Under torchrun the processes share the clips.",
        "vt-score vqa DATA --path checkpoints/checkpoint_best.pt --out scores/vqa\n"
        "  torchrun --nproc-per-node 8 --no-python vt-score classify DATA --path generative.pt \\\n"
        "      --targets action --fuse discriminative.pt --windows 10 --split valid --out scores",
    )
    add = parser.add_argument
    add("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    add("data", type=Path, metavar="DATA", help="data directory that vt-prepare wrote")
    add("--path", type=Path, required=True, metavar="CHECKPOINT", help="model to score with")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add("--split", default="test", help="split to score (default: test)")
    add_candidates(parser.add_argument_group("what is ranked"))
    add_scoring(parser.add_argument_group("how"))
    add_inputs(parser.add_argument_group("what the model sees"))
    add_run(parser.add_argument_group("the run"))
    command.add_user_dir(parser)
    return parser


def add_candidates(group) -> None:
    """Candidates and prompts."""
    add = group.add_argument
    add("--targets", choices=TARGETS, metavar="TARGETS",
        help="classify: classes to rank: label, verb, noun, 'verb,noun' (each on its own, actions "
        "by their product) or action (verb-noun pairs as texts) (default: label, or what the heads "
        "are for)")  # fmt: skip
    add("--pairs", choices=PAIRS,
        help="verb-noun pairs that can be an action: labeled, those of any row of DATA (default "
        "where texts of pairs are ranked), seen, those of the split train, or all (default where "
        "scores are multiplied)")  # fmt: skip
    add("--labels", type=read_labels, metavar="FILE",
        help="classify: rank the class names in FILE instead of the data directory's")  # fmt: skip
    add("--top-k", type=positive, metavar="K",
        help="classify: only the K likeliest candidates, found without scoring all")  # fmt: skip
    add("--action", help="action (prompt) to use (default: the one that fits)")


def add_scoring(group) -> None:
    """From clips to scores."""
    add = group.add_argument
    add("--use", choices=SCORERS,
        help="which part of --path scores (default: its heads where it has any)")  # fmt: skip
    add("--fuse", type=Path, metavar="CHECKPOINT",
        help="average the softmax of the decoder's scores with the heads' distribution of this "
        "checkpoint")  # fmt: skip
    add_with_aliases(
        group, "--windows", "--clips", type=positive, default=1, metavar="N",
        help="average the predictions for N uniformly spaced windows (EPIC: 10)")  # fmt: skip
    add("--caption-first", action="store_true",
        help="classify: generate a caption and feed it as text (multi-task training)")  # fmt: skip
    add("--decoding", choices=DECODINGS, default="rank",
        help="vqa: rank the candidates, or generate an answer and match it to one")  # fmt: skip
    add("--beam", type=positive, default=5, help="beams of texts that are generated (default: 5)")
    add_with_aliases(
        group, "--length-normalize", "--length-normalise", action="store_true",
        help="rank by the mean log-likelihood per token instead of the sum")  # fmt: skip


def add_inputs(group) -> None:
    """Video and context."""
    add = group.add_argument
    add(
        "--context",
        action=argparse.BooleanOptionalAction,
        help="put the rows' context (subtitles) in, or leave it out (default: as in training)",
    )
    add_with_aliases(
        group, "--videos", "--video-root", dest="video_root", default="", metavar="DIR",
        help="folder of the videos, if they moved")  # fmt: skip
    command.add_follow_links(group)
    add("--test-window", default="", help="window of long clips: center, whole or K/N")
    add("--blank-video", action="store_true", help="show uniform gray instead of the video")


def add_run(group) -> None:
    """Sizes, devices, interrupted runs."""
    add = group.add_argument
    add("--restart", action="store_true", help="throw away the scores that DIR has")
    add("--batch-size", type=positive, default=8, help="clips scored at once (default: 8)")
    add("--max-nodes", type=positive, default=2048,
        help="beginnings of candidates decoded at once, over all clips of a batch; bounds memory "
        "(default: 2048)")  # fmt: skip
    add("--num-workers", type=int, default=1, metavar="N",
        help="processes that decode (default: 1)")  # fmt: skip
    command.add_device(group)
    command.add_dtype(group)
    command.add_cuda_graphs(group)


@command.console_script(PROG)
def main() -> None:
    """Entry point."""
    args = vars(build_parser().parse_args())
    command.import_user_dir(args.pop("user_dir"))
    with command.quiet_imports():
        from vt_fairseq.scoring.job import prepare
        from vt_fairseq.scoring.run import score

    options = ScoreOptions(**args)
    metrics = score(prepare(options), lambda line: say(line, sys.stderr))
    if metrics is None:
        return
    for name, value in metrics.items():
        if name != "signatures":
            shown = f"{value:8,}" if isinstance(value, int) else f"{value:8.2f}"
            say(f"{name:>24} {shown}")
    say(f"wrote {options.out}/{{scores,predictions}}.jsonl and metrics.json")


if __name__ == "__main__":
    main()
