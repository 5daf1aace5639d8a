"""vt-score on a tiny model: against loops by hand, in several processes, killed and resumed."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import warm
from tests.checkpoints import changed, with_heads
from tests.commands import environment, free_port, run
from tests.conftest import run_main
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.probabilities import log_softmax
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow, DataDirectory, Manifest, write_manifest
from vt_fairseq.data.tokenizer import EOS, PAD
from vt_fairseq.errors import RunFailure, UserError
from vt_fairseq.files.atomic_files import DirectoryLock
from vt_fairseq.inference.loading import Loaded, open_checkpoint
from vt_fairseq.models.r2plus1d import R2Plus1D
from vt_fairseq.models.t5 import T5Encoder
from vt_fairseq.models.video_translate import MultimodalEncoder
from vt_fairseq.scoring import records
from vt_fairseq.scoring.job import prepare
from vt_fairseq.scoring.options import ScoreOptions
from vt_fairseq.scoring.run import score
from vt_fairseq.task import VideoTranslateTask


@pytest.fixture(scope="module")
def rows(data_directory) -> Manifest:
    return DataDirectory.open(data_directory).manifest("test")


@pytest.fixture(scope="module")
def verb_noun(trained, data_directory, tmp_path_factory) -> Path:
    """A checkpoint with random heads for verbs and nouns."""
    path = tmp_path_factory.mktemp("heads") / "verb_noun.pt"
    return with_heads(trained, path, data_directory, "verb,noun")


@pytest.fixture(scope="module")
def answer_head(trained, data_directory, tmp_path_factory) -> Path:
    """A checkpoint with a random head for answers."""
    path = tmp_path_factory.mktemp("heads") / "answer.pt"
    return with_heads(trained, path, data_directory, "answer")


@pytest.fixture
def scored(data_directory, trained, tmp_path):
    """Score in this process; the metrics and the records."""

    def call(kind: str, out: str = "out", **options) -> tuple[dict, list[dict]]:
        folder = tmp_path / out
        fixed = {"data": data_directory, "path": trained, "device": "cpu", "num_workers": 0}
        metrics = score(prepare(ScoreOptions(kind=kind, out=folder, **(fixed | options))))
        return metrics, list(records.read_records(folder))

    return call


def opened(path: Path, data: Path, **overrides) -> Loaded:
    return open_checkpoint(path, data=data, device="cpu", overrides=overrides)


def naive(loaded: Loaded, split: str, action: str, texts: list[str]) -> np.ndarray:
    """(rows, texts): every pair alone through the task's own dataset and the whole model."""
    task = loaded.task
    chosen = task.selected_prompts(action)
    manifest = task.data.manifest(split)
    loader = task.clip_loader(Path(task.data.video_root), train=False)
    dataset = task.build_dataset(manifest, loader, chosen, train=False)
    found = np.zeros((len(manifest), len(texts)))
    for row in range(len(manifest)):
        net_input = dataset.collater([dataset[row]])["net_input"]
        for k, text in enumerate(texts):
            ids = task.tokenizer.encode(text, chosen[0].max_target_tokens)
            net_input["prev_output_tokens"] = torch.tensor([[PAD, *ids]])
            with torch.no_grad():
                logits, _ = loaded.model(**net_input)
            target = torch.tensor([[*ids, EOS]])
            found[row, k] = logits.log_softmax(-1).gather(2, target.unsqueeze(2)).sum()
    return found


@pytest.fixture(scope="module")
def labels() -> list[str]:
    """Forty texts at random, so that there are 200 pairs with the five clips of the split."""
    rng = np.random.default_rng(1)
    words = ["red", "blue", "circle", "cross", "rises", "falls", "a", "the"]
    texts = {" ".join(rng.choice(words, size=rng.integers(1, 6))) for _ in range(200)}
    return sorted(texts)[:40]


@pytest.fixture(scope="module")
def unlabeled(data_directory, rows, tmp_path_factory) -> Path:
    """The data with another split, ``plain``: its clips have no labels."""
    folder = tmp_path_factory.mktemp("unlabeled") / "data"
    shutil.copytree(data_directory, folder, ignore=shutil.ignore_patterns("world"))
    plain = [replace(row, label=None, verb=None, noun=None, answer=None) for row in rows]
    write_manifest(folder / "plain.arrow", plain)
    known = json.loads((folder / "data.json").read_text())
    known["splits"]["plain"] = {"rows": len(plain), "rejected": 0}
    (folder / "data.json").write_text(json.dumps(known))
    return folder


@pytest.mark.parametrize(("batch_size", "max_nodes"), [(1, 1), (64, 2048)])
def test_scores_are_those_of_a_loop_over_single_pairs(
    scored, unlabeled, trained, labels, pair_scores, batch_size, max_nodes
):
    options = {"split": "plain", "labels": labels, "batch_size": batch_size}
    metrics, found = scored("classify", data=unlabeled, max_nodes=max_nodes, **options)
    assert pair_scores.size == 200
    assert np.abs(np.array([r["scores"] for r in found]) - pair_scores).max() < 1e-4
    # Nothing is known to be right, so nothing is measured.
    assert set(metrics) == {"signatures"}


@pytest.fixture(scope="module")
def pair_scores(unlabeled, trained, labels) -> np.ndarray:
    return naive(opened(trained, unlabeled), "plain", "classify", labels)


# Several processes, interrupted runs


def test_two_processes_write_exactly_what_one_does(data_directory, trained, tmp_path):
    arguments = ["-m", "vt_fairseq.cli.score", "retrieval", str(data_directory)]
    arguments += ["--path", str(trained), "--split", "retrieval", "--device", "cpu"]
    arguments += ["--batch-size", "3"]
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        warm.start(
            [*arguments, "--out", str(tmp_path / "two")],
            tmp_path / f"log{rank}",
            {**environment(), **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    run("vt-score", *arguments[2:], "--out", tmp_path / "one")
    for rank, process in enumerate(started):
        process.join(300)
        assert process.exitcode == 0, (tmp_path / f"log{rank}").read_text()[-2000:]
    for name in ("scores.jsonl", "predictions.jsonl", "v2t_predictions.jsonl", "metrics.json"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two, name
    assert not list((tmp_path / "two").glob("*part*"))
    assert "r1" in (tmp_path / "log0").read_text() and "r1 " not in (tmp_path / "log1").read_text()


@pytest.mark.slow
def test_torchrun_starts_it(data_directory, trained, tmp_path):
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [sys.executable, "-m", *launcher, "-m", "vt_fairseq.cli.score", "vqa"]
    command += [data_directory, "--path", trained, "--out", tmp_path, "--device", "cpu"]
    command += ["--batch-size", "2"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("accuracy") == 1
    assert re.search(r"^ +n +5$", done.stdout, re.MULTILINE), "a count has no decimals"
    assert len(list(records.read_records(tmp_path))) == 5


def kill_after(batches: int, options: dict) -> None:
    """Score in a process that is killed while it writes the batch after so many."""
    append = records.PartWriter.append
    written = []

    def counting(self, batch):
        if len(written) == batches:
            with open(options["out"] / "scores.part0.jsonl", "ab") as part:
                part.write(b'{"id": "torn", "sco')
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(batch)
        append(self, batch)

    records.PartWriter.append = counting
    score(prepare(ScoreOptions(**options)))


def test_a_killed_run_goes_on_where_it_was_and_ends_like_one_that_was_not(
    data_directory, trained, tmp_path, monkeypatch, scored
):
    options = {"split": "retrieval", "batch_size": 3}
    scored("retrieval", "whole", **options)
    out = tmp_path / "out"
    killed = {"kind": "retrieval", "data": data_directory, "path": trained, "out": out}
    killed |= {"device": "cpu", "num_workers": 0} | options
    child = multiprocessing.get_context("fork").Process(target=kill_after, args=(2, killed))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    assert not (out / "scores.jsonl").exists()
    assert b"torn" in (out / "scores.part0.jsonl").read_bytes()

    seen = count_clips(monkeypatch)
    scored("retrieval", "out", **options)
    assert seen["encoder"] == 4  # of 10, six were done
    for name in ("scores.jsonl", "predictions.jsonl", "metrics.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    scored("retrieval", "out", **options)
    assert seen["encoder"] == 4  # all was done
    with pytest.raises(UserError, match=r"other settings \(windows\)"):
        scored("retrieval", "out", windows=2, **options)
    scored("retrieval", "out", restart=True, **options)
    assert seen["encoder"] == 14


def count_clips(monkeypatch) -> Counter:
    """Clips that each network has seen, and decodings, from now on."""
    seen: Counter = Counter()

    def counting(kind: type, method: str, name: str, clips) -> None:
        function = getattr(kind, method)

        def counted(self, *args, **kwargs):
            seen[name] += clips(*args)
            return function(self, *args, **kwargs)

        monkeypatch.setattr(kind, method, counted)

    counting(R2Plus1D, "forward", "video network", lambda video: len(video))
    counting(T5Encoder, "forward", "encoder", lambda states, _: len(states))
    counting(ClipLoader, "__call__", "decoded", lambda row, rng: 1)
    return seen


def test_retrieval_decodes_and_encodes_every_clip_once(scored, monkeypatch):
    seen = count_clips(monkeypatch)
    metrics, found = scored("retrieval", split="retrieval", batch_size=3, max_nodes=16)
    assert metrics["n"] == len(found) == len(found[0]["scores"]) == 10
    assert seen == {"decoded": 10, "video network": 10, "encoder": 10}


def test_two_prompts_and_a_second_model_share_the_decoding(scored, verb_noun, monkeypatch):
    seen = count_clips(monkeypatch)
    scored("classify", targets="verb,noun", fuse=verb_noun)
    # Two models have a video network each; the encoder reads two prompts, and the heads' one.
    assert seen == {"decoded": 5, "video network": 10, "encoder": 15}


# What is averaged


def test_fusion_is_the_mean_of_the_softmax_of_both(scored, answer_head, rows):
    _, by_decoder = scored("vqa", "decoder")
    _, by_heads = scored("vqa", "heads", path=answer_head)
    metrics, fused = scored("vqa", "fused", fuse=answer_head)
    for one, other, both in zip(by_decoder, by_heads, fused, strict=True):
        expected = (np.exp(log_softmax(one["scores"])) + np.exp(log_softmax(other["scores"]))) / 2
        assert np.exp(both["scores"]) == pytest.approx(expected, abs=1e-6)
    best = [int(np.argmax(r["scores"])) for r in fused]
    right = [b == row.answer for b, row in zip(best, rows, strict=True)]
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(right))


def test_fused_verbs_and_nouns_are_means_of_each_distribution(scored, verb_noun):
    _, by_decoder = scored("classify", "decoder", targets="verb,noun")
    _, by_heads = scored("classify", "heads", path=verb_noun)
    _, fused = scored("classify", "fused", targets="verb,noun", fuse=verb_noun)
    for one, other, both in zip(by_decoder, by_heads, fused, strict=True):
        for part in ("verb", "noun"):
            p = [np.exp(log_softmax(r[part])) for r in (one, other)]
            assert np.exp(both[part]) == pytest.approx((p[0] + p[1]) / 2, abs=1e-6)
        assert all(score <= 0 for r in (one, other) for _, _, score in r["action"])


def windowed(source: Path, target: Path) -> Path:
    """A copy of a checkpoint whose model sees one second of a clip."""
    return changed(source, target, lambda state: state["cfg"]["task"].update(max_seconds=1.0))


def test_ten_clips_are_the_mean_of_ten_windows_by_hand(scored, trained, tmp_path, monkeypatch):
    short = windowed(trained, tmp_path / "short.pt")
    apart = [
        scored("classify", f"window{k}", path=short, test_window=f"{k}/10")[1] for k in range(1, 11)
    ]
    seen = count_clips(monkeypatch)
    _, together = scored("classify", "together", path=short, windows=10)
    assert seen["decoded"] == seen["encoder"] == 50
    differ = 0
    for number, both in enumerate(together):
        p = [np.exp(log_softmax(window[number]["scores"])) for window in apart]
        assert np.exp(both["scores"]) == pytest.approx(np.mean(p, axis=0), abs=1e-6)
        differ += np.abs(p[0] - p[9]).max() > 1e-6
    assert differ == 5


def test_a_clip_that_fits_into_the_window_has_ten_windows_too(scored, trained, monkeypatch):
    seen = count_clips(monkeypatch)
    scored("classify", "ten", windows=10)
    assert seen["decoded"] == 50
    apart = [scored("classify", f"w{k}", test_window=f"{k}/10")[1] for k in (1, 10)]
    for first, last in zip(*apart, strict=True):
        assert first["scores"] != last["scores"]


def test_retrieval_averages_the_likelihoods_of_its_windows(scored, trained, tmp_path):
    short = windowed(trained, tmp_path / "short.pt")
    options = {"split": "retrieval", "path": short}
    apart = [
        np.array(
            [r["scores"] for r in scored("retrieval", f"w{k}", test_window=f"{k}/2", **options)[1]]
        )
        for k in (1, 2)
    ]
    together = scored("retrieval", "together", windows=2, **options)[1]
    expected = np.log((np.exp(apart[0]) + np.exp(apart[1])) / 2)
    assert np.allclose([r["scores"] for r in together], expected, atol=1e-6)


# What the model sees


def spied_sources(monkeypatch, model_ids: list) -> None:
    """Record the ids that the encoder is given."""
    forward = MultimodalEncoder.forward

    def spying(self, src_tokens, *args, **kwargs):
        model_ids.append(src_tokens.tolist())
        return forward(self, src_tokens, *args, **kwargs)

    monkeypatch.setattr(MultimodalEncoder, "forward", spying)


def test_the_caption_is_generated_first_and_fed_as_text(
    scored, trained, data_directory, monkeypatch, rows
):
    tokenizer = opened(trained, data_directory).task.tokenizer
    _, without = scored("classify", "without")
    generates(monkeypatch, tokenizer, SAID)
    sources: list = []
    spied_sources(monkeypatch, sources)
    _, found = scored("classify", "with", caption_first=True)
    t = tokenizer
    video = [t.video] * sources[0][0].count(t.video)
    for ids, text in zip(sources[0], SAID, strict=True):
        wanted = [t.cls, *t.encode("classify :"), *video, *t.encode(text), t.sep]
        assert video and ids[: len(wanted)] == wanted
    assert [r["captions"] for r in found] == [[text] for text in SAID]
    assert np.abs(np.array(found[0]["scores"]) - without[0]["scores"]).max() > 1e-3


def generates(monkeypatch, tokenizer, texts: list[str]) -> None:
    """Let the model write these texts whatever it is asked."""
    hypotheses = [[{"tokens": torch.tensor(tokenizer.encode(text))}] for text in texts]
    monkeypatch.setattr(VideoTranslateTask, "generate", lambda *_, **__: hypotheses)


SAID = ["a red circle", "a blue cross", "a red circle", "a red cross", "a red circle"]


def test_a_caption_is_what_beam_search_writes_for_the_caption_prompt(
    scored, trained, data_directory, tmp_path
):
    _, found = scored("classify", caption_first=True, beam=2)
    run(
        "fairseq-generate",
        *[data_directory, "--user-dir", Path(__file__).parent.parent / "user_dir"],
        *["--task", "video_translate", "--path", trained, "--gen-subset", "test", "--cpu"],
        *["--action", "caption", "--beam", "2", "--max-len-b", "20"],
        *["--results-path", tmp_path / "generated"],
    )
    lines = (tmp_path / "generated" / "predictions.jsonl").read_text().splitlines()
    written = {r["id"]: r["prediction"] for r in map(json.loads, lines)}
    assert {r["id"]: r["captions"] for r in found} == {k: [v] for k, v in written.items()}


def test_answers_are_generated_and_matched(scored, trained, data_directory, monkeypatch, rows):
    answers = [row.candidates[k] for k, row in enumerate(rows)]
    generates(monkeypatch, opened(trained, data_directory).task.tokenizer, answers)
    metrics, found = scored("vqa", decoding="beam")
    assert [(r["prediction"], r["match"]) for r in found] == [(k, "exact") for k in range(5)]
    right = [row.answer == k for k, row in enumerate(rows)]
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(right))
    assert metrics["matched_exact"] == 100


def test_the_context_is_in_or_out_on_demand(scored, trained, data_directory, monkeypatch, rows):
    assert any(row.context for row in rows)
    lengths = []
    for context in (True, False):
        sources: list = []
        with monkeypatch.context() as patch:
            spied_sources(patch, sources)
            scored("vqa", str(context), context=context)
        lengths.append([sum(i != PAD for i in ids) for ids in sources[0]])
    task = opened(trained, data_directory).task
    for with_it, without, row in zip(*lengths, rows, strict=True):
        assert with_it - without == len(task.tokenizer.encode(row.context or ""))


# Candidates and metrics


def test_the_top_are_those_of_the_full_ranking(scored):
    _, full = scored("classify", "full")
    metrics, top = scored("classify", "top", top_k=5)
    short, _ = scored("classify", "short", top_k=3)
    for whole, best in zip(full, top, strict=True):
        order = np.argsort(-np.array(whole["scores"]), kind="stable")[:5]
        assert [s for _, s in best["top"]] == pytest.approx(
            [whole["scores"][k] for k in order], abs=1e-4
        )
        rank = whole["ranks"]["label"]
        assert best["ranks"]["label"] == (rank if rank <= 5 else None)
    assert "top5" in metrics and "top5" not in short and metrics["top1"] == short["top1"]


def test_pairs_are_ranked_as_texts_and_give_verbs_and_nouns(
    scored, data_directory, unlabeled, rows
):
    data = DataDirectory.open(data_directory)
    verbs, nouns = data.classes("verb"), data.classes("noun")
    metrics, found = scored("classify", targets="action", pairs="all")
    texts = [f"{v} {n}" for v in verbs for n in nouns]
    _, whole = scored("classify", "texts", data=unlabeled, split="plain", labels=texts)
    for record, row, all_pairs in zip(found, rows, whole, strict=True):
        scores = np.array(all_pairs["scores"]).reshape(len(verbs), -1)
        of_verbs = np.logaddexp.reduce(scores, axis=1)
        assert record["verb"] == pytest.approx(of_verbs, abs=1e-4)
        assert len(record["action"]) == 100
        assert record["action"][0][2] == pytest.approx(scores.max(), abs=1e-4)
        right = verbs.index(row.verb), nouns.index(row.noun)
        assert record["ranks"]["action"] == (scores >= scores[right]).sum()
        assert record["ranks"]["verb"] == (of_verbs >= of_verbs[right[0]]).sum()
    ranks = np.array([r["ranks"]["action"] for r in found])
    assert metrics["action_top5"] == pytest.approx(100 * np.mean(ranks <= 5))


def test_every_labeled_pair_can_be_an_action_and_seen_pairs_are_those_of_training(
    scored, data_directory
):
    data = DataDirectory.open(data_directory)
    of_split = {s: {(row.verb, row.noun) for row in data.manifest(s)} for s in data.splits}
    labeled, seen = set.union(*of_split.values()), of_split["train"]
    assert len(seen) < len(labeled) < 100
    metrics, found = scored("classify", "labeled", targets="action")
    assert {tuple(pair[:2]) for pair in found[0]["action"]} == labeled
    assert "action_not_a_candidate" not in metrics
    metrics, found = scored("classify", "seen", targets="action", pairs="seen")
    assert {tuple(pair[:2]) for pair in found[0]["action"]} == seen
    unseen = sum((row.verb, row.noun) not in seen for row in data.manifest("test"))
    assert unseen and metrics["action_not_a_candidate"] == unseen
    assert metrics["n"] == 5  # they count, as wrong


@pytest.mark.parametrize(
    ("kind", "split", "options"),
    [
        ("vqa", "test", {}),
        ("classify", "test", {}),
        ("classify", "test", {"targets": "action", "pairs": "all"}),
        ("classify", "test", {"targets": "verb,noun"}),
        ("retrieval", "retrieval", {}),
    ],
)
def test_vt_evaluate_computes_the_same_from_the_predictions(
    scored, data_directory, tmp_path, kind, split, options
):
    metrics, _ = scored(kind, split=split, **options)
    with open(tmp_path / "references.jsonl", "w") as file:
        for row in DataDirectory.open(data_directory).manifest(split):
            file.write(json.dumps(reference(row, kind, bool(options))) + "\n")
    for name, prefix in (("predictions", ""), ("v2t_predictions", "v2t_")):
        predictions = tmp_path / "out" / f"{name}.jsonl"
        if not predictions.exists():
            continue
        run_main(
            "vt_fairseq.cli.evaluate",
            *[kind, "--predictions", str(predictions), "--out", str(tmp_path / "evaluated.json")],
            *["--references", str(tmp_path / "references.jsonl")],
            *(["--per-class", str(tmp_path / "classes.jsonl")] if kind == "classify" else []),
        )
        evaluated = json.loads((tmp_path / "evaluated.json").read_text())
        shared = (prefix + key for key in evaluated if key not in ("n", "missing", "signatures"))
        shared = [key for key in shared if key in metrics]
        assert len(shared) >= {"vqa": 1, "classify": 3, "retrieval": 4}[kind]
        for key in shared:
            assert metrics[key] == pytest.approx(evaluated[key.removeprefix(prefix)]), key
    if kind == "classify":
        assert (tmp_path / "out" / "classes.jsonl").read_text() == (
            tmp_path / "classes.jsonl"
        ).read_text()


def reference(row: ClipRow, kind: str, actions: bool) -> dict:
    found = {
        "vqa": {"answer": row.answer},
        "classify": {"verb": row.verb, "noun": row.noun} if actions else {"label": row.label},
        "retrieval": {"target": row.id},
    }[kind]
    return {"id": row.id} | found


def test_clips_that_cannot_be_read_are_missing_and_tried_again(scored, data_directory, tmp_path):
    videos = tmp_path / "videos"
    source = DataDirectory.open(data_directory).video_root
    shutil.copytree(source, videos)
    broken = videos / "retrieval-00000.mp4"
    broken.write_bytes(b"not a video")
    options = {"split": "retrieval", "video_root": str(videos)}
    metrics, found = scored("retrieval", **options)
    assert metrics["missing"] == 5
    assert [r["scores"] is None for r in found] == [True] * 5 + [False] * 5
    ranking = json.loads((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()[0])
    assert ranking["ranking"][-1] == found[0]["id"]
    shutil.copy(source / broken.name, broken)
    metrics, found = scored("retrieval", **options)
    assert metrics["missing"] == 0 and all(r["scores"] for r in found)
    broken.unlink()
    for kind, options in (("vqa", {}), ("classify", {}), ("classify", {"targets": "action"})):
        kept = {"split": "retrieval", "video_root": str(videos)} | options
        metrics, found = scored(kind, f"{kind}{len(options)}", **kept)
        assert metrics["missing"] == 5 and metrics["n"] == 10
        assert metrics.get("accuracy", metrics.get("action_top1")) <= 50
        out = f"none{kind}{len(options)}"
        with pytest.raises(RunFailure, match="none of the 5 clips could be read"):
            scored(kind, out, video_root=str(tmp_path), **options)
        assert not (tmp_path / out / "metrics.json").exists()


def test_length_normalized_scores_are_divided_by_the_tokens(scored, trained, data_directory, rows):
    _, sums = scored("vqa", "sums")
    _, means = scored("vqa", "means", length_normalize=True)
    encode = opened(trained, data_directory).task.tokenizer.encode
    for row, total, mean in zip(rows, sums, means, strict=True):
        lengths = [len(encode(text)) + 1 for text in row.candidates]
        assert np.multiply(mean["scores"], lengths) == pytest.approx(total["scores"])


def test_an_answer_of_a_thousand_words_is_cut_as_in_training_which_the_log_says_once(
    scored, trained, unlabeled, rows, caplog
):
    texts = ("a red circle slides left " * 200, "blue cross")
    long = [replace(row, candidates=texts, answer=None) for row in rows[:2]]
    write_manifest(unlabeled / "long.arrow", long)
    known = json.loads((unlabeled / "data.json").read_text())
    known["splits"]["long"] = {"rows": len(long), "rejected": 0}
    (unlabeled / "data.json").write_text(json.dumps(known))
    _, found = scored("vqa", data=unlabeled, split="long")
    # The loop cuts by itself, to the 20 tokens that answers have in training.
    expected = naive(opened(trained, unlabeled), "long", "answer", list(texts))
    assert np.array([record["scores"] for record in found]) == pytest.approx(expected, abs=1e-4)
    said = [r.getMessage() for r in caplog.records if "candidates" in r.getMessage()]
    assert said == [
        f"1 of 2 candidates of row {long[0].id} (the first such row; others are not named) are cut "
        "to 20 tokens, the longest that the model was trained on"
    ]


def test_texts_that_the_vocabulary_cannot_spell_and_equal_captions_are_said(
    scored, trained, unlabeled, rows, caplog
):
    texts = {"captions": ("红色的圆",), "context": "a 圆 moves", "label": None}
    odd = [replace(row, **texts) for row in rows[:2]]
    write_manifest(unlabeled / "odd.arrow", odd)
    known = json.loads((unlabeled / "data.json").read_text())
    known["splits"]["odd"] = {"rows": len(odd), "rejected": 0}
    (unlabeled / "data.json").write_text(json.dumps(known))
    metrics, _ = scored("retrieval", data=unlabeled, split="odd")
    assert (metrics["equal_captions"], metrics["v2t_r1"]) == (2, 0)
    assert metrics["signatures"]["equal_captions"].startswith("rows whose caption another row has")

    def check() -> None:
        [said] = [r.getMessage() for r in caplog.records if "vocabulary" in r.getMessage()]
        caplog.clear()
        number = int(re.match(r"4 of (\d+) texts of the prompts and the split odd have ", said)[1])
        assert number > 4 and "2 of them hold nothing else (the first: '红色的圆')" in said

    check()
    opened(trained, unlabeled).task.load_dataset("odd")  # as training and fairseq-generate do
    check()
    scored("classify", data=unlabeled, split="odd", labels=["犬", "red"], out="labels")
    [said] = [r.getMessage() for r in caplog.records if "vocabulary" in r.getMessage()]
    assert "3 of them hold nothing else (the first: '犬')" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "vqa", "targets": "verb"}, "are for classify"),
        ({"kind": "classify", "targets": "verb", "pairs": "all"}, "--pairs is for"),
        ({"kind": "classify", "top_k": 5, "windows": 2}, "--top-k leaves most scores out"),
        ({"kind": "classify", "top_k": 5, "targets": "verb"}, "--top-k is for"),
        ({"kind": "retrieval", "fuse": Path("x")}, "no heads for retrieval"),
        ({"kind": "retrieval", "decoding": "beam"}, "--decoding beam answers questions"),
        ({"kind": "vqa", "decoding": "beam", "windows": 2}, "no distribution"),
        ({"kind": "vqa", "windows": 2, "test_window": "whole"}, "leave --test-window out"),
        ({"kind": "vqa", "use": "heads"}, "has none"),
        ({"kind": "classify", "split": "nowhere"}, "no split"),
    ],
)
def test_options_that_do_not_go_together_are_named(scored, options, message):
    with pytest.raises(UserError, match=message):
        scored(**options)


def test_heads_that_do_not_fit_are_named(scored, verb_noun, trained):
    for options in (
        {"kind": "vqa"},
        {"kind": "retrieval"},
        {"kind": "classify", "targets": "label"},
    ):
        with pytest.raises(UserError, match="--use decoder ranks texts instead"):
            scored(path=verb_noun, **options)
    with pytest.raises(UserError, match="has no heads"):
        scored("vqa", fuse=trained)
    _, by_decoder = scored("vqa", "decoder", path=verb_noun, use="decoder")
    assert by_decoder == scored("vqa", "same")[1]


def test_options_of_the_decoder_are_refused_where_a_checkpoints_own_heads_are_in_use(
    scored, verb_noun, answer_head
):
    for kind, path, options in (
        ("classify", verb_noun, {"top_k": 5}),
        ("classify", verb_noun, {"caption_first": True}),
        ("vqa", answer_head, {"decoding": "beam"}),
        ("vqa", answer_head, {"decoding": "beam", "use": "heads"}),
    ):
        with pytest.raises(UserError, match=f"the heads of {path} are in use: take --use decoder"):
            scored(kind, path=path, **options)


def test_labels_that_are_no_candidates_are_refused(scored, labels):
    with pytest.raises(UserError, match="labels of the split are no candidates"):
        scored("classify", labels=labels)


def test_a_score_that_is_no_number_names_the_clip(scored, trained, tmp_path):
    def diverge(state: dict) -> None:
        state["model"]["decoder.final_norm.weight"].fill_(3e38)  # finite, and too large

    diverged = changed(trained, tmp_path / "diverged.pt", diverge)
    with pytest.raises(UserError, match="clip test-00000-0 is not a finite number"):
        scored("vqa", path=diverged)


def test_the_tree_of_a_split_says_what_there_is_to_compute(data_directory, trained, tmp_path):
    said: list[str] = []
    options = ScoreOptions("classify", data_directory, trained, tmp_path, device="cpu")
    score(prepare(options), said.append)
    labels = DataDirectory.open(data_directory).classes("label")
    encode = opened(trained, data_directory).task.tokenizer.encode
    tree = PrefixTree.build(encode(label, 12) for label in labels)
    assert said[0] == "5 clips of test, 0 done before"
    assert f"{len(labels)} candidates" in said[1] and f"{tree.num_inner} prefixes" in said[1]


def test_scores_of_another_folder_of_videos_are_not_kept(scored, data_directory, tmp_path):
    scored("vqa", split="test")
    root = DataDirectory.open(data_directory).video_root
    shutil.copytree(root, tmp_path / "other")
    with pytest.raises(UserError, match=r"other settings \(video_root\)"):
        scored("vqa", split="test", video_root=tmp_path / "other")


def test_a_folder_that_another_run_scores_into_is_refused_also_with_restart(scored, tmp_path):
    scored("vqa", split="test")
    before = (tmp_path / "out" / "scores.jsonl").read_bytes()
    reading, writing = os.pipe()
    if (other := os.fork()) == 0:
        _held = DirectoryLock(tmp_path / "out", "--out")
        os.write(writing, b"held")
        signal.pause()
    try:
        assert os.read(reading, 4) == b"held"
        for restart in (False, True):
            with pytest.raises(UserError, match=rf"another run writes to .*process {other} on"):
                scored("vqa", split="test", restart=restart)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
    assert (tmp_path / "out" / "scores.jsonl").read_bytes() == before
    scored("vqa", split="test", restart=True)


def test_restart_throws_away_what_was_made_from_the_scores_before_it_scores(
    scored, tmp_path, monkeypatch
):
    """Else a run that is killed leaves earlier metrics beside other settings."""
    scored("retrieval", split="test")
    before = {path.name for path in (tmp_path / "out").glob("*.jsonl")}
    assert before == {"scores.jsonl", "predictions.jsonl", "v2t_predictions.jsonl"}

    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vt_fairseq.scoring.run._score_batches", killed)
    with pytest.raises(KeyboardInterrupt):
        scored("retrieval", split="test", length_normalize=True, restart=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"settings.json", ".lock"}
