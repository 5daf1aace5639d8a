"""What should stand for the absent text at test? Trains the quickstart's model in several ways.

    python benchmarks/absent_text.py DATA [UPDATES]

DATA is the quickstart's data directory. For each --text-dropout one training of UPDATES updates,
then greedy generation of the class on the validation videos with nothing (--test-text none) and
with eight [MASK] (--test-text mask) in the text's place: share of labels exactly right. Writes
absent_text.json beside this file.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))
from quickstart import PLUGIN, TRAIN  # noqa: E402

DROPOUTS = ("0", "0.5", "0.8", "1")


def changed(command: list[str], options: dict[str, str]) -> list[str]:
    """``command`` with other values of options that it has."""
    command = list(command)
    for option, value in options.items():
        command[command.index(option) + 1] = value
    return command


def run(command: list[str]) -> None:
    """Run a step without its output; stop when it fails."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT)


def main() -> None:
    """Measure, print and write down."""
    data = sys.argv[1]
    updates = sys.argv[2] if len(sys.argv) > 2 else "900"
    accuracy: dict[str, dict[str, float]] = {}
    for dropout in DROPOUTS:
        with tempfile.TemporaryDirectory() as folder:
            options = {"--text-dropout": dropout, "--save-dir": folder}
            options |= {"--max-update": updates, "--total-num-update": updates}
            train = changed(TRAIN, options)
            train[1] = data
            run(train)
            accuracy[dropout] = {}
            for text in ("none", "mask"):
                out = Path(folder) / text
                generate = ["fairseq-generate", data, *PLUGIN, "--gen-subset", "valid", "--cpu"]
                generate += ["--path", f"{folder}/checkpoint_last.pt", "--action", "classify"]
                run([*generate, "--beam", "1", "--test-text", text, "--results-path", str(out)])
                files = [f"--{kind}={out}/{kind}.jsonl" for kind in ("predictions", "references")]
                run(["vt-evaluate", "captions", *files, "--coco=off", f"--out={out}/metrics.json"])
                metrics = json.loads((out / "metrics.json").read_text())
                accuracy[dropout][text] = round(metrics["exact_match"], 1)
        print(dropout, accuracy[dropout], flush=True)
    result = {
        "command": f"python benchmarks/absent_text.py quickstart/data {updates}",
        "labels generated exactly, per cent, by --text-dropout and --test-text": accuracy,
    }
    path = ROOT / "benchmarks" / "absent_text.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
