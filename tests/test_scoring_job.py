"""What a job of vt-score is made of, and how a batch becomes records, without any model."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import BUILT_IN
from vt_fairseq.errors import UserError
from vt_fairseq.scoring import job, records, run
from vt_fairseq.scoring.classification import LabelClassification
from vt_fairseq.scoring.options import ScoreOptions
from vt_fairseq.scoring.scorers import DecoderQuery, Prediction
from vt_fairseq.scoring.windows import WindowBatch
from vt_fairseq.video.decoding import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

OPTIONS = ScoreOptions(kind="classify", data=Path("data"), path=Path("model.pt"), out=Path("out"))
VQA = replace(OPTIONS, kind="vqa")


class Rows(list):
    """Rows with the columns of a manifest."""

    path = Path("rows.arrow")

    def column(self, name: str):
        return (getattr(row, name) for row in self)


def opened(heads: list[str] | None = None, **task) -> SimpleNamespace:
    """A checkpoint as far as a job looks at it."""
    found = None if heads is None else SimpleNamespace(names=lambda: heads)
    return SimpleNamespace(
        task=SimpleNamespace(heads=found, prompt_table=lambda: BUILT_IN, **task),
        model=SimpleNamespace(encoder=SimpleNamespace(video_only=False)),
    )


def test_heads_are_in_use_where_there_are_any_unless_others_are_fused():
    fused = replace(OPTIONS, fuse=Path("heads.pt"))
    assert job._scorer_in_use(OPTIONS, opened()) == "decoder"
    assert job._scorer_in_use(OPTIONS, opened(["label"])) == "heads"
    assert job._scorer_in_use(fused, opened(["label"])) == "decoder"
    assert job._scorer_in_use(replace(OPTIONS, use="decoder"), opened(["label"])) == "decoder"
    with pytest.raises(UserError, match="has none"):
        job._scorer_in_use(replace(OPTIONS, use="heads"), opened())


def test_targets_are_those_of_the_heads_and_of_both_the_decoder_ranks_actions():
    heads, decoder = (replace(OPTIONS, use=use) for use in ("heads", "decoder"))
    both = opened(["verb", "noun"])
    assert job._targets_in_use(heads, [both]) == "verb,noun"
    assert job._targets_in_use(decoder, [both]) == "action"
    assert job._targets_in_use(heads, [opened(["noun"])]) == "noun"
    assert job._targets_in_use(heads, [opened(["label"])]) == "label"
    assert job._targets_in_use(decoder, []) == "label"
    assert job._targets_in_use(replace(VQA, use="decoder"), [both]) == ""


def test_the_decoder_is_asked_at_the_prompt_of_the_field_or_at_the_one_that_was_named():
    asked = replace(VQA, use="decoder")
    expected = [DecoderQuery("scores", BUILT_IN["answer"], None)]
    assert job._task_and_queries(asked, opened(), Rows())[1] == expected
    assert job._task_and_queries(replace(VQA, use="heads"), opened(["answer"]), Rows())[1] == []
    named = opened(selected_prompts=lambda name: [BUILT_IN[name]])
    query = job._task_and_queries(replace(asked, action="caption"), named, Rows())[1]
    assert query == [DecoderQuery("scores", BUILT_IN["caption"], None)]


def test_labels_and_the_number_of_the_best_go_to_the_task():
    options = replace(OPTIONS, use="heads", targets="label", labels=["a", "b"], top_k=2)
    task, queries = job._task_and_queries(options, opened(["label"]), Rows([ClipRow("0", "v")]))
    assert (task.candidates, task.top_k, queries) == (["a", "b"], 2, [])


@pytest.mark.parametrize(("pairs", "where"), [("seen", "the split train of "), ("labeled", "")])
def test_rows_without_verbs_and_nouns_are_named(pairs, where):
    data = SimpleNamespace(splits=["train", "valid"], manifest=lambda name: Rows())
    model = opened(["verb"], classes={"verb": ["cut"], "noun": ["door"]}, data=data)
    options = replace(OPTIONS, use="decoder", targets="action", pairs=pairs)
    with pytest.raises(UserError, match=f"no row of {where}data has a verb and a noun"):
        job._pairs(options, model)


def test_settings_hold_the_digest_of_every_file(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "rows.arrow").write_bytes(b"rows")
    rows = Rows()
    rows.path = tmp_path / "rows.arrow"
    options = replace(OPTIONS, path=tmp_path / "model.pt")
    settings = job._settings(options, rows, SimpleNamespace(candidates=["a"]), tmp_path)
    assert settings["path"] == hashlib.sha256(b"weights").hexdigest()
    assert settings["rows"] == hashlib.sha256(b"rows").hexdigest()
    assert settings["fuse"] is None and settings["video_root"] == str(tmp_path.resolve())


@pytest.mark.parametrize(("windows", "said"), [(1, None), (2, "of 2"), (10, "of 10 uniformly")])
def test_signatures_say_of_how_many_windows_a_score_is_the_mean(windows, said):
    found = job._signatures(replace(OPTIONS, use="decoder", windows=windows)).get("windows")
    assert (found is None) == (said is None) and (said or "") in (found or "")


def test_models_that_differ_in_training_alone_have_the_same_loader():
    def loading(**options) -> SimpleNamespace:
        transform = ClipTransform(24, train=False, **options)
        loader = ClipLoader(Path("videos"), FrameSampling(), transform, "center")
        data = SimpleNamespace(video_root=Path("videos"))
        return opened(data=data, clip_loader=lambda root, train: loader)

    plain = job._clip_loader(loading())
    assert plain == job._clip_loader(loading(flip_probability=0.0, scales=(1.0,)))
    assert plain != job._clip_loader(loading(whole=True))
    assert (plain.transform.size, plain.transform.train) == (24, False)


# --- from windows to records ----------------------------------------------------------------------


def test_batches_are_pending_of_which_some_row_has_no_scores(tmp_path):
    rows = Rows(ClipRow(name, "v") for name in "abcdefg")
    options = SimpleNamespace(out=tmp_path, restart=False, batch_size=2, split="test")
    asked = SimpleNamespace(options=options, settings={}, rows=rows, scorers=[])
    said: list[str] = []
    assert run._pending(asked, said.append) == [[0, 1], [2, 3], [4, 5], [6]]
    writer = records.PartWriter(tmp_path, 0)
    writer.append({"id": name, "scores": None if name == "e" else [1.0]} for name in "abcef")
    writer.close()
    assert run._pending(asked, said.append) == [[2, 3], [4, 5], [6]]
    assert said == ["7 clips of test, 0 done before", "7 clips of test, 2 done before"]


def batch(rows: list[int], *unread: int) -> WindowBatch:
    return WindowBatch(rows, [torch.tensor(rows)], [(row, "damaged") for row in unread])


def test_a_record_has_all_windows_of_its_row_and_one_that_cannot_be_read_makes_it_missing():
    rows = Rows(ClipRow(name, "v", label="x") for name in "abc")

    def scorer(of_rows, frames) -> list[Prediction]:
        likely = {"b": [0.9, 0.1], "c": [0.2, 0.8], "a": [0.5, 0.5]}
        assert [rows[k].id for k in frames] == [row.id for row in of_rows]
        return [Prediction({"scores": np.log(likely[row.id])}) for row in of_rows]

    task = LabelClassification(["x", "y"])
    asked = SimpleNamespace(rows=rows, scorers=[scorer], loader_of=[0], task=task)
    windows = [batch([0, 1, 2]), batch([1, 2], 0), batch([], 0)]
    found = run._records(asked, [0, 1, 2], windows[:2])
    assert [one["id"] for one in found] == ["a", "b", "c"]
    assert found[0]["scores"] is None and found[1]["ranks"] == {"label": 1}
    assert np.exp(found[2]["scores"]) == pytest.approx([0.2, 0.8])
    assert run._records(asked, [0], windows[2:]) == [task.missing(rows[0])]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_finite_number_names_its_row(score):
    rows = Rows([ClipRow("a", "v")])
    asked = SimpleNamespace(
        rows=rows,
        scorers=[lambda *_: [Prediction({"scores": np.array([0.0, score])})]],
        loader_of=[0],
        task=LabelClassification(["x", "y"]),
    )
    with pytest.raises(UserError, match="a"):
        run._records(asked, [0], [batch([0])])
