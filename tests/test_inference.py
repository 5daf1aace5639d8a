"""VideoTranslate: the same results as fairseq-generate and vt-score, from one's own files."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.checkpoints import changed
from tests.commands import PLUGIN, environment
from tests.conftest import run_main
from tests.media import write_folder, write_numbered
from tests.replaying import Replays
from vt_fairseq import Decoding, VideoTranslate
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import ClipRow, DataDirectory
from vt_fairseq.data.tokenizer import EOS, train_vocabulary
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.inference.loading import open_checkpoint
from vt_fairseq.models.step_graphs import StepGraphs
from vt_fairseq.video.decoding import read_clip
from vt_fairseq.video.frame_sampling import TIME_EPSILON, FrameSampling, Plan, pick_frames
from vt_fairseq.video.transforms import ClipTransform

QUESTION, CANDIDATES = "what is it ?", ["a red circle", "blue", "it is the green square there"]


@pytest.fixture(scope="module")
def directory(data_directory) -> DataDirectory:
    return DataDirectory.open(data_directory)


@pytest.fixture(scope="module")
def videos(directory) -> list[Path]:
    return sorted(directory.video_root.glob("train-*.mp4"))[:3]


def clips_of(directory: DataDirectory, split: str) -> tuple[list[ClipRow], dict]:
    """Rows of a split, and how the API is asked for the same clips."""
    rows = list(directory.manifest(split))
    return rows, {
        "videos": [directory.video_root / row.video for row in rows],
        "start": [row.start for row in rows],
        "end": [row.end for row in rows],
        "context": [row.context for row in rows],
    }


@pytest.mark.filterwarnings("ignore::UserWarning:hydra", "ignore:.*config.*:UserWarning")
@pytest.mark.parametrize(
    ("options", "decoding"),
    [
        (["--beam", "5", "--nbest", "5"], Decoding("beam", beam=5, num_candidates=5)),
        (["--beam", "1"], Decoding("greedy")),
    ],
    ids=["beam", "greedy"],
)
def test_captions_are_those_of_fairseq_generate(
    vt, trained, directory, tmp_path, options, decoding
):
    run_main(
        "fairseq_cli.generate",
        *map(str, [directory.path, *PLUGIN, "--path", trained, "--action", "caption", *options]),
        *["--max-len-b", "20", "--gen-subset", "test", "--results-path", str(tmp_path)],
        function="cli_main",
    )
    printed = (tmp_path / "generate-test.txt").read_text()
    best = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    _, asked = clips_of(directory, "test")
    found = vt.caption(**asked, decoding=decoding)
    assert [f.text for f in found] == [b["prediction"] for b in best]
    assert any(c.text for f in found for c in f.candidates)
    for i, caption in enumerate(found):
        # Scores of the tokens in base 2, with four digits.
        tokens = re.findall(rf"^P-{i}\t(.+)$", printed, re.MULTILINE)
        expected = [math.log(2) * sum(map(float, line.split())) for line in tokens]
        assert [c.score for c in caption.candidates] == pytest.approx(expected, abs=1e-3)
        texts = re.findall(rf"^D-{i}\t\S+\t(.*)$", printed, re.MULTILINE)
        # fairseq prints added tokens by name.
        plain = [re.sub(r"<\w+>", "", text).split() for text in texts]
        assert [c.text.split() for c in caption.candidates] == plain


def test_an_answer_of_a_thousand_words_is_cut_as_in_training_which_the_log_says(vt, caplog):
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    long = "a red circle slides left " * 200
    cut = vt.answer(frames, "what ?", [long, f"{long} and then up", "blue"])
    assert cut.scores[0] == cut.scores[1] != cut.scores[2]
    assert "2 of 3 candidates are cut to 20 tokens" in caplog.text


def test_what_the_vocabulary_cannot_spell_of_question_and_candidates_is_said_once(vt, caplog):
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    for _ in range(2):
        vt.answer(frames, "什么颜色 ?", ["红", "blue"], context="a red circle")
    said = [r.getMessage() for r in caplog.records if "vocabulary" in r.getMessage()]
    assert [text.partition(" have ")[0] for text in said] == [
        "1 of 2 texts to choose from",
        "1 of 2 texts of the prompts and contexts",
    ]
    assert "1 of them hold nothing else (the first: '红')" in said[0]


def test_answers_classes_and_rankings_have_the_scores_of_vt_score(
    vt, trained, directory, data_directory, tmp_path
):
    def scores(kind: str, *options: str) -> list[list[float]]:
        out = str(tmp_path / kind)
        fixed = [str(data_directory), "--path", str(trained), "--out", out, "--cpu"]
        run_main("vt_fairseq.cli.score", kind, *fixed, "--num-workers", "0", *options)
        lines = (tmp_path / kind / "scores.jsonl").read_text().splitlines()
        return [json.loads(line)["scores"] for line in lines]

    rows, asked = clips_of(directory, "test")
    answers = vt.answer(
        **asked, question=[r.question for r in rows], candidates=[r.candidates for r in rows]
    )
    for found, expected in zip(answers, scores("vqa"), strict=True):
        assert found.scores == pytest.approx(expected, abs=1e-5)
        assert found.text == found.texts[int(np.argmax(expected))]
    # The class names are in the checkpoint.
    for found, expected in zip(vt.classify(**asked), scores("classify"), strict=True):
        assert found.scores == pytest.approx(expected, abs=1e-5)
        assert len(found.texts) == len(directory.classes("label")) > 5
        assert found.order == list(np.argsort(-np.array(expected), kind="stable"))
        assert sum(found.probabilities) == pytest.approx(1)
    rows, asked = clips_of(directory, "retrieval")
    expected = scores("retrieval", "--split", "retrieval")
    captions = [row.captions[0] for row in rows]
    assert np.allclose(vt.score(**asked, texts=captions), expected, rtol=0, atol=1e-5)
    ranking = vt.rank(captions[0], **asked)
    column = np.array(expected)[:, 0]
    assert [one.index for one in ranking] == list(np.argsort(-column, kind="stable"))
    assert [one.start for one in ranking] == [rows[one.index].start for one in ranking]


def test_one_video_gives_what_a_list_gives_at_its_place_whatever_the_batch_and_the_workers(
    trained, videos
):
    vt = VideoTranslate.from_pretrained(trained, device="cpu")
    listed = vt.answer(videos, QUESTION, CANDIDATES, start=1, end=3.5)
    captions = vt.caption([str(video) for video in videos])
    vt.batch_size, vt.max_nodes, vt.num_workers = 1, 2, 1
    for one, expected in zip(vt.caption(videos), captions, strict=True):
        assert one.text == expected.text and one.score == pytest.approx(expected.score, abs=1e-4)
    for video, expected in zip(videos, listed, strict=True):
        alone = vt.answer(video, QUESTION, CANDIDATES, start=1, end=3.5)
        assert alone.scores == pytest.approx(expected.scores, abs=1e-4)
        assert (alone.start, alone.end, alone.texts) == (1, 3.5, tuple(CANDIDATES))
    normalized = vt.answer(videos[0], QUESTION, CANDIDATES, start=1, end=3.5, length_normalize=True)
    lengths = [len(vt.loaded.task.tokenizer.encode(text)) + 1 for text in CANDIDATES]
    assert np.allclose(np.multiply(normalized.scores, lengths), listed[0].scores, atol=1e-4)
    assert vt.caption([]) == vt.rank("x", []) == []


def test_frames_may_be_given_instead_of_a_file(vt, videos):
    loader = vt.loaded.task.clip_loader(Path(), train=False)
    every = FrameSampling(num_frames=60, max_seconds=None)
    # As the model's loader scales them, so that nothing is lost on the way.
    frames = read_clip(videos[0], every, end=6, short_side=loader.short_side)
    shown = loader.from_array(frames)
    assert shown.shape == (8, 32, 32, 3)
    scores = vt.score(frames, CANDIDATES)
    assert vt.score([torch.from_numpy(frames)], CANDIDATES) == [scores]
    from_file = vt.score(videos[0], CANDIDATES, end=6)
    assert scores == pytest.approx(from_file, abs=0.05)
    # Not because the model does not look: another clip has other scores.
    other = vt.score(np.zeros_like(frames), CANDIDATES)
    assert scores != pytest.approx(other, abs=0.05)
    large = np.repeat(np.repeat(frames, 2, axis=1), 2, axis=2)
    assert vt.score(large, CANDIDATES) == pytest.approx(scores, abs=0.05)
    mixed = vt.score([frames, videos[1]], CANDIDATES)
    assert mixed[0] == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("count", [1, 3, 8, 50, 119])
def test_given_frames_are_picked_as_from_a_file_of_constant_rate(count):
    sampling = FrameSampling(num_frames=8, max_seconds=None)
    times = Plan(sampling, None, None, 0.5).times(count / 25)
    assert pick_frames(sampling, count).tolist() == (times * 25 + TIME_EPSILON).astype(int).tolist()
    consecutive = pick_frames(FrameSampling(num_frames=8, mode="consecutive"), count)
    assert np.all(np.diff(consecutive) == 1) or count < 8
    assert consecutive.min() >= 0 and consecutive.max() <= count - 1


def test_a_folder_of_frames_is_a_video(vt, tmp_path):
    folder = write_folder(tmp_path / "frames", 6)
    same = write_numbered(tmp_path / "same.mp4", 6, rate=3)
    assert vt.score(folder, ["a"]) == pytest.approx(vt.score(same, ["a"]), abs=0.1)


def test_top_k_sampling_repeats_with_its_seed_and_leaves_the_callers_random_numbers_alone(
    vt, videos
):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    several = Decoding("topk", topk=50, num_candidates=4, max_tokens=6)
    first = vt.caption(videos, decoding=several)
    assert torch.equal(torch.rand(3), expected)
    assert vt.caption(videos, decoding=several) == first
    assert vt.caption(videos, decoding=Decoding("topk", 5, 50, 2, 4, 6)) != first
    assert all(len(caption.candidates) == 4 for caption in first)
    scores = [one.score for caption in first for one in caption.candidates]
    assert all(math.isfinite(score) and score < 0 for score in scores)


def test_a_captions_score_is_the_likelihood_of_its_tokens(vt, videos):
    decoding = Decoding("beam", beam=3, num_candidates=3, max_tokens=4)
    encode = vt.loaded.task.tokenizer.encode
    caption = vt.caption(videos[0], decoding=decoding)
    # A text may be written with other tokens than those that were generated, less likely ones.
    same = [c for c in caption.candidates if len(encode(c.text)) == len(c.text.split()) > 0]
    assert same, caption
    scores = vt.score(videos[0], [c.text for c in same])
    assert scores == pytest.approx([c.score for c in same], abs=1e-3)


def test_the_encoders_states_come_without_padding_and_with_their_tokens(vt, videos):
    questions = ["what is it ?", "what is the red thing on the left doing now ?"]
    found = vt.encode(videos[:2], action="answer", question=questions)
    alone = vt.encode(videos[0], action="answer", question=questions[0])
    tokenizer = vt.loaded.task.tokenizer
    for one, question in zip(found, questions, strict=True):
        assert one.states.shape == (len(one.tokens), 128) and one.cls.shape == (128,)
        assert one.tokens[0] == tokenizer.cls and one.tokens[-2:] == (tokenizer.sep, EOS)
        assert set(one.tokens[one.video]) == {tokenizer.video} and len(one.states[one.video]) == 4
        assert question in tokenizer.decode(one.tokens)
    torch.testing.assert_close(alone.states, found[0].states, atol=1e-4, rtol=1e-4)


def test_replayed_steps_write_and_score_the_same(vt, videos):
    """As on a GPU with ``cuda_graphs``; a recording stands in for the graphs."""
    labels = ["a red square", "a blue circle", "a green triangle moves"]

    def results() -> list[tuple[str, float]]:
        captions = vt.caption(videos, decoding=Decoding("beam", beam=4, num_candidates=2))
        captions += vt.caption(videos, decoding="greedy")
        choices = vt.classify(videos, labels) + vt.answer(videos, QUESTION, CANDIDATES)
        texts = [(text.text, text.score) for one in captions for text in one.candidates]
        return texts + [pair for one in choices for pair in zip(one.texts, one.scores, strict=True)]

    expected, decoder, replays = results(), vt.loaded.model.decoder, Replays()
    decoder.graphs = StepGraphs(replays)
    try:
        found = results()
    finally:
        decoder.graphs = None
    assert len(replays.captured) >= 4 and replays.launches > 8
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [n for _, n in found] == pytest.approx([n for _, n in expected], abs=1e-4)


def test_cuda_graphs_without_a_gpu_are_refused_in_a_line(trained):
    with pytest.raises(UserError, match="--cuda-graphs needs a GPU"):
        VideoTranslate.from_pretrained(trained, device="cpu", cuda_graphs=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_scores(vt, trained, videos, dtype):
    half = VideoTranslate.from_pretrained(trained, device="cpu", dtype=dtype)
    assert next(half.loaded.model.parameters()).dtype == dtype
    found, expected = (model.answer(videos, QUESTION, CANDIDATES) for model in (half, vt))
    for one, other in zip(found, expected, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=0.02)
    captions = half.caption(videos, decoding="topk")
    assert all(math.isfinite(caption.score) for caption in captions)
    assert half.encode(videos[0]).states.dtype == torch.float32


class NoDoubles(TorchDispatchMode):
    """Fails at every operation that makes an fp64 tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else [out]:
            assert not (isinstance(made, torch.Tensor) and made.dtype == torch.float64), func
        return out


def test_nothing_is_computed_in_fp64_which_apples_gpus_do_not_have(vt, videos):
    with pytest.raises(AssertionError), NoDoubles():
        torch.ones(1).double()
    with NoDoubles():
        vt.caption(videos[0])
        vt.caption(videos[0], decoding="topk")
        vt.answer(videos[0], QUESTION, CANDIDATES)


def test_a_video_that_cannot_be_read_raises_or_is_none_at_its_place(trained, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    vt = VideoTranslate.from_pretrained(trained, device="cpu")
    with pytest.raises(VideoError, match=re.escape(f"{broken}: not a video file")):
        vt.caption([videos[0], broken])
    with pytest.raises(VideoError, match="no such file"):
        vt.caption(tmp_path / "none.mp4")
    seen = []
    vt.on_error = lambda place, reason: seen.append((place, reason.split(":")[0]))
    asked = [videos[0], broken, videos[1]]
    captions = vt.caption(asked)
    assert captions[1] is None and captions[0].text is not None and captions[2] is not None
    assert [r is None for r in vt.answer(asked, QUESTION, CANDIDATES)] == [False, True, False]
    assert [r is None for r in vt.score(asked, ["a"])] == [False, True, False]
    assert [r is None for r in vt.encode(asked)] == [False, True, False]
    assert {one.index for one in vt.rank("a", asked)} == {0, 2}
    assert seen == [(1, "not a video file of a known format")] * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vt, v: vt.caption(np.zeros((8, 32, 32), np.uint8)), "frames (F, H, W, 3)"),
        (lambda vt, v: vt.caption(np.zeros((8, 32, 32, 3), np.float32)), "type float32"),
        (lambda vt, v: vt.caption(np.zeros((0, 32, 32, 3), np.uint8)), "(0, 32, 32, 3)"),
        (lambda vt, v: vt.caption(np.zeros((8, 32, 32, 3), np.uint8), start=1), "with files"),
        (lambda vt, v: vt.caption(v, start=[1, 2]), "start: expected one value, or 3"),
        (lambda vt, v: vt.answer(v, "?", []), "0 lists of candidates for 3 videos"),
        (lambda vt, v: vt.answer(v[0], "?", [[]]), "no texts to choose from"),
        (lambda vt, v: vt.score(v, "a cat"), "found the text 'a cat'"),
        (lambda vt, v: vt.answer(v, "?", "a cat"), "found the text 'a cat'"),
        (lambda vt, v: vt.generate(v, "sing"), "unknown action 'sing'"),
        (lambda vt, v: vt.classify(v, action="caption"), "name the labels"),
        (lambda vt, v: vt.caption(v, decoding="dream"), "beam, greedy, topk"),
        (lambda vt, v: Decoding("greedy", num_candidates=2), "one candidate"),
        (lambda vt, v: Decoding(beam=0), "must be positive"),
    ],
)
def test_a_mistake_in_the_arguments_is_named(vt, videos, call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call(vt, videos)


def test_a_checkpoint_needs_no_other_file(vt, trained, tmp_path, videos):
    def move(state):
        state["cfg"]["task"] |= {"data": "/gone", "video_root": "/gone"}

    alone = changed(trained, tmp_path / "alone.pt", move)
    moved = VideoTranslate.from_pretrained(str(alone), device="cpu")
    assert moved.loaded.task.data is None
    assert moved.caption(videos[0]) == vt.caption(videos[0])


def test_an_older_checkpoint_without_a_vocabulary_takes_one(vt, trained, directory, tmp_path):
    def forget(state):
        del state["task_state"]["vocabulary"], state["task_state"]["classes"]

    old = changed(trained, tmp_path / "old.pt", forget)
    with pytest.raises(UserError, match="holds no vocabulary"):
        VideoTranslate.from_pretrained(old, device="cpu")
    found = VideoTranslate.from_pretrained(
        old, device="cpu", vocabulary=directory.path / "spiece.model"
    )
    video = next(directory.video_root.glob("*.mp4"))
    assert found.caption(video) == vt.caption(video)
    other = tmp_path / "other.model"
    other.write_bytes(train_vocabulary(["quite another text"], 60))
    with pytest.raises(UserError, match="not the vocabulary of"):
        VideoTranslate.from_pretrained(old, device="cpu", vocabulary=other)


def test_an_exported_folder_is_opened_like_a_checkpoint(vt, trained, videos, tmp_path):
    run_main(
        "vt_fairseq.cli.init", "--from-checkpoint", str(trained), "--export", f"{tmp_path}/dir"
    )
    assert not list(tmp_path.rglob("*.pt"))
    shared = VideoTranslate.from_pretrained(tmp_path / "dir", device="cpu")
    assert shared.caption(videos) == vt.caption(videos)
    assert shared.classify(videos[0]) == vt.classify(videos[0])


OF_ANOTHER_TASK = {"model": {}, "task_state": {}, "cfg": {"task": {"_name": "x"}}}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no checkpoint at"),
        (lambda path: path.write_bytes(b""), "holds no tensors"),
        (lambda path: path.write_text("text, not a checkpoint"), "holds no tensors"),
        (lambda path: torch.save({"model": {}}, path), "expected cfg, model and task_state"),
        (lambda path: torch.save([1], path), "expected cfg, model and task_state"),
        (lambda path: torch.save(OF_ANOTHER_TASK, path), "of the task x, expected video_translate"),
        (lambda path: path.mkdir(), "no file"),
        (lambda path: path.write_bytes(path.with_name("whole.pt").read_bytes()[:-5000]), "damaged"),
    ],
)
def test_what_is_no_checkpoint_ends_in_one_line(trained, tmp_path, write, message):
    path = tmp_path / "checkpoint.pt"
    (tmp_path / "whole.pt").symlink_to(trained)
    write(path)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        VideoTranslate.from_pretrained(path, device="cpu")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_blank_frames_are_shown_with_the_loaders_option():
    blank = ClipLoader(
        Path(), FrameSampling(4), ClipTransform(16, train=False), "center", blank=True
    )
    shown = blank.from_array(np.zeros((9, 20, 30, 3), np.uint8))
    assert shown.shape == (4, 16, 16, 3) and len(np.unique(shown)) == 1 and shown.max() > 0


def test_the_example_in_the_readme_runs(trained, videos, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint_best.pt").symlink_to(trained)
    for name, video in zip(("clip.mp4", "other.mp4"), videos, strict=False):
        (tmp_path / name).symlink_to(video)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    caption, answer, best = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert re.fullmatch(r"a (cat|dog) \(0\.\d+, 0\.\d+\)", answer)
    assert re.fullmatch(r"[01] -\d+\.\d+", best)
    # Without context, as the example asks; the file is given by its name alone.
    assert caption == VideoTranslate.from_pretrained(trained, device="cpu").caption("clip.mp4").text


LIGHT = """
import logging, sys
import vt_fairseq
assert "torch" not in sys.modules and "fairseq" not in sys.modules
vt = vt_fairseq.VideoTranslate.from_pretrained(sys.argv[1], device="cpu")
print(len(vt.caption(sys.argv[2]).candidates))
loaded = [name for name in sys.modules if name.split(".")[0] == "deepspeed"]
assert not loaded, loaded
assert "torch._dynamo" not in sys.modules  # takes seconds; work on the meta device imports it
assert not logging.getLogger().handlers
import importlib.util
from fairseq.optim import cpu_adam
assert cpu_adam.has_deepspeed == (importlib.util.find_spec("deepspeed") is not None)
"""


def test_inference_does_not_import_deepspeed_and_the_package_imports_nothing(trained, videos):
    command = [sys.executable, "-c", LIGHT, trained, videos[0]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_dtype_that_the_processor_emulates_is_warned_of(trained, monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    open_checkpoint(trained, device="cpu")
    assert "instructions" not in caplog.text
    open_checkpoint(trained, device="cpu", dtype=torch.bfloat16)
    assert "bfloat16 on a processor without instructions for it" in caplog.text
