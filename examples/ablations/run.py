"""The paper's ablations (table 7) and fine-tunings (tables 1 and 6) repeated on MiniWorld.

    python examples/ablations/run.py OUT --scale quick|cpu|gpu

Trains and scores with the public commands. What is done is left out, so an interrupted call goes
on. OUT/results.json is written anew after every step; at the end the tables are printed.
"""

import argparse
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

from plan import Plan, experiment
from results import collect, trainings, write
from scales import SCALES
from steps import Runner
from table import document


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path, help="folder for data, checkpoints, scores, logs and results.json")
    add("--scale", choices=SCALES, default="quick", help="(default: quick)")
    add("--seeds", help="comma-separated (default: the scale's)")
    add("--only", default="", metavar="PARTS", help="comma-separated parts or rows: a,b,g")
    add("--updates", type=int, help="of one training (default: the scale's)")
    add("--at-once", type=int, metavar="N", help="commands that run at once (default: the scale's)")
    add("--time-limit", type=float, metavar="S", help="no command starts after so many seconds")
    add("--device", choices=("cpu", "gpu"), help="(default: the scale's)")
    add("--results", type=Path, metavar="FILE", help="(default: OUT/results.json)")
    add("--train-options", default="", help="more options of every training, in one text")
    return parser


def command_line(args: argparse.Namespace) -> str:
    """The call without the names of this machine's folders."""
    given = {
        "scale": args.scale,
        "seeds": args.seeds,
        "only": args.only,
        "updates": args.updates,
        "at-once": args.at_once,
        "device": args.device,
        "train-options": args.train_options,
    }
    options = [f"--{name}={value}" for name, value in given.items() if value]
    return shlex.join(["python", "examples/ablations/run.py", "OUT", *options])


def main() -> int:
    """Run what is not done, collect, print."""
    args = build_parser().parse_args()
    # As Ctrl-C: the commands that run are ended, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scale = SCALES[args.scale]
    if args.device:
        scale = replace(scale, device=("--cpu",) if args.device == "cpu" else ())
    limit = args.time_limit or scale.seconds
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in (args.seeds or scale.seeds).split(",")]
    whole = experiment(scale)
    chosen = whole.chosen(list(filter(None, args.only.split(","))))
    plan = Plan(out, scale, args.updates or scale.updates, tuple(shlex.split(args.train_options)))
    steps = plan.steps(chosen, whole.models, seeds)
    runner = Runner(out, args.at_once or scale.at_once, limit)
    file = args.results or out / "results.json"

    def collected() -> dict:
        return {"command": command_line(args), **collect(plan, runner, steps, chosen, seeds)}

    runner.on_change = lambda: write(file, collected())
    runner.check(steps)
    try:
        complete = runner.run(steps)
    finally:
        result = collected()
        write(file, result)
        print(f"\n{trainings(result)}\n\n{document(result)}\n\nwrote {file}")
    if not complete:
        print(f"{result['done']} done; the same command goes on", file=sys.stderr)
    return int(bool(runner.failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
