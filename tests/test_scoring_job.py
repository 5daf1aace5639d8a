"""What a job of vt-score is made of, and how windows become records, without any model."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.top_k import Top
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import BUILT_IN
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.scoring import job, scorers
from vt_fairseq.scoring.classification import LabelClassification
from vt_fairseq.scoring.options import ScoreOptions
from vt_fairseq.scoring.run import score
from vt_fairseq.scoring.scorers import DecoderQuery, DecoderScorer, HeadScorer, Prediction
from vt_fairseq.video.decoding import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

CLASSES = {"verb": ["cut", "wash"], "noun": ["door"], "label": ["x", "y"]}


class Rows(list):
    """Rows with what a manifest has beside them."""

    path = Path("rows.arrow")

    def column(self, name: str):
        return (getattr(row, name) for row in self)


def checkpoint(heads: str = "", rows: Rows | None = None, **transform) -> SimpleNamespace:
    """A model with such heads, as far as a job looks at it."""
    rows = rows or Rows([ClipRow("0", "v", label="x", verb="cut", noun="door")])
    loader = ClipLoader(
        Path("videos"), FrameSampling(), ClipTransform(24, train=False, **transform), "center"
    )
    data = SimpleNamespace(
        splits=["train", "test"], manifest=lambda name: rows, video_root=Path("videos")
    )
    task = SimpleNamespace(
        heads=SimpleNamespace(names=lambda: heads.split(",")) if heads else None,
        data=data,
        classes=CLASSES,
        tokenizer=SimpleNamespace(encode=lambda text: [len(text)]),
        clip_loader=lambda root, train: loader,
        prompt_table=lambda: BUILT_IN,
        selected_prompts=lambda name="classify": [BUILT_IN[name]],
        text_options=lambda: None,
        warn_of_unknown_text=lambda *_: None,
    )
    return SimpleNamespace(
        task=task, model=SimpleNamespace(encoder=SimpleNamespace(video_only=False))
    )


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """(models by the names of their files, options) -> the job."""

    def prepare(models: dict[str, SimpleNamespace], kind: str = "classify", **options) -> job.Job:
        monkeypatch.setattr(job, "open_checkpoint", lambda path, **_: models[path.name])
        for name in models:
            (tmp_path / name).write_text(name)
        (tmp_path / "rows").write_text("rows")
        Rows.path = tmp_path / "rows"
        asked = ScoreOptions(
            kind, tmp_path, tmp_path / next(iter(models)), tmp_path / "out", device="cpu"
        )
        return job.prepare(replace(asked, **options))

    return prepare


@pytest.mark.parametrize(
    ("heads", "options", "use", "targets"),
    [
        ("", {}, "decoder", "label"),
        ("", {"targets": "action"}, "decoder", "action"),
        ("label", {}, "heads", "label"),
        ("noun", {}, "heads", "noun"),
        ("verb,noun", {}, "heads", "verb,noun"),
        ("verb,noun", {"use": "decoder"}, "decoder", "label"),
    ],
)
def test_heads_are_in_use_where_there_are_any_and_targets_are_theirs(
    prepared, heads, options, use, targets
):
    found = prepared({"model": checkpoint(heads)}, **options)
    assert (found.options.use, found.options.targets) == (use, targets)
    assert isinstance(found.scorers[0], HeadScorer if use == "heads" else DecoderScorer)


def test_with_fused_heads_the_decoder_ranks_what_they_are_for(prepared, tmp_path):
    models = {"model": checkpoint(), "heads": checkpoint("verb,noun")}
    found = prepared(models, fuse=tmp_path / "heads")
    assert (found.options.use, found.options.targets) == ("decoder", "action")
    assert [type(scorer) for scorer in found.scorers] == [DecoderScorer, HeadScorer]
    assert found.settings["fuse"] == hashlib.sha256(b"heads").hexdigest()


def test_heads_that_are_not_there_are_not_used(prepared):
    with pytest.raises(UserError, match=r"--use heads: .* has none"):
        prepared({"model": checkpoint()}, use="heads")


def test_the_decoder_is_asked_at_the_prompt_of_the_field_or_at_the_one_that_was_named(prepared):
    def queries(**options) -> list[DecoderQuery]:
        return prepared({"model": checkpoint()}, **options).scorers[0].queries

    assert queries(kind="vqa") == [DecoderQuery("scores", BUILT_IN["answer"], None)]
    assert queries(kind="vqa", action="caption")[0].prompt == BUILT_IN["caption"]
    (labels,) = queries()
    assert (labels.key, labels.prompt) == ("scores", BUILT_IN["classify"])
    (actions,) = queries(targets="action")
    assert (actions.key, len(actions.tree.leaves)) == ("action", 1)


def test_labels_and_the_number_of_the_best_go_to_the_task(prepared):
    found = prepared({"model": checkpoint()}, labels=["x", "z"], top_k=2)
    assert (found.task.candidates, found.task.top_k) == (["x", "z"], 2)


@pytest.mark.parametrize(("pairs", "where"), [("seen", "the split train of "), ("labeled", "")])
def test_rows_without_verbs_and_nouns_are_named(prepared, tmp_path, pairs, where):
    model = checkpoint(rows=Rows([ClipRow("0", "v", verb="cut")]))
    with pytest.raises(UserError, match=f"no row of {where}{tmp_path} has a verb and a noun"):
        prepared({"model": model}, targets="action", pairs=pairs)


def test_settings_hold_the_digest_of_every_file(prepared):
    settings = prepared({"model": checkpoint()}).settings
    for name, content in (("path", b"model"), ("rows", b"rows")):
        assert settings[name] == hashlib.sha256(content).hexdigest()
    assert settings["fuse"] is None and settings["video_root"] == str(Path("videos").resolve())


@pytest.mark.parametrize(("windows", "said"), [(1, None), (2, "of 2"), (10, "of 10 uniformly")])
def test_signatures_say_of_how_many_windows_a_score_is_the_mean(prepared, windows, said):
    found = prepared({"model": checkpoint()}, windows=windows).signatures.get("windows")
    assert (found is None) == (said is None) and (said or "") in (found or "")


def test_models_that_differ_in_training_alone_decode_once(prepared, tmp_path):
    def loaders(**transform) -> list[ClipLoader]:
        models = {"model": checkpoint(), "heads": checkpoint("label", **transform)}
        return prepared(models, fuse=tmp_path / "heads", targets="label").loaders

    (loader,) = loaders(flip_probability=0.0, scales=(1.0,))
    assert (loader.transform.size, loader.transform.train) == (24, False)
    assert len(loaders(whole=True)) == 2


@pytest.mark.parametrize("top_k", [None, 1])
def test_all_candidates_are_scored_or_the_best_alone_are_looked_for(monkeypatch, top_k):
    tree = PrefixTree.build([[4], [5, 6]])
    best = Top(np.array([1]), np.array([-0.5]))
    encoded = {"encoder_out": []}

    class Encoder:
        def video(self, frames):
            return torch.zeros(len(frames), 1, 4)

        def __call__(self, **inputs):
            return encoded

    model = SimpleNamespace(encoder=Encoder())

    def top_candidates(*asked) -> list[Top]:
        assert asked == (model, encoded, scorer.bounds["scores"], 1, 2048)
        return [best]

    def score_candidates(*asked) -> list[np.ndarray]:
        assert asked == (model, encoded, [tree], 2048, False)
        return [np.array([-1.0, -2.0])]

    monkeypatch.setattr(scorers, "top_candidates", top_candidates)
    monkeypatch.setattr(scorers, "score_candidates", score_candidates)
    text = SimpleNamespace(source=lambda *_: [1, 2])
    task = SimpleNamespace(text_options=lambda: text, tokenizer=SimpleNamespace(encode=None))
    queries = [DecoderQuery("scores", BUILT_IN["classify"], tree)]
    scorer = DecoderScorer(
        SimpleNamespace(task=task, model=model, device="cpu"),
        queries,
        **{"length_normalize": False, "max_nodes": 2048, "top_k": top_k, "beam": 1},
        **{"caption_prompt": None, "generate_answer": False},
    )
    (found,) = scorer([ClipRow("0", "v")], torch.zeros(1, 1, 2, 2, 3, dtype=torch.uint8))
    assert found.top is (best if top_k else None)
    assert {k: v.tolist() for k, v in found.scores.items()} == (
        {} if top_k else {"scores": [-1.0, -2.0]}
    )


# --- from windows to records ----------------------------------------------------------------------


@dataclass(frozen=True)
class Frames:
    """Frames that say which window of which row they are of; some rows cannot be read."""

    damaged: tuple[str, ...] = ()
    window: str = "center"

    def __call__(self, row: ClipRow, rng: None) -> np.ndarray:
        if row.id in self.damaged:
            raise VideoError("damaged")
        number = 0 if self.window == "center" else int(self.window[0])
        return np.full((1, 1, 1, 3), number, dtype=np.uint8)


class Scorer:
    """Scores by the row and the window, and what it was asked."""

    def __init__(self, likely: dict[str, list[float]]):
        self.likely = likely
        self.asked: list[list[str]] = []

    def describe(self) -> list[str]:
        return []

    def __call__(self, rows, frames) -> list[Prediction]:
        self.asked.append([row.id for row in rows])
        at = frames.flatten(1)[:, 0].tolist()
        likely = [np.roll(self.likely[row.id], k) for row, k in zip(rows, at, strict=True)]
        return [Prediction({"scores": np.log(one)}) for one in likely]


def scoring(folder: Path, likely: dict[str, list[float]], loader: Frames, **options):
    """A job over rows of the label x, and its scorer."""
    asked = {"batch_size": 2, "num_workers": 0, "use": "heads", "targets": "label", **options}
    scorer = Scorer(likely)
    made = job.Job(
        options=ScoreOptions("classify", folder, folder / "model", folder / "out", **asked),
        rows=Rows(ClipRow(name, "v", label="x") for name in likely),
        task=LabelClassification(["x", "y"]),
        scorers=[scorer],
        loaders=[loader],
        loader_of=[0],
        pin_memory=False,
        settings={},
        signatures={},
    )
    return made, scorer


def scores(folder: Path) -> dict[str, list[float] | None]:
    lines = map(json.loads, (folder / "out" / "scores.jsonl").read_text().splitlines())
    return {one["id"]: one["scores"] for one in lines}


def test_batches_are_scored_again_of_which_some_row_could_not_be_read(tmp_path):
    likely = {name: [0.9, 0.1] for name in "abcdefg"}
    said: list[str] = []
    made, scorer = scoring(tmp_path, likely, Frames(damaged=("d", "e")))
    found = score(made, said.append)
    assert scorer.asked == [["a", "b"], ["c"], ["f"], ["g"]]
    assert (found["n"], found["missing"]) == (7, 2)
    made, scorer = scoring(tmp_path, likely, Frames())
    found = score(made, said.append)
    assert scorer.asked == [["c", "d"], ["e", "f"]]
    assert (found["accuracy"], found["missing"]) == (100, 0)
    assert said == ["7 clips of test, 0 done before", "7 clips of test, 3 done before"]
    assert list(scores(tmp_path)) == list("abcdefg")


def test_a_record_has_the_mean_of_all_windows_of_its_row(tmp_path):
    likely = {"a": [0.9, 0.1], "b": [0.6, 0.4], "c": [0.2, 0.8]}
    made, scorer = scoring(tmp_path, likely, Frames(damaged=("b",)), windows=3)
    score(made)
    assert scorer.asked == [["a"]] * 3 + [["c"]] * 3
    found = scores(tmp_path)
    # Windows 1 and 3 of the three are turned round.
    assert np.exp(found["a"]) == pytest.approx([(0.1 + 0.9 + 0.1) / 3, (0.9 + 0.1 + 0.9) / 3])
    assert found["b"] is None
    assert np.exp(found["c"]) == pytest.approx([(0.8 + 0.2 + 0.8) / 3, (0.2 + 0.8 + 0.2) / 3])


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("likely", [[0.5, 0.0], [0.5, -1.0], [np.inf, 0.5]])
def test_a_score_that_is_no_finite_number_names_its_row(tmp_path, likely):
    made, _ = scoring(tmp_path, {"a": [0.5, 0.5], "odd": likely}, Frames())
    with pytest.raises(UserError, match="odd"):
        score(made)
