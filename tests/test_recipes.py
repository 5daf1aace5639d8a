"""The recipes under examples/: their command lines are real ones, and their smoke mode runs.

Recipes call commands by name. Here the names are scripts in a folder that comes first on the PATH:
either they write down how they were called, or they start the real command with this Python.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import MODULES, ROOT, environment
from tests.warm_commands import READY, client_scripts

EXAMPLES = ROOT / "examples"
RECIPES = sorted(path.parent.name for path in EXAMPLES.glob("*/run.sh"))
RECORDER = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
INPUTS = {
    name: f"/given/{name.lower()}"
    for name in ("ANNOTATIONS", "VIDEOS", "VOCABULARY", "PRETRAINED", "T5", "IG65M")
}


def commands_folder(folder: Path, scripts: dict[str, str]) -> Path:
    """A folder with an executable script of each name."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


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


# --- command lines --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Path:
    names = [*MODULES, "torchrun"]
    scripts = dict.fromkeys(names, RECORDER.format(python=sys.executable))
    # Slurm's own part is to start the rest of the line on every node.
    scripts["srun"] = '#!/bin/sh\nexec "$@"\n'
    return commands_folder(tmp_path_factory.mktemp("recorder") / "bin", scripts)


def recorded(script: Path, recorder: Path, tmp_path: Path, **variables: object) -> list[list[str]]:
    """The command lines of a script, none of which is run."""
    record = tmp_path / "record.jsonl"
    bash(script, path=recorder, RECORD=record, RUNS=tmp_path / "runs", **variables)
    return [json.loads(line) for line in record.read_text().splitlines()]


def parsed(command: list[str]):
    """What the real command makes of its arguments; it must know them all."""
    name, *arguments = command
    if name.startswith("vt-"):
        import importlib

        return importlib.import_module(MODULES[name]).build_parser().parse_args(arguments)
    from fairseq import options

    parser = {
        "fairseq-train": options.get_training_parser,
        "fairseq-generate": options.get_generation_parser,
    }[name]()
    return options.parse_args_and_arch(parser, arguments)


@pytest.mark.parametrize("smoke", ["", "1"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_a_recipe_is_one_of_the_real_commands(
    recipe, smoke, recorder, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    script = EXAMPLES / recipe / "run.sh"
    for command in recorded(script, recorder, tmp_path, SMOKE=smoke, **INPUTS):
        try:
            parsed(command)
        except SystemExit:
            pytest.fail(f"{recipe}: not a command line that is understood: {command}")


# --- smoke mode -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_commands() -> Iterator[Path]:
    """A folder with all commands, which run in forks of a process that has done the imports."""
    # The name of a socket is short; pytest's folders need not be.
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_commands", address],
            env=environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert f"{READY}\n" in iter(server.stdout.readline, "")  # a log line may come before
            yield commands_folder(Path(folder) / "bin", client_scripts(address))
        finally:
            server.kill()
            server.wait()


def test_the_smoke_mode_of_youcook2_runs(real_commands, tmp_path):
    print(bash(EXAMPLES / "youcook2" / "run.sh", path=real_commands, SMOKE=1, RUNS=tmp_path))
    results = tmp_path / "youcook2"
    assert json.loads((results / "captions" / "metrics.json").read_text())["n"] == 10
