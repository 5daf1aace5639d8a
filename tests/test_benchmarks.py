"""``benchmarks/all.py``: what it runs, and the table that it writes."""

import json
import sys

import pytest

from benchmarks import all as every

MISSED = "import sys; sys.exit(1)  # measuring.judged("
FINE = "open('ran', 'w')  # measuring.judged("
FOUND = {"ratio": 2.217, "least": 2.1, "most": 2.3, "bar": "at least 2.0", "reached": True}


@pytest.fixture
def results(tmp_path):
    """Results with bars and without."""
    machine = {"date": "2026-01-02", "processor": "a CPU", "cores": 2, "torch": "2.0"}
    result = {"command": "python benchmarks/one.py --rounds 3", "machine": machine}
    other = {"ratio": 38, "least": 38, "most": 38, "bar": "at most 30", "reached": False}
    unknown = {"bar": "at least 4.0", "not judged": "no bf16"}
    result["measured"] = {"a against b": FOUND, "memory": other, "bf16": unknown, "ms": {"a": 3}}
    (tmp_path / "one.json").write_text(json.dumps(result))
    (tmp_path / "without.json").write_text(json.dumps({"measured": {"a": {"seconds": 3}}}))
    return tmp_path


def test_the_table_has_a_row_for_each_bar_and_says_what_the_numbers_hold_for(results):
    assert every.table(results).splitlines() == [
        "| benchmark | what is compared | found | bar | |",
        "|---|---|---|---|---|",
        "| one | a against b | 2.22 (2.1–2.3) | at least 2.0 | reached |",
        "| one | memory | 38 | at most 30 | **not reached** |",
        "| one | bf16 | not judged: no bf16 | at least 4.0 | |",
        "",
        "- one: `python benchmarks/one.py --rounds 3`, 2026-01-02; a CPU; cores 2; torch 2.0",
    ]


def test_the_table_takes_the_place_of_the_old_one_and_the_rest_of_the_page_stays(results):
    page = results / "page.md"
    page.write_text(f"before\n{every.BEGIN}old\n{every.END}after\n")
    for _ in range(2):
        every.write_table(page, results)
        inside = f"{every.BEGIN}\n{every.table(results)}\n{every.END}"
        assert page.read_text() == f"before\n{inside}after\n"


def test_a_page_without_the_marks_is_refused_and_kept(results):
    page = results / "page.md"
    page.write_text(f"before\n{every.BEGIN}old\n")
    with pytest.raises(ValueError, match="end of the table"):
        every.write_table(page, results)
    assert page.read_text() == f"before\n{every.BEGIN}old\n"


def test_a_missed_bar_does_not_keep_the_others_from_running(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text(MISSED)
    (tmp_path / "b.py").write_text(FINE)
    (tmp_path / "c.py").write_text("no benchmark with bars")
    monkeypatch.chdir(tmp_path)
    assert every.scripts(tmp_path) == ["a", "b"]
    assert every.run(["a", "b"], tmp_path) == ["a"]
    assert (tmp_path / "ran").exists()


def test_the_page_shows_no_number_that_is_not_in_the_results():
    _, _, rest = every.PAGE.read_text(encoding="utf-8").partition(every.BEGIN)
    shown = rest.partition(every.END)[0].splitlines()
    assert len(shown) > 5
    outdated = set(shown) - set(every.table().splitlines())
    assert not outdated, "run python benchmarks/all.py --table"


def test_an_unknown_benchmark_is_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["all.py", "--only", "loading,nothing"])
    with pytest.raises(SystemExit):
        every.main()
    assert "no such benchmark: nothing" in capsys.readouterr().err
