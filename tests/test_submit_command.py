"""vt-submit: the archives are what the servers' own descriptions ask for."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.corpora import write_jsonl
from vt_fairseq.cli import submit
from vt_fairseq.corpora.epic_kitchens import read_classes
from vt_fairseq.evaluation.submissions.archive import TVQA_META


@pytest.fixture
def run(tmp_path, call_main):
    """Run the command; return exit code, {member: text} (None without archive), stdout, stderr."""

    def call(server: str, annotations: Path, predictions: dict[str, list], *more):
        archive = tmp_path / "out" / "submission.zip"
        files = [
            f"{split}={write_jsonl(tmp_path / f'{split}.jsonl', *rows)}"
            for split, rows in predictions.items()
        ]
        arguments = ["--annotations", annotations, "--out", archive, "--predictions", *files, *more]
        code, out, err = call_main(submit.main, server, *arguments)
        if not archive.exists():
            return code, None, out, err
        with zipfile.ZipFile(archive) as members:
            texts = {name: members.read(name).decode() for name in members.namelist()}
        return code, texts, out, err

    return call


# --- TVQA ----------------------------------------------------------------------------------------


@pytest.fixture
def tvqa(tmp_path) -> Path:
    folder = tmp_path / "tvqa"
    write_jsonl(folder / "tvqa_val.jsonl", *({"qid": q, "answer_idx": 0} for q in (122039, 122040)))
    write_jsonl(folder / "tvqa_test_public.jsonl", *({"qid": q} for q in (137292, 137294, 137295)))
    return folder


@pytest.fixture
def meta(tmp_path) -> Path:
    return write_jsonl(
        tmp_path / "meta.json", dict.fromkeys(TVQA_META, "x") | {"is_ensemble": False}
    )


def test_tvqa_takes_an_index_a_question_and_a_description(run, tvqa, meta):
    valid = [{"id": "122039", "prediction": 3, "scores": [0.0, -1.0]}]
    test = [{"id": "137295", "prediction": 4}, {"id": "137292", "prediction": None}]
    code, found, out, _ = run("tvqa", tvqa, {"valid": valid, "test": test}, "--meta", meta)
    assert code == 0
    # The names that MERLOT Reserve's submission script gives them, and no folder around them.
    assert list(found) == ["prediction_val.json", "prediction_test_public.json", "meta.json"]
    assert json.loads(found["prediction_val.json"]) == {"122039": 3, "122040": 0}
    answers = json.loads(found["prediction_test_public.json"])
    assert answers == {"137292": 0, "137294": 0, "137295": 4}
    assert json.loads(found["meta.json"])["is_ensemble"] is False
    assert "prediction_val.json: 2 clips, 1 without a prediction" in out
    assert "prediction_test_public.json: 3 clips, 2 without a prediction" in out


def test_the_same_predictions_make_the_same_archive(run, tvqa, meta, tmp_path):
    made = []
    for _ in range(2):
        run("tvqa", tvqa, {"valid": [], "test": []}, "--meta", meta)
        made.append((tmp_path / "out" / "submission.zip").read_bytes())
    assert made[0] == made[1]


# --- TVC -----------------------------------------------------------------------------------------


def test_tvc_takes_the_moment_with_one_description(run, tmp_path):
    folder = tmp_path / "tvc"
    moment = {"vid_name": "friends_s01e03_seg02_clip_19", "ts": [16.48, 33.87], "duration": 61.46}
    write_jsonl(folder / "tvc_val_release.jsonl", moment | {"clip_id": 86603, "descs": []})
    clips = [moment | {"clip_id": clip, "ts": [0, 2.29]} for clip in (102866, 102867, 102868)]
    write_jsonl(folder / "tvc_test_public_release.jsonl", *clips)
    test = [
        {"id": "102867", "prediction": "a man\nopens  a “door” ."},
        {"id": "102866", "prediction": ""},
    ]
    valid = [{"id": "86603", "prediction": "x"}]
    code, found, out, _ = run("tvc", folder, {"test": test, "valid": valid})
    assert code == 0
    assert list(found) == ["tvc_val_submission.jsonl", "tvc_test_public_submission.jsonl"]
    assert json.loads(found["tvc_val_submission.jsonl"]) == {
        "vid_name": "friends_s01e03_seg02_clip_19",
        "clip_id": 86603,
        "ts": [16.48, 33.87],
        "descs": [{"desc": "x"}],
    }
    lines = [json.loads(line) for line in found["tvc_test_public_submission.jsonl"].splitlines()]
    assert [line["clip_id"] for line in lines] == [102866, 102867, 102868]
    # An empty line is lost by the official scorer, so it becomes a full stop.
    assert [line["descs"] for line in lines] == [
        [{"desc": "."}], [{"desc": "a man opens a “door” ."}], [{"desc": "."}],
    ]  # fmt: skip
    assert "tvc_test_public_submission.jsonl: 3 clips, 1 without a prediction" in out


@pytest.mark.data
def test_tvcs_sample_file_is_made_again_from_its_captions(run, test_data, tmp_path):
    folder, own = test_data / "annotations" / "tvc", tmp_path / "annotations"
    sample = (folder / "sample_val_predictions.jsonl").read_text("utf-8").splitlines()
    sample = [json.loads(line) for line in sample]
    write_jsonl(own / "tvc_val_release.jsonl", *(row | {"descs": []} for row in sample))
    (own / "tvc_test_public_release.jsonl").symlink_to(folder / "tvc_test_public_release.jsonl")
    valid = [{"id": str(row["clip_id"]), "prediction": row["descs"][0]["desc"]} for row in sample]
    _, found, out, _ = run("tvc", own, {"valid": valid, "test": []})
    made = [json.loads(line) for line in found["tvc_val_submission.jsonl"].splitlines()]
    assert made == sample
    assert "tvc_test_public_submission.jsonl: 5,420 clips, 5,420 without a prediction" in out


# --- EPIC-Kitchens -------------------------------------------------------------------------------


@pytest.fixture
def epic(tmp_path) -> Path:
    folder = tmp_path / "epic"
    folder.mkdir()
    for kind, count in (("verb", 12), ("noun", 15)):
        rows = [f"{k},the:{kind}-{k},[]" for k in range(count)]
        header = f"{kind}_id,class_key,{kind}s"
        (folder / f"EPIC_{kind}_classes.csv").write_text("\n".join([header, *rows]) + "\n")
    for split, uids in (("s1", (1924, 1925)), ("s2", (9969,))):
        lines = ["uid,participant_id", *(f"{uid},P01" for uid in uids)]
        (folder / f"EPIC_test_{split}_timestamps.csv").write_text("\n".join(lines) + "\n")
    return folder


def epic_row(uid: str, seed: int) -> tuple[dict, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    verbs, nouns = rng.normal(size=12), rng.normal(size=15)
    return {"id": uid, "verb": verbs.tolist(), "noun": nouns.tolist()}, verbs, nouns


def test_epic_kitchens_takes_scores_of_all_classes_and_of_a_hundred_actions(run, epic):
    row, verbs, nouns = epic_row("1925", 0)
    code, found, out, _ = run("epic-kitchens", epic, {"test_s1": [row], "test_s2": []})
    assert code == 0
    assert list(found) == ["seen.json", "unseen.json"]
    seen = json.loads(found["seen.json"])
    assert (seen["version"], seen["challenge"]) == ("0.1", "action_recognition")
    assert list(seen["results"]) == ["1924", "1925"]
    assert list(json.loads(found["unseen.json"])["results"]) == ["9969"]
    result = seen["results"]["1925"]
    assert result["verb"] == {str(k): pytest.approx(v, abs=1e-6) for k, v in enumerate(verbs)}
    assert result["noun"] == {str(k): pytest.approx(v, abs=1e-6) for k, v in enumerate(nouns)}
    assert len(result["action"]) == 100
    p = np.outer(np.exp(verbs) / np.exp(verbs).sum(), np.exp(nouns) / np.exp(nouns).sum())
    for score, best in zip(result["action"].values(), np.sort(p.ravel())[::-1], strict=False):
        assert score == pytest.approx(np.log(best), abs=1e-6)
    for pair, score in result["action"].items():
        verb, noun = map(int, pair.split(","))
        assert score == pytest.approx(np.log(p[verb, noun]), abs=1e-6)
    unscored = seen["results"]["1924"]
    assert (set(unscored["verb"].values()), len(unscored["action"])) == ({0.0}, 100)
    assert "seen.json: 2 clips, 1 without a prediction" in out


def test_scores_by_class_name_are_those_of_a_list(run, epic):
    row, _, _ = epic_row("9969", 1)
    _, expected, _, _ = run("epic-kitchens", epic, {"test_s1": [], "test_s2": [row]})
    named = {"id": "9969"}
    for kind in ("verb", "noun"):
        names = read_classes(epic, kind)
        assert names[3] == f"{kind} 3 the"
        named[kind] = dict(reversed(list(zip(names, row[kind], strict=True))))
    _, found, _, _ = run("epic-kitchens", epic, {"test_s1": [], "test_s2": [named]})
    assert found == expected


def test_fewer_pairs_than_a_hundred_are_all_taken(run, epic):
    for kind in ("verb", "noun"):
        path = epic / f"EPIC_{kind}_classes.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    row = {"id": "9969", "verb": [1, 2, 3], "noun": [10, 30, 20]}
    _, found, _, _ = run("epic-kitchens", epic, {"test_s1": [], "test_s2": [row]})
    actions = json.loads(found["unseen.json"])["results"]["9969"]["action"]
    assert list(actions) == ["2,1", "1,1", "0,1", "2,2", "1,2", "0,2", "2,0", "1,0", "0,0"]


def test_a_rows_own_action_scores_are_taken(run, epic):
    row, _, _ = epic_row("9969", 1)
    pairs = [(v, n) for v in range(12) for n in range(15)][:120]
    names = [(f"verb {v} the", f"noun {n} the") for v, n in pairs]
    row["action"] = [[v, n, -float(k % 7)] for k, (v, n) in enumerate(names)]
    _, found, _, _ = run("epic-kitchens", epic, {"test_s1": [], "test_s2": [row]})
    actions = json.loads(found["unseen.json"])["results"]["9969"]["action"]
    best = sorted(range(120), key=lambda k: k % 7)[:100]
    assert actions == {f"{pairs[k][0]},{pairs[k][1]}": -float(k % 7) for k in best}


@pytest.mark.data
def test_epic_kitchens_real_classes_and_segments_fit(run, test_data, tmp_path):
    official, folder = test_data / "annotations" / "epic_kitchens_55", tmp_path / "epic"
    folder.mkdir()
    for kind in ("verb", "noun"):
        (folder / f"EPIC_{kind}_classes.csv").symlink_to(official / f"EPIC_{kind}_classes.csv")
    for name in ("EPIC_test_s1_timestamps.csv", "EPIC_test_s2_timestamps.csv"):
        head = (official / name).read_text().splitlines()[:4]
        (folder / name).write_text("\n".join(head) + "\n")
    rng = np.random.default_rng(0)
    row = {"id": "1924", "verb": {n: rng.normal() for n in read_classes(folder, "verb")}}
    row["noun"] = {n: rng.normal() for n in read_classes(folder, "noun")}
    code, found, _, err = run("epic-kitchens", folder, {"test_s1": [row], "test_s2": []})
    assert (code, err) == (0, "")
    result = json.loads(found["seen.json"])["results"]["1924"]
    assert (len(result["verb"]), len(result["noun"]), len(result["action"])) == (125, 352, 100)
    assert result["noun"]["2"] == pytest.approx(row["noun"]["dust pan"], abs=1e-6)
    assert result["verb"]["12"] == pytest.approx(row["verb"]["turn on"], abs=1e-6)


# --- mistakes ------------------------------------------------------------------------------------

SCORES = {"verb": [0] * 12, "noun": [0] * 15}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1"}, "id '1' is not in the official test_s1 split"),
        ({"id": 1924}, "line 1: expected an object with an id that is text"),
        ({"verb": [0] * 11}, "'verb': a finite score for each of the 12 verb classes"),
        ({"noun": [float("nan")] * 15}, "'noun': a finite score for each of the 15 noun classes"),
        ({"verb": {"wash": 1}}, "line 1: 'wash' is no verb class"),
        ({"verb": {"verb 3 the": 1}}, "a finite score for each of the 12 verb classes"),
        ({"action": [["verb 3 the", "noun 1 the", 0]]}, "at least 100 distinct lists of a verb"),
        ({"action": [[["verb 3 the"], "noun 1 the", 0]] * 100}, "at least 100 distinct lists"),
    ],
)
def test_a_mistake_in_epics_scores_ends_in_one_line_and_no_archive(run, epic, row, message):
    rows = [{"id": "1924", **SCORES, **row}]
    code, found, _, err = run("epic-kitchens", epic, {"test_s1": rows, "test_s2": []})
    assert (code, found, len(err.splitlines())) == (2, None, 1)
    assert message in err


@pytest.mark.parametrize(
    ("predictions", "more", "message"),
    [
        ({"valid": []}, [], "wants predictions of valid and test, found valid"),
        ({"valid": [], "test": [], "train": []}, [], "found valid and test and train"),
        ({"valid": [], "test": []}, [], "wants --meta FILE: JSON with model_name, is_ensemble"),
        ({"valid": [], "test": []}, ["--meta", "gone.json"], "no file gone.json"),
        ({"valid": [], "test": []}, ["--predictions", "valid"], "SPLIT=FILE once per split"),
        ({"valid": [], "test": [{"prediction": 5}]}, None, "a candidate, 0 to 4, found 5"),
        ({"valid": [], "test": [{}]}, None, "the index of a candidate, 0 to 4, found None"),
    ],
)
def test_a_mistake_in_the_command_ends_in_one_line_and_no_archive(
    run, tvqa, meta, predictions, more, message
):
    more = ["--meta", meta] if more is None else more
    predictions = {k: [{"id": "137292"} | row for row in rows] for k, rows in predictions.items()}
    code, found, _, err = run("tvqa", tvqa, predictions, *more)
    assert (code, found, len(err.splitlines())) == (2, None, 1)
    assert message in err


def test_descriptions_and_annotations_that_do_not_fit_are_named(run, tvqa, tmp_path, meta):
    predictions = {"valid": [], "test": []}
    for text in ("{", "[]", '{"model_name": "x"}'):
        bad = write_jsonl(tmp_path / "bad.json", text)
        code, found, _, err = run("tvqa", tvqa, predictions, "--meta", bad)
        assert (code, found) == (2, None) and "bad.json: expected" in err
    _, _, _, err = run("tvc", tmp_path, predictions)
    assert "no tvc_val_release.jsonl in" in err and "it is published at" in err
    _, _, _, err = run("tvc", tmp_path, predictions, "--meta", meta)
    assert "the server takes no --meta" in err
