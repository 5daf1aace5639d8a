"""How long until the first caption? Whole processes on the CPU, one thread each.

    python benchmarks/startup.py CHECKPOINT VIDEO [ROUNDS]

CHECKPOINT is a tiny model's (the quickstart's, for instance). Each round starts one process of
each kind, one after the other; the least of the rounds is what the machine can do undisturbed.
Writes results/startup.json.
"""

import sys

import measuring

QUIET = "from vt_fairseq.quiet_imports import quiet_imports\nwith quiet_imports(): import fairseq"
CAPTION = ["-m", "vt_fairseq.cli.caption"]


def main() -> int:
    """Measure, print and write down."""
    checkpoint, video = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    commands = {
        "python -c 'import torch'": ["-c", "import torch"],
        "python -c 'import fairseq'": ["-c", "import fairseq"],
        "... with quiet_imports()": ["-c", QUIET],
        "vt-caption --help": [*CAPTION, "--help"],
        "vt-caption VIDEO": [*CAPTION, video, "--path", checkpoint, "--device", "cpu"],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            runs[name].append(measuring.process(sys.executable, *command))
    least = {
        name: {key: min(run[key] for run in found) for key in ("cpu_seconds", "seconds")}
        for name, found in runs.items()
    }
    return measuring.write_result("startup", measuring.machine(), least)


if __name__ == "__main__":
    sys.exit(main())
