"""An installation from a wheel, without the checkout: everything runs from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import ROOT, TINY

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "vt_fairseq", "user_dir")
MINIWORLD = ["--size", "tiny", "--train-vocabulary", "200", "--num-workers", "1"]


def succeed(*command: object, cwd: Path) -> str:
    """Output of a command that ends well, in an environment that names no checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since building writes into the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for name in SOURCES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, _made(copy) / name)
    succeed(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ".", cwd=copy)
    (path,) = folder.glob("*.whl")
    return path


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_what_user_dir_names_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "vt_fairseq").rglob("*.py")}
    assert modules | {"user_dir/__init__.py", "vt_fairseq/py.typed"} <= set(names)
    assert {n.split("/")[0].split("-")[0] for n in names} == {"vt_fairseq", "user_dir"}
    assert sum(n.endswith("/LICENSE") for n in names) == 1


@pytest.mark.slow
def test_an_installed_wheel_trains_captions_and_reports_from_any_folder(wheel, tmp_path):
    succeed(sys.executable, "-m", "venv", tmp_path / "environment", cwd=tmp_path)
    programs = tmp_path / "environment" / "bin"
    pip = [programs / "python", "-m", "pip"]
    constraints = ["-c", ROOT / "constraints.txt"]
    succeed(*pip, "install", "-q", *constraints, wheel, cwd=tmp_path)
    succeed(*pip, "uninstall", "-q", "-y", "torchaudio", cwd=tmp_path)  # examples/environment.sh
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    succeed(programs / "vt-prepare", "miniworld", "--out", "data", *MINIWORLD, cwd=folder)
    plugin = ["--user-dir", "user_dir", "--task", "video_translate"]
    log = succeed(
        *[programs / "fairseq-train", "data", *plugin, *TINY, "--cpu", "--max-update", "2"],
        *["--log-file", "train.log"],
        cwd=folder,
    )
    assert "done training" in log
    path = ["--path", "checkpoints/checkpoint_last.pt"]
    video = next((folder / "data").rglob("*.mp4"))
    assert succeed(programs / "vt-caption", video, *path, "--device", "cpu", cwd=folder).strip()
    generate = [programs / "fairseq-generate", "data", *plugin, *path, "--action", "caption"]
    succeed(*generate, "--cpu", "--max-len-b", "5", "--results-path", "results", cwd=folder)
    succeed(programs / "vt-report", "results", "train.log", "--data", "data", cwd=folder)
    assert (folder / "report.html").stat().st_size > 10_000
