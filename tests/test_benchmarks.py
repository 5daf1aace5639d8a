"""``benchmarks/all.py``: what it runs, and the table that it writes."""

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

MISSED = "import sys; sys.exit(1)  # measuring.judged("
FINE = "open('ran', 'w')  # measuring.judged("
FOUND = {"ratio": 2.217, "least": 2.1, "most": 2.3, "bar": "at least 2.0", "reached": True}
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"
TABLE = """
| benchmark | what is compared | found | bar | |
|---|---|---|---|---|
| one | a against b | 2.22 (2.1–2.3) | at least 2.0 | reached |
| one | memory | 38 | at most 30 | **not reached** |
| one | bf16 | not judged: no bf16 | at least 4.0 | |

- one: `python benchmarks/one.py --rounds 3`, 2026-01-02; a CPU; cores 2; torch 2.0

"""


@pytest.fixture
def project(tmp_path) -> Path:
    """A project with ``benchmarks/all.py``, an empty table, and results with bars and without."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks" / "all.py", tmp_path / "benchmarks")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text(f"before\n{BEGIN}old\n{END}after\n")
    machine = {"date": "2026-01-02", "processor": "a CPU", "cores": 2, "torch": "2.0"}
    result = {"command": "python benchmarks/one.py --rounds 3", "machine": machine}
    other = {"ratio": 38, "least": 38, "most": 38, "bar": "at most 30", "reached": False}
    unknown = {"bar": "at least 4.0", "not judged": "no bf16"}
    result["measured"] = {"a against b": FOUND, "memory": other, "bf16": unknown, "ms": {"a": 3}}
    (tmp_path / "benchmarks/results/one.json").write_text(json.dumps(result))
    without = {"measured": {"a": {"seconds": 3}}}
    (tmp_path / "benchmarks/results/without.json").write_text(json.dumps(without))
    return tmp_path


def run_all(project: Path, *options: str, code: int = 0) -> str:
    """What ``benchmarks/all.py`` prints."""
    command = [sys.executable, "benchmarks/all.py", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_the_table_takes_the_place_of_the_old_one_and_the_rest_of_the_page_stays(project):
    for _ in range(2):
        run_all(project, "--table")
        page = (project / "docs" / "performance.md").read_text()
        assert page == f"before\n{BEGIN}{TABLE}{END}after\n"


def test_a_page_without_the_marks_is_refused_and_kept(project):
    page = project / "docs" / "performance.md"
    page.write_text(f"before\n{BEGIN}old\n")
    assert "end of the table" in run_all(project, "--table", code=1)
    assert page.read_text() == f"before\n{BEGIN}old\n"


def test_a_missed_bar_does_not_keep_the_others_from_running(project):
    for name, text in {"a": MISSED, "b": FINE, "c": "open('not judged', 'w')"}.items():
        (project / "benchmarks" / f"{name}.py").write_text(text)
    assert run_all(project, code=1).endswith("missed a bar, or failed: a\n")
    assert (project / "ran").exists() and not (project / "not judged").exists()


def test_an_unknown_benchmark_is_refused_before_anything_runs(project):
    (project / "benchmarks" / "b.py").write_text(FINE)
    assert "no such benchmark: nothing" in run_all(project, "--only", "b,nothing", code=2)
    assert not (project / "ran").exists()


def test_the_page_shows_the_numbers_of_the_results_and_no_others(project):
    shutil.rmtree(project / "benchmarks")
    shutil.copytree(ROOT / "benchmarks", project / "benchmarks")
    page = Path(shutil.copy(ROOT / "docs" / "performance.md", project / "docs"))
    before = page.read_text()
    run_all(project, "--table")
    assert page.read_text() == before, "run python benchmarks/all.py --table"


@pytest.mark.parametrize(("folder", "other"), [("tests", "benchmarks"), ("benchmarks", "tests")])
def test_tests_and_benchmarks_do_not_import_each_other(folder, other):
    for path in (ROOT / folder).rglob("*.py"):
        assert not re.search(rf"^\s*(from|import) {other}\b", path.read_text(), re.MULTILINE), path


def test_what_benchmarks_and_examples_import_from_the_package_is_there():
    paths = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    found = {
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vt_fairseq")
        for alias in node.names
    }
    missing = [
        (module, name)
        for module, name in found
        if not hasattr(importlib.import_module(module), name)
        and importlib.util.find_spec(f"{module}.{name}") is None
    ]
    assert found and not missing
