"""examples/ablations: its tables say what the numbers say, and its commands run."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.commands import ROOT, environment

FOLDER = ROOT / "examples" / "ablations"
sys.path.insert(0, str(FOLDER))

import plan  # noqa: E402
import table  # noqa: E402
import world  # noqa: E402
from parts import Part, Row  # noqa: E402
from plot import svg  # noqa: E402
from results import training_curves  # noqa: E402
from scales import SCALES  # noqa: E402
from steps import Runner, Step  # noqa: E402

SEEDS = {"1": 10.0, "2": 12.0, "3": 14.0}
BETTER = {"1": 20.0, "2": 23.0, "3": 24.0}
PART = Part(
    *("a", "Frames", (("accuracy", "accuracy"),)),
    rows=(Row("few", "few", (13.2,)), Row("many", "many", (14.3,)), Row("none", "none")),
    paper=("EPIC",),
    orderings=(("few", "many"), ("many", "few")),
    judged=("accuracy",),
)
NUMBERS = {"few": {"accuracy": SEEDS}, "many": {"accuracy": BETTER}}


def test_the_interval_is_students():
    # scipy.stats.t.interval(0.95, 2, 12, scipy.stats.sem([10, 12, 14])) is (7.032, 16.968).
    assert table.half_width([10.0, 12.0, 14.0]) == pytest.approx(4.968, abs=1e-3)
    assert table.half_width([10.0]) is None


def test_a_table_has_mean_and_interval_beside_the_papers_number():
    assert table.table(PART, NUMBERS)[2:] == [
        "| few | 12.0 ± 5.0 | 13.2 |",
        "| many | 22.3 ± 5.2 | 14.3 |",
        "| none |  |  |",
    ]


def test_an_ordering_comes_out_or_is_reversed_by_the_paired_difference():
    first, second = table.verdicts(PART, NUMBERS)
    assert first == "- many above few: accuracy +10.3 ± 1.4, **comes out**"
    assert second == "- few above many: accuracy −10.3 ± 1.4, **reversed**"
    assert table.verdict([1.0, -1.0, 2.0]).endswith("undecided")
    assert table.verdict([1.0]) == "+1.0 (one seed)"


def test_a_document_keeps_all_but_what_stands_between_the_marks(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- cpu -->\nold\n<!-- end of cpu -->\nafter\n")
    table.put_into(file, "cpu", "new")
    assert file.read_text() == "before\n<!-- cpu -->\nnew\n<!-- end of cpu -->\nafter\n"
    with pytest.raises(SystemExit, match="expected the lines <!-- gpu -->"):
        table.put_into(file, "gpu", "new")


def test_the_plot_is_an_xml_with_every_row():
    bars = table.bars(PART, NUMBERS)
    root = ElementTree.fromstring(svg([(PART, bars)]))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "few" in texts and "many" in texts and "none" not in texts


def test_a_part_is_drawn_from_the_one_run_that_has_most_of_its_rows():
    name, other = (row.name for row in PART.rows[:2])
    key = PART.columns[0][1]
    one, both = {name: {key: {"1": 1.0}}}, {name: {key: {"1": 2.0}}, other: {key: {"1": 3.0}}}
    drawn = table.widest(PART, [{"numbers": one}, {"numbers": both}])
    assert [values for _, values in drawn] == [[2.0], [3.0]]


def test_a_training_curve_is_read_from_the_log():
    line = (
        "2026 | INFO | train_inner | epoch 001:  66 / 188 loss=5.897, nll_loss=5.897, "
        "accuracy=25.5, ups=1.27, wpb=395.7, num_updates=66, lr=0.001, gnorm=2.748, wall=44"
    )
    expected = {"updates": [66] * 2, "loss": [5.897] * 2, "accuracy": [25.5] * 2, "ups": [1.27] * 2}
    assert training_curves(f"other\n{line}\n{line}\n") == expected


def test_talk_questions_have_one_answer_that_was_said():
    rows = [
        {
            **{"id": str(k), "split": "test", "group": "test-00000", "label": "red moon rising"},
            **{"start": 1.0, "end": 2.8, "caption": ["a"], "context": context},
        }
        for k, context in enumerate(
            ["amy : hello . bob : oh no", "eva : thank you . amy : oh no"] * 3
        )
    ]
    made = list(world.rows_of_the_comparison(rows))
    for row in (row for row in made if row["split"] == "talk"):
        right = row["candidates"].pop(row["answer"])
        assert right in row["context"]
        assert not any(text in row["context"] for text in row["candidates"])
    still = [row for row in made if row["split"] == "still"]
    assert all(row["end"] - row["start"] == pytest.approx(0.1) for row in still)


@pytest.mark.parametrize("scale", SCALES)
def test_every_training_is_planned_before_what_needs_it(scale, tmp_path):
    whole = plan.experiment(SCALES[scale])
    steps = plan.Plan(tmp_path, SCALES[scale], 30).steps(whole.chosen([]), whole.models, [1, 2])
    seen = set()
    for step in steps:
        assert seen.issuperset(step.needs), step.name
        seen.add(step.name)
    named = {row.name for part in whole.parts for row in part.rows}
    assert named == {one.row for one in whole.measured}
    first_of_2 = next(k for k, step in enumerate(steps) if step.name.startswith("seed2/"))
    assert not any(step.name.startswith("seed1/") for step in steps[first_of_2:])


def test_what_failed_does_not_stop_what_does_not_need_it_and_is_tried_again(tmp_path, capsys):
    (tmp_path / "run.py").write_text(
        "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.parent.mkdir(exist_ok=True); "
        "f.exists() and sys.exit(0); f.touch(); sys.exit(int(sys.argv[2]))"
    )

    def step(name: str, code: int, *needs: str) -> Step:
        return Step(name, (str(tmp_path / "run.py"), str(tmp_path / "m" / name), str(code)), needs)

    steps = [step("bad", 3), step("after", 0, "bad"), step("good", 0)]
    runner = Runner(tmp_path, at_once=1)
    assert not runner.run(steps)
    assert runner.failed == ["bad"]
    assert runner.record(steps[1]) is None and runner.record(steps[2])
    assert "bad failed with exit code 3" in capsys.readouterr().out
    assert Runner(tmp_path, at_once=2).run(steps)
    with pytest.raises(SystemExit, match="made by another command"):
        runner.run([step("good", 1)])
    assert not Runner(tmp_path / "new", at_once=1, seconds=0).run(steps)


@pytest.mark.slow
def test_the_whole_experiment_runs_and_goes_on_after_a_limit(tmp_path):
    command = [sys.executable, str(FOLDER / "run.py"), str(tmp_path / "out"), "--scale", "smoke"]
    for more in (["--time-limit", "1", "--only", "a"], []):
        done = subprocess.run(
            [*command, *more], env=environment(), capture_output=True, text=True, timeout=3000
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    steps = result["steps"]
    assert result["done"] == f"{len(steps)} of {len(steps)} steps"
    assert str(tmp_path) not in json.dumps(result) and str(ROOT) not in json.dumps(result)
    whole = plan.experiment(SCALES["smoke"])
    for part in whole.parts:
        for row in part.rows:
            assert part.columns[0][1] in result["numbers"][row.name], row.name
    assert steps["seed1/train-baseline"]["updates"][-1] == 4
    for part in whole.parts:
        assert part.title in done.stdout
