"""The scripts for Slurm, with stand-ins for srun and scontrol that do their part of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment
from tests.warm_commands import scripts_folder

EXAMPLES = ROOT / "examples"
# As srun does at --signal=USR1@120: every process of the step gets the signal.
SRUN = """#!{python}
import os, signal, subprocess, sys, time
step = subprocess.Popen(sys.argv[1:], start_new_session=True)
while not os.path.exists(os.environ["RECORD"] + ".ready") and step.poll() is None:
    time.sleep(0.02)
if os.environ.get("SIGNALED"):
    os.killpg(step.pid, signal.SIGUSR1)
sys.exit(step.wait())
"""
# What training does about it: EXIT_INTERRUPTED.
TRAIN = """#!{python}
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
open(os.environ["RECORD"] + ".ready", "w").close()
time.sleep(20 if os.environ.get("SIGNALED") else 0)
sys.exit(int(os.environ["CODE"]))
"""
RECORDER = """#!{python}
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


def run(script: Path, *arguments: str, folder: Path, **variables: object) -> tuple[int, list[str]]:
    """Exit code, and the commands that were recorded; ``folder`` takes the files."""
    texts = {"srun": SRUN, "fairseq-train": TRAIN}
    texts |= dict.fromkeys(("scontrol", "vt-prepare", "vt-index"), RECORDER)
    path = scripts_folder(
        folder / "bin", {n: t.format(python=sys.executable) for n, t in texts.items()}
    )
    record = folder / "record"
    record.touch()
    given = {name: str(value) for name, value in variables.items()}
    done = subprocess.run(
        ["bash", script, *arguments],
        env={
            **environment(),
            "PATH": f"{path}:{os.environ['PATH']}",
            **{"RECORD": str(record), "RUNS": str(folder / "runs"), "T5": "t5", "IG65M": "ig65m"},
            **given,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, [" ".join(json.loads(x)) for x in record.read_text().splitlines()]


@pytest.mark.parametrize(
    ("variables", "code", "commands"),
    [
        ({"SIGNALED": 1, "CODE": 0}, 75, ["scontrol requeue 4711"]),
        ({"CODE": 0}, 0, []),
        ({"CODE": 1}, 1, []),
    ],
    ids=["out of time", "finished", "failed"],
)
def test_a_training_that_runs_out_of_time_is_queued_again(variables, code, commands, tmp_path):
    script = EXAMPLES / "pretrain_howto100m" / "slurm.sbatch"
    job = {"SLURM_NTASKS": 8, "SLURM_JOB_ID": 4711}
    assert run(script, folder=tmp_path, **job, **variables) == (code, commands)


TASK = {"SLURM_ARRAY_TASK_MIN": 1, "SLURM_ARRAY_TASK_MAX": 64, "SLURM_ARRAY_TASK_COUNT": 64}
TASK |= {"SLURM_ARRAY_TASK_ID": 3, "SLURM_CPUS_PER_TASK": 8}
SCRIPTS = {
    "prepare.sbatch": (["howto100m", "--out", "DATA"], "vt-prepare howto100m --out DATA"),
    "index.sbatch": (["LIB", "CKPT", "a"], "vt-index LIB.part3 a --path CKPT --every 5"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_task_of_an_array_does_its_shard(script, tmp_path):
    arguments, command = SCRIPTS[script]
    code, commands = run(EXAMPLES / script, *arguments, folder=tmp_path, **TASK)
    assert (code, commands) == (0, [f"{command} --shard 3/64 --num-workers 8"])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_ARRAY_TASK_MIN": 0, "SLURM_ARRAY_TASK_MAX": 63},
        {"SLURM_ARRAY_TASK_MAX": 7, "SLURM_ARRAY_TASK_COUNT": 2},  # 1,7
        {"SLURM_ARRAY_TASK_MIN": ""},
    ],
)
def test_an_array_that_would_divide_otherwise_is_refused(script, change, tmp_path):
    arguments, _ = SCRIPTS[script]
    assert run(EXAMPLES / script, *arguments, folder=tmp_path, **(TASK | change)) == (2, [])
