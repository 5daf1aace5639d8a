"""What is left of a training that is killed in its saves?

    python benchmarks/kills.py [--random 100] [--seed 1] [--only plain,random ...]

A real training of a tiny model, with fairseq's optimizer and with DeepSpeed's ZeRO-2, saves after
every update. It is ended by SIGKILL at random moments of that loop, half of them with each
optimizer; and stopped before every operation on files of three saves (the first; one that is the
best, too; one at the end of an epoch), where what lies on the disk is what a kill leaves. Each time
a new start has to go on from the last finished save, to the weights and checkpoints of the run that
nothing happened to. Writes results/kills.json. See ``tests/killing.py``.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import measuring

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests import killing, tracing
from tests.conftest import run_main

OPTIMIZERS = {"plain": killing.PLAIN, "deepspeed": killing.DEEPSPEED}
PARTS = [f"{name},{what}" for name in OPTIMIZERS for what in ("operations", "random")]


def say(name: str, what: str, verdict: str, training: killing.Training) -> None:
    """Print one kill, with the end of the log where the verdict is bad."""
    print(f"{name:10} {what:44} {verdict}", flush=True)
    if verdict != "whole":
        print((training.folder / "resumed.log").read_text()[-2000:], flush=True)


def at_random(name: str, training: killing.Training, kills: int, seed: int) -> dict[str, int]:
    """Counts of verdicts after kills at random moments, and how many came in a save."""
    generator, counts = random.Random(seed), Counter()
    for number in range(1, kills + 1):
        counts["in a save"] += (in_save := training.kill_at_random(generator))
        counts[verdict := training.verdict()] += 1
        where = "in a save" if in_save else "between saves"
        say(name, f"random {number} of {kills}, {where}", verdict, training)
    return counted(kills, counts) | {"in a save": counts["in a save"]}


def at_operations(name: str, training: killing.Training) -> dict[str, int]:
    """Counts of verdicts on what kills before each operation on files of the saves leave."""
    counts, kills = Counter(), 0
    for phase, update in killing.PHASES.items():
        for number, (coming, new, verdict) in enumerate(training.verdicts(update), 1):
            kills += 1
            counts["different directories"] += new
            counts[verdict] += 1
            what = f"{phase}, before operation {number}, {coming}"
            say(name, what if new else f"{what}, no change", verdict, training)
    return counted(kills, counts) | {"different directories": counts["different directories"]}


def counted(kills: int, counts: Counter) -> dict[str, int]:
    """The number of kills and of every verdict, those that never came among them."""
    return {"kills": kills} | {verdict: counts[verdict] for verdict in killing.VERDICTS}


def earlier(parts: list[str]) -> dict[str, dict]:
    """What the result file has of other parts."""
    path = measuring.RESULTS / "kills.json"
    found = json.loads(path.read_text())["measured"] if path.exists() else {}
    return {part: found[part] for part in PARTS if part in found and part not in parts}


def main() -> None:
    """Kill, count, write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", type=int, default=100, help="kills at random times")
    parser.add_argument("--seed", type=int, default=1, help="of the random times")
    parser.add_argument(
        "--only", nargs="+", default=PARTS, choices=PARTS, help="parts; the results keep the others"
    )
    arguments = parser.parse_args()
    if not tracing.possible():
        parser.error("processes may not be traced here (ptrace), which kills at operations need")
    machine = measuring.machine("ve-fairseq", "deepspeed")
    measured = earlier(arguments.only)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        run_main(
            "vt_fairseq.cli.prepare",
            *["miniworld", "--size", "tiny", "--out", str(data), "--train-vocabulary", "200"],
            *["--workers", "1"],
        )
        for name, options in OPTIMIZERS.items():
            parts = [part for part in arguments.only if part.startswith(name)]
            training = killing.Training(data, Path(folder) / name, options) if parts else None
            for part in parts:
                measured[part] = (
                    at_random(name, training, arguments.random // 2, arguments.seed)
                    if part.endswith("random")
                    else at_operations(name, training)
                )
                measuring.write_result("kills", machine, measured)
    for what, found in measured.items():
        print(f"{what:24} {found}")


if __name__ == "__main__":
    main()
