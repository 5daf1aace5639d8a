"""The Dockerfile: what it copies and asks for is what setup.py needs, and its steps run."""

import fnmatch
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.test_wheel import SOURCES

Step = tuple[str, str]  # instruction, the rest of its line


def steps() -> list[Step]:
    """The instructions in order, without comments."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    logical = text.replace("\\\n", " ").split("\n")
    return [
        (name, rest.strip()) for line in logical if line for name, _, rest in [line.partition(" ")]
    ]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in steps() if instruction == name]


def copied() -> dict[str, str]:
    """What is copied, and under which name."""
    pairs = {}
    for rest in of("COPY"):
        *sources, target = rest.split()
        pairs |= {s: s if target == "./" else target for s in sources}
    return pairs


def test_all_that_an_installation_needs_is_copied_and_not_ignored():
    assert set(copied()) == {*SOURCES, "constraints.txt"}
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    for name in copied():
        assert (ROOT / name).exists() and f"!{name}" in ignored
    assert not any(fnmatch.fnmatch("vt_fairseq/cli/caption.py", p) for p in ignored[1:])


def test_the_base_has_a_python_that_setup_py_accepts_and_a_version():
    (base,) = [rest for rest in of("ARG") if rest.startswith("BASE=")]
    assert of("FROM") == ["${BASE}"] and "latest" not in base
    assert base.endswith("ubuntu24.04")  # whose python3 is 3.12
    low, high = re.search(
        r'python_requires=">=3\.(\d+),<3\.(\d+)"', (ROOT / "setup.py").read_text()
    ).groups()
    assert int(low) <= 12 < int(high)


def test_packages_leave_no_lists_behind_and_nothing_runs_as_root_at_the_end():
    (packages,) = [rest for rest in of("RUN") if "apt-get" in rest]
    assert re.match(r"apt-get update\s+&& apt-get install --yes --no-install-recommends ", packages)
    assert packages.endswith("rm -rf /var/lib/apt/lists/*")
    assert {"python3", "python3-venv", "python3-dev", "g++"} <= set(packages.split())
    assert of("USER") == ["user"] and steps()[-1][0] == "CMD"
    assert "`Dockerfile`" in (ROOT / "docs" / "deepspeed.md").read_text()


@pytest.mark.slow
def test_the_steps_run_in_an_empty_folder(tmp_path):
    """All but those of the system's packages and users, with the paths below a folder."""
    here = tmp_path / "image"
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    variables |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_", "SSL_"))}
    workdir = here
    for instruction, rest in steps():
        if instruction == "ARG" and "BASE=" not in rest:
            name, _, value = rest.partition("=")
            variables[name] = value.strip('"')
        elif instruction == "ENV":
            name, _, value = rest.partition("=")
            value = re.sub(r"\$\{(\w+)\}", lambda m: variables[m[1]], value)
            variables[name] = value if name == "PATH" else f"{here}{value}"
        elif instruction == "WORKDIR":
            workdir = Path(f"{here}{rest}")
            workdir.mkdir(parents=True)
        elif instruction == "COPY":
            for source, target in copied().items():
                if source in rest.split():
                    copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
                    copy(ROOT / source, workdir / target)
        elif instruction == "RUN" and not re.match("apt-get|useradd", rest):
            done = subprocess.run(
                ["sh", "-ec", rest],
                cwd=workdir,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=580,
            )
            assert done.returncode == 0, done.stdout[-3000:]
    (help_command,) = of("CMD")
    done = subprocess.run(
        re.findall(r'"([^"]+)"', help_command), cwd=workdir, env=variables, capture_output=True
    )
    assert done.returncode == 0 and b"vt-caption" in done.stdout
