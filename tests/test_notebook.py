"""examples/notebook.ipynb: it is clean, and it runs from top to bottom."""

import ast
import json
import shutil

import pytest

from tests.markdown import ROOT

PATH = ROOT / "examples" / "notebook.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]


def test_the_notebook_is_stored_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def shown(cell: str, names: dict) -> object:
    """Run a cell; the value of its last line where that is an expression, as Jupyter shows it."""
    body = ast.parse(cell).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), str(PATH), "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(PATH), "eval"), names)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "examples")
    names: dict = {"__name__": "__main__"}
    values = [shown(cell, names) for cell in CODE]
    pictures = [value._repr_png_() for value in values if hasattr(value, "_repr_png_")]
    assert len(pictures) == 2 and all(p.startswith(b"\x89PNG\r\n") for p in pictures)
    losses = [float(point["loss"]) for point in names["progress"]]
    assert len(losses) == 5 and losses[-1] < losses[0] - 1
    assert 0 <= values[-1] <= 100
    printed = capsys.readouterr().out
    assert "written: " in printed and "<- right" in printed and "query:" in printed
    shutil.rmtree(names["OUT"])
