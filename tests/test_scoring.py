"""Scoring: records on disk, verb-noun pairs, generated answers matched to candidates."""

import json
import math

import numpy as np
import pytest

from vt_fairseq.candidates.top_k import Top
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.scoring import records
from vt_fairseq.scoring.answers import MultipleChoice, match
from vt_fairseq.scoring.classification import (
    LabelClassification,
    VerbNounClassification,
    VerbNounPairs,
)
from vt_fairseq.scoring.retrieval import Retrieval
from vt_fairseq.scoring.run import Processes, joined_processes
from vt_fairseq.scoring.scorers import Prediction

LOG = np.log
VERBS, NOUNS = ["cut", "open", "wash"], ["door", "onion"]
SETTINGS = {"path": "abc", "windows": 1}


def record(name: str, scores) -> dict:
    return {"id": name, "scores": scores}


def written(folder, rank: int, *batches) -> None:
    writer = records.PartWriter(folder, rank)
    for batch in batches:
        writer.append(batch)
    writer.close()


def test_records_of_several_processes_are_merged_in_the_order_of_the_rows(tmp_path):
    records.prepare_folder(tmp_path, SETTINGS, restart=False)
    written(tmp_path, 1, [record("c", [3.0]), record("d", [4.0])])
    written(tmp_path, 0, [record("a", [1.0])], [record("b", None)])
    records.merge_records(tmp_path, ["a", "b", "c", "d"])
    assert [r["id"] for r in records.read_records(tmp_path)] == ["a", "b", "c", "d"]
    assert [r["scores"] for r in records.read_records(tmp_path)] == [[1.0], None, [3.0], [4.0]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.jsonl", "settings.json"]


def test_what_a_kill_cut_off_is_not_a_record_and_does_not_spoil_the_next(tmp_path):
    written(tmp_path, 0, [record("a", [1.0])])
    part = tmp_path / "scores.part0.jsonl"
    whole = part.read_bytes()
    for cut in (b'{"id": "b", "sco', b'{"id": "b", "scores": [2.0]}'):
        part.write_bytes(whole + cut)
        assert list(records.locate_records(tmp_path)) == ["a"]
        written(tmp_path, 0, [record("c", [3.0])])
        assert list(records.locate_records(tmp_path)) == ["a", "c"]
    part.write_bytes(b'{"id"')
    written(tmp_path, 0)
    assert part.read_bytes() == b""


def test_a_row_that_could_be_read_at_last_replaces_its_missing_record(tmp_path):
    written(tmp_path, 0, [record("a", None), record("b", [2.0])])
    locations = records.locate_records(tmp_path)
    assert not locations["a"].scored and locations["b"].scored
    written(tmp_path, 1, [record("a", [1.0]), record("b", None)])
    records.merge_records(tmp_path, ["a", "b"])
    assert [r["scores"] for r in records.read_records(tmp_path)] == [[1.0], [2.0]]


def test_scores_of_other_settings_are_refused_by_name_or_thrown_away(tmp_path):
    records.prepare_folder(tmp_path, SETTINGS, restart=False)
    records.prepare_folder(tmp_path, SETTINGS, restart=False)
    written(tmp_path, 0, [record("a", [1.0])])
    with pytest.raises(UserError, match=r"other settings \(fuse, windows\)"):
        records.prepare_folder(tmp_path, {"path": "abc", "windows": 10, "fuse": "x"}, restart=False)
    records.prepare_folder(tmp_path, {"path": "abc", "windows": 10}, restart=True)
    assert not records.locate_records(tmp_path)
    assert json.loads((tmp_path / "settings.json").read_text())["windows"] == 10


def test_scores_of_unknown_settings_and_damaged_files_are_refused(tmp_path):
    (tmp_path / "scores.jsonl").write_text('{"id": "a", "scores": [1]}\n')
    with pytest.raises(UserError, match=r"no settings.json"):
        records.prepare_folder(tmp_path, SETTINGS, restart=False)
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        records.prepare_folder(tmp_path, SETTINGS, restart=False)
    (tmp_path / "scores.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="no record"):
        records.locate_records(tmp_path)


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(ValueError):
        records.as_line(record("a", [float("nan")]))


def test_seen_pairs_are_those_of_the_rows_once_each_in_the_order_of_the_classes():
    seen = [("wash", "onion"), ("cut", "onion"), ("wash", "onion"), (None, "door"), ("cut", None)]
    pairs = VerbNounPairs.of_rows(VERBS, NOUNS, seen)
    assert pairs.texts() == ["cut onion", "wash onion"]
    every = VerbNounPairs.every(VERBS, NOUNS)
    assert len(every) == 6 and every.texts()[3] == "open onion"
    assert len(VerbNounPairs.of_rows(VERBS, NOUNS, [])) == 0


def test_a_verbs_probability_is_the_sum_over_its_pairs():
    pairs = VerbNounPairs.of_rows(
        VERBS, NOUNS, [("cut", "door"), ("cut", "onion"), ("wash", "onion")]
    )
    scores = LOG([0.1, 0.3, 0.6])
    assert np.exp(pairs.verb_scores(scores)) == pytest.approx([0.4, 0.0, 0.6])
    assert np.exp(pairs.noun_scores(scores)) == pytest.approx([0.1, 0.9])
    assert pairs.verb_scores(scores)[1] == -math.inf


def test_a_pairs_probability_is_the_product_over_the_pairs_that_there_are():
    verbs, nouns = LOG([0.5, 0.3, 0.2]), LOG([0.9, 0.1])
    every = VerbNounPairs.every(VERBS, NOUNS)
    assert np.exp(every.product(verbs, nouns)) == pytest.approx(
        [0.45, 0.05, 0.27, 0.03, 0.18, 0.02]
    )
    # Logits mean the same as probabilities.
    assert every.product(verbs + 4, nouns - 1) == pytest.approx(every.product(verbs, nouns))
    some = VerbNounPairs.of_rows(VERBS, NOUNS, [("cut", "onion"), ("wash", "door")])
    assert np.exp(some.product(verbs, nouns)) == pytest.approx([0.05 / 0.23, 0.18 / 0.23])


@pytest.mark.parametrize(
    ("generated", "index", "how"),
    [
        ("a RED cat.", 1, "exact"),
        ('"the dog"  ', 0, "exact"),
        ("the big dog", 0, "overlap"),  # 2 of 2 words; "a red cat" has none
        ("a cat", 1, "overlap"),
        ("nothing of it", 2, "likelihood"),
        ("", 2, "likelihood"),
    ],
)
def test_a_generated_answer_stands_for_the_candidate_that_is_most_like_it(generated, index, how):
    candidates = ["the dog", "a red cat", "some bird", "the dog!"]
    scores = np.array([-4.0, -9.0, -1.0, -5.0])
    assert match(generated, candidates, scores) == (index, how)


def test_of_candidates_that_are_as_much_alike_the_likeliest_is_taken():
    assert match("red", ["red cat", "red dog"], np.array([-2.0, -1.0])) == (1, "overlap")
    assert match("red", ["red", "Red"], np.array([-1.0, -1.0])) == (0, "exact")


# --- classes --------------------------------------------------------------------------------------


def results(folder, task, rows, records_) -> tuple[dict, list[dict], list[dict]]:
    """Metrics, predictions and the accuracy of each class."""
    metrics = task.finish(folder, rows, records_)
    files = (folder / name for name in ("predictions.jsonl", "classes.jsonl"))
    return metrics, *([json.loads(line) for line in f.read_text().splitlines()] for f in files)


def test_labels_are_ranked_in_the_mean_of_the_windows_and_models(tmp_path):
    task = LabelClassification(["a", "b", "c"])
    rows = [ClipRow(str(k), "v", label=label) for k, label in enumerate(("b", "c", None, "a"))]
    windows = [Prediction({"scores": LOG([0.5, 0.3, 0.2])}, caption="one")]
    windows += [Prediction({"scores": LOG([0.1, 0.6, 0.3])}, caption="two")]
    other = [Prediction({"scores": LOG([0.2, 0.2, 0.6])})] * 2
    found = [task.record(row, [windows, other]) for row in rows[:3]]
    assert np.exp(found[0]["scores"]) == pytest.approx([0.25, 0.325, 0.425])
    assert [one["ranks"] for one in found] == [{"label": 2}, {"label": 1}, {}]
    assert found[0]["captions"] == ["one", "two"] and found[0]["id"] == "0"
    metrics, predictions, classes = results(tmp_path, task, rows, [*found, task.missing(rows[3])])
    assert (metrics["n"], metrics["missing"]) == (3, 1)
    assert metrics["accuracy"] == metrics["top1"] == pytest.approx(100 / 3)
    assert metrics["top5"] == pytest.approx(200 / 3)
    assert predictions[0] == {"id": "0", "prediction": "c", "ranking": ["c", "b", "a"]}
    assert predictions[3] == {"id": "3", "prediction": None, "ranking": []}
    assert {one["class"]: one["accuracy"] for one in classes} == {"b": 0, "c": 100, "a": 0}
    task.check(rows)
    with pytest.raises(UserError, match=r"1 labels of the split are no candidates, .* 'd'"):
        task.check([*rows, ClipRow("4", "v", label="d")])


def test_of_the_best_labels_alone_the_ranks_of_others_are_unknown(tmp_path):
    task = LabelClassification(["a", "b", "c"], top_k=2)
    top = Prediction(top=Top(np.array([2, 0]), LOG([0.6, 0.3])))
    rows = [ClipRow(label, "v", label=label) for label in "acb"]
    found = [task.record(row, [[top]]) for row in rows]
    assert [one["ranks"]["label"] for one in found] == [2, 1, None]
    assert found[0]["top"] == [["c", math.log(0.6)], ["a", math.log(0.3)]]
    metrics, predictions, _ = results(tmp_path, task, rows, found)
    assert metrics["top1"] == pytest.approx(100 / 3) and "top5" not in metrics
    assert predictions[1] == {"id": "c", "prediction": "c", "ranking": ["c", "a"]}


def test_an_action_is_a_verb_and_a_noun_of_which_each_has_its_rank(tmp_path):
    pairs = VerbNounPairs.of_rows(VERBS, NOUNS, [("cut", "onion"), ("open", "door")])
    task = VerbNounClassification(pairs, ["verb", "noun"])
    rows = [ClipRow("0", "v", verb="open", noun="door"), ClipRow("1", "v", verb="cut", noun="door")]
    rows += [ClipRow("2", "v", verb="wash")]
    found = [task.record(row, [[Prediction({"action": LOG([0.7, 0.3])})]]) for row in rows]
    assert found[0]["ranks"] == {"verb": 2, "noun": 2, "action": 2}
    assert found[1]["ranks"] == {"verb": 1, "noun": 2, "action": None}  # no such pair
    assert found[2]["ranks"] == {"verb": 3}
    assert [entry[:2] for entry in found[0]["action"]] == [["cut", "onion"], ["open", "door"]]
    metrics, predictions, classes = results(tmp_path, task, rows, found)
    assert metrics["verb_top1"] == pytest.approx(100 / 3) and metrics["action_top1"] == 0
    assert metrics["action_not_a_candidate"] == 1
    assert predictions[0]["verb"] == "cut" and predictions[0]["noun_ranking"] == ["onion", "door"]
    assert predictions[0]["action_ranking"] == [["cut", "onion"], ["open", "door"]]
    assert {"open door", "cut door"} < {one["class"] for one in classes}


def test_of_the_best_actions_alone_verb_and_noun_are_those_of_the_first(tmp_path):
    pairs = VerbNounPairs.every(VERBS, NOUNS)
    task = VerbNounClassification(pairs, ["verb", "noun"], top_k=2)
    top = Prediction(top=Top(np.array([5, 0]), LOG([0.6, 0.3])))
    row = ClipRow("0", "v", verb="wash", noun="onion")
    found = task.record(row, [[top]])
    assert found == {
        "id": "0",
        "action": [["wash", "onion", math.log(0.6)], ["cut", "door", math.log(0.3)]],
        "ranks": {"action": 1},
    }
    rows = [row, ClipRow("1", "v", verb="wash", noun="door")]
    metrics, predictions, _ = results(tmp_path, task, rows, [found, task.missing(rows[1])])
    assert metrics == {"action_top1": 50, "action_mean_class_accuracy": 50, "n": 2, "missing": 1}
    assert (predictions[0]["verb"], predictions[0]["noun"]) == ("wash", "onion")
    assert (predictions[1]["verb"], predictions[1]["action_ranking"]) == (None, [])


def test_a_verb_alone_is_no_action():
    pairs = VerbNounPairs.every(VERBS, NOUNS)
    task = VerbNounClassification(pairs, ["verb"])
    row = ClipRow("0", "v", verb="open", noun="door")
    found = task.record(row, [[Prediction({"verb": LOG([0.5, 0.3, 0.2])})]])
    assert found["ranks"] == {"verb": 2} and "action" not in found
    assert task.missing(row) == {"id": "0", "verb": None, "ranks": {"verb": None}}


def test_without_torchrun_there_is_one_process_which_waits_for_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with joined_processes() as processes:
        assert processes == Processes(rank=0, count=1) and processes.first
        assert processes.from_first("value") == "value"
        processes.wait()


# --- equal texts ----------------------------------------------------------------------------------


def test_of_clips_with_equal_captions_each_has_its_own_right_one_and_their_rows_are_counted(
    tmp_path,
):
    texts = ("a dog runs", "a cat", " a dog  runs", "A dog runs")
    rows = [ClipRow(str(k), "v", captions=(text, "a cat")) for k, text in enumerate(texts)]
    # Clip by caption. The first and the third caption have one column.
    matrix = [[9, 1, 9, 0], [2, 9, 2, 0], [8, 1, 8, 0], [1, 1, 1, 9]]
    found = Retrieval().finish(
        tmp_path, rows, (record(str(k), list(map(float, own))) for k, own in enumerate(matrix))
    )
    assert found["equal_captions"] == 2
    assert found["r1"] == 75  # the third caption finds the first clip
    assert found["v2t_r1"] == 50  # clips 0 and 2 lose the tie with the other's caption
    assert "equal_captions" not in Retrieval().finish(
        tmp_path, rows[1:], (record(str(k), [0.0] * 3) for k in (1, 2, 3))
    )


def test_of_equal_candidates_the_first_is_predicted_and_their_rows_are_counted(tmp_path):
    rows = [
        ClipRow("0", "v", candidates=("red", "blue", "red "), answer=2),
        ClipRow("1", "v", candidates=("red", "blue", "Red"), answer=0),
        ClipRow("2", "v", candidates=("red", "red"), answer=0),
    ]
    scores = [[-1.0, -2.0, -1.0], [-1.0, -2.0, -3.0], [-1.0, -1.0]]
    records_ = [record(row.id, own) for row, own in zip(rows, scores, strict=True)]
    found = MultipleChoice().finish(tmp_path, rows, records_)
    assert (found["equal_candidates"], found["accuracy"]) == (2, pytest.approx(100 * 2 / 3))
    written_ = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in written_] == [0, 0, 0]
