"""The command lines of the recipes under examples/, recorded instead of run.

Recipes call commands by name. Here the names are scripts in a folder that comes first on the PATH,
which write down how they were called.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.commands import MODULES, ROOT, environment, parsed
from tests.warm_commands import scripts_folder

EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.sh"))
RECORDER = """#!{python} -SE
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
INPUTS = {
    name: f"/given/{name.lower()}"
    for name in ("ANNOTATIONS", "VIDEOS", "VOCABULARY", "PRETRAINED", "T5", "IG65M")
}


def bash(script: Path, *stages: str, path: Path, **variables: object) -> str:
    """Output of a recipe's script; it must end well."""
    given = {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        ["bash", str(script), *stages],
        env={**environment(), "PATH": f"{path}:{os.environ['PATH']}", **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def recorder(folder: Path) -> Path:
    """A folder of commands that are recorded."""
    names = [*MODULES, "torchrun"]
    scripts = dict.fromkeys(names, RECORDER.format(python=Path(sys.executable).resolve()))
    # Slurm's own part is to start the rest of the line on every node.
    scripts["srun"] = '#!/bin/sh\nexec "$@"\n'
    return scripts_folder(folder, scripts)


def recorded(script: Path, commands: Path, folder: Path, **variables: object) -> list[list[str]]:
    """The command lines of a script, none of which is run; ``commands`` made by ``recorder``."""
    record = folder / "record.jsonl"
    bash(script, path=commands, RECORD=record, RUNS=folder / "runs", **variables)
    return [json.loads(line) for line in record.read_text().splitlines()]


def trainings(commands: list[list[str]]) -> list[dict[str, Any]]:
    """The options of each training among the commands, those of its architecture among them."""
    from vt_fairseq.models.architectures import architecture

    with contextlib.chdir(ROOT):
        given = [vars(parsed(c)) for c in commands if c[0] == "fairseq-train"]
    return [asdict(architecture(options["arch"])) | options for options in given]
