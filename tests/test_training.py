"""The real commands on a small MiniWorld, in processes of their own."""

import os
import re
import signal
import subprocess
import time

import pytest
import torch

from tests.commands import PLUGIN, TINY, command_line, environment, run, train_losses

MULTITASK = ["--actions", "caption,classify,answer", "--reuse-batch", "--disable-validation"]


@pytest.fixture(scope="module")
def uninterrupted(data_directory, tmp_path_factory) -> dict:
    """Losses of 16 updates over two epochs of three batches with three uses each."""
    save = tmp_path_factory.mktemp("uninterrupted")
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, *MULTITASK, "--save-dir", save],
        *["--max-update", "16", "--num-workers", "1", "--clip-norm", "1"],
    )
    losses = train_losses(log)
    assert sorted(losses) == list(range(1, 17))
    return losses


def test_a_killed_run_goes_on_with_the_same_losses_to_the_last_digit(
    data_directory, tmp_path, uninterrupted
):
    arguments = [
        *[data_directory, *PLUGIN, *TINY, *MULTITASK, "--save-dir", tmp_path],
        *["--max-update", "16", "--num-workers", "2", "--clip-norm", "1"],
        # Every second update: the saved ones lie between the uses of a batch, too.
        *["--save-interval-updates", "2", "--keep-interval-updates", "1"],
    ]
    seen: dict[int, tuple[str, str]] = {}
    for stop_after in (5, 13):
        log = tmp_path / f"log{stop_after}"
        with open(log, "w") as file:
            process = subprocess.Popen(
                command_line("fairseq-train", *arguments),
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
            )
            deadline = time.monotonic() + 400
            while max(train_losses(log.read_text()), default=0) < stop_after:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seen.update(train_losses(log.read_text()))
    log = run("fairseq-train", *arguments)
    resumed = train_losses(log)
    assert 1 < min(resumed) <= 14
    assert seen | resumed == uninterrupted
    # What was computed twice, before the kill and after, is the same as well.
    assert seen == {n: uninterrupted[n] for n in seen}


def test_the_last_epoch_is_validated_and_saved_whatever_the_intervals(data_directory, tmp_path):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--actions", "caption", "--save-dir", tmp_path],
        *["--max-epoch", "3", "--save-interval", "2", "--validate-interval", "10"],
    )
    updates = max(train_losses(log))
    assert re.findall(r"\| valid \| epoch (\d+) ", log) == ["003"]
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] == updates
    found = {path.name for path in tmp_path.glob("*.pt")}
    assert found == {f"checkpoint{name}.pt" for name in ("2", "3", "_best", "_last")}


def test_the_number_of_workers_does_not_change_the_losses(data_directory, tmp_path, uninterrupted):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, *MULTITASK, "--save-dir", tmp_path, "--no-save"],
        *["--max-update", "4", "--num-workers", "0", "--clip-norm", "1"],
    )
    assert train_losses(log) == {n: uninterrupted[n] for n in range(1, 5)}


@pytest.mark.slow
def test_activation_checkpointing_does_not_change_the_losses(
    data_directory, tmp_path, uninterrupted
):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, *MULTITASK, "--save-dir", tmp_path, "--no-save"],
        *["--max-update", "3", "--num-workers", "1", "--clip-norm", "1"],
        *["--checkpoint-activations", "--checkpoint-video-stages", "4"],
    )
    for update, printed in train_losses(log).items():
        # Summation in another order, beside what is printed of the numbers.
        expected = [float(x) for x in uninterrupted[update]]
        assert [float(x) for x in printed] == pytest.approx(expected, abs=2e-3), update


def test_a_checkpoint_loads_with_weights_only_and_without_the_plugins_list(trained):
    state = torch.load(trained, weights_only=True)
    assert state["cfg"]["task"]["num_frames"] == 8


def test_the_video_networks_learning_rate_follows_the_scheduler_at_its_scale(trained):
    groups = torch.load(trained, weights_only=True)["last_optimizer_state"]["param_groups"]
    scales = {group["lr_scale"]: group["lr"] for group in groups}
    assert set(scales) == {1.0, 0.1}
    assert scales[0.1] == pytest.approx(0.1 * scales[1.0])


@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(["--beam", "1"], id="greedy", marks=pytest.mark.slow),
        pytest.param(["--beam", "5"], id="beam"),
        pytest.param(
            ["--sampling", "--sampling-topk", "5", "--beam", "1", "--seed", "1"],
            id="topk",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_generation_writes_one_prediction_a_row_with_the_checkpoints_input_options(
    data_directory, tmp_path, trained, decoding
):
    # Neither --num-frames nor --frame-size: they come from the checkpoint.
    log = run(
        "fairseq-generate",
        *[data_directory, *PLUGIN, "--path", trained, "--gen-subset", "test"],
        *["--action", "classify", "--max-len-b", "12", "--results-path", tmp_path, *decoding],
        cwd=tmp_path,
    )
    assert "num_frames = 8, from the checkpoint" in log
    printed = (tmp_path / "generate-test.txt").read_text()
    assert printed.splitlines()[-1].startswith("Generate test with beam="), "whole"
    predictions = (tmp_path / "predictions.jsonl").read_text().splitlines()
    references = (tmp_path / "references.jsonl").read_text().splitlines()
    assert len(predictions) == len(references) == printed.count("\nD-") == 5
    evaluated = run(
        "vt-evaluate",
        *["captions", "--predictions", tmp_path / "predictions.jsonl"],
        *["--references", tmp_path / "references.jsonl", "--out", tmp_path / "metrics.json"],
        *["--coco", "off"],
    )
    assert "bleu4" in evaluated and "sacrebleu" in evaluated


@pytest.mark.parametrize(
    "kind",
    ["vqa", *(pytest.param(k, marks=pytest.mark.slow) for k in ("retrieval", "classify"))],
)
def test_scoring_ranks_candidates_for_every_row(data_directory, tmp_path, trained, kind):
    split = "retrieval" if kind == "retrieval" else "test"
    run(
        "vt-score",
        *[kind, data_directory, "--path", trained, "--split", split, "--out", tmp_path, "--cpu"],
    )
    rows = len((tmp_path / "predictions.jsonl").read_text().splitlines())
    assert rows == {"retrieval": 10, "test": 5}[split]
    assert (tmp_path / "metrics.json").exists() and (tmp_path / "scores.jsonl").exists()


@pytest.mark.slow
def test_scores_do_not_depend_on_the_batch_size(data_directory, tmp_path, trained):
    import json

    found = []
    for size in (1, 7):
        run(
            "vt-score",
            *["vqa", data_directory, "--path", trained, "--out", tmp_path / str(size), "--cpu"],
            *["--batch-size", size, "--max-nodes", size],
        )
        lines = (tmp_path / str(size) / "scores.jsonl").read_text().splitlines()
        found.append([score for line in lines for score in json.loads(line)["scores"]])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_broken_videos_are_counted_in_training_and_missing_in_evaluation(
    data_directory, tmp_path, trained
):
    import json
    import shutil

    videos = tmp_path / "videos"
    shutil.copytree(data_directory / "world" / "videos", videos)
    (videos / "train-00001.mp4").write_bytes(b"not a video")
    (videos / "test-00000.mp4").unlink()
    (videos / "retrieval-00000.mp4").write_bytes(b"")
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--video-root", videos, "--no-save"],
        *["--max-epoch", "1", "--save-dir", tmp_path / "save", "--disable-validation"],
    )
    assert log.count("cannot read clip train-00001-3: ") == 1
    # The five clips of the broken file, and once more each time that one was drawn to replace one.
    assert int(re.search(r"\| train \|.* bad_clips (\d+)", log)[1]) >= 5
    generate = [data_directory, *PLUGIN, "--path", trained, "--video-root", videos]
    generate += ["--action", "caption", "--results-path", tmp_path, "--max-len-b", "5"]
    run("fairseq-generate", *generate, "--gen-subset", "retrieval")
    records = [json.loads(x) for x in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [r.get("missing", False) for r in records] == [True] * 5 + [False] * 5
    assert not any(r["prediction"] for r in records[:5])
    score = [data_directory, "--path", trained, "--out", tmp_path / "scores", "--cpu"]
    score = ["vqa", *score, "--videos", videos, "--split"]
    run("vt-score", *score, "retrieval")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert (metrics["missing"], metrics["n"]) == (5, 10)
    # Of the split test nothing is left: a failure, which leaves no result.
    log = run("fairseq-generate", *generate, expected_code=1)
    assert log.splitlines()[-1].startswith("error: none of the 5 clips could be read")
    assert (tmp_path / "predictions.jsonl").read_text().count("\n") == len(records)
    assert not (tmp_path / "generate-test.txt").exists()
    score[score.index(tmp_path / "scores")] = tmp_path / "none"
    log = run("vt-score", *score, "test", expected_code=1)
    assert log.splitlines()[-1].startswith("vt-score: error: none of the 5 clips could be read")
    assert not (tmp_path / "none" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--actions", "sing"], "error: unknown action"),
        (["--crop-scales", "a"], "error: --crop-scales: expected numbers"),
        (["--video-root", "/nowhere"], "clips in a row could not be read"),
    ],
)
def test_a_users_mistake_ends_in_one_line_and_not_in_a_traceback(
    data_directory, tmp_path, change, message
):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--save-dir", tmp_path, "--max-update", "1", *change],
        expected_code=2,
    )
    assert message in log.splitlines()[-1] and "Traceback" not in log


def test_a_model_refuses_data_with_another_vocabulary(tmp_path, trained):
    run(
        "vt-prepare",
        *["miniworld", "--size", "tiny", "--out", tmp_path / "data", "--train-vocabulary", "90"],
    )
    log = run(
        "vt-score",
        *["vqa", tmp_path / "data", "--path", trained, "--out", tmp_path / "scores", "--cpu"],
        expected_code=2,
    )
    assert "another vocabulary" in log.splitlines()[-1] and "Traceback" not in log


def test_sharding_that_would_lose_the_video_networks_learning_rate_is_refused(
    data_directory, tmp_path
):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--save-dir", tmp_path, "--max-update", "1"],
        *["--zero-sharding", "os", "--video-lr-scale", "0.1", "--disable-validation"],
        expected_code=2,
    )
    assert "--zero-stage 1" in log.splitlines()[-1] and "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--bf16"], "FairseqAdam vs FP16Optimizer"),
        (["--optimizer", "adafactor"], "FairseqAdam vs FairseqAdafactor"),
    ],
)
def test_what_cannot_go_on_with_the_checkpoints_optimizer_state_says_so_in_a_line(
    data_directory, tmp_path, trained, options, names
):
    arguments = [data_directory, *PLUGIN, *TINY, "--save-dir", tmp_path, "--max-epoch", "9"]
    log = run("fairseq-train", *arguments, "--restore-file", trained, *options, expected_code=2)
    line = log.splitlines()[-1]
    said = f"{trained} was trained with another optimizer, criterion or precision ({names})"
    assert f"{said}: add --reset-optimizer" in line
    assert "Traceback" not in log


def test_a_missing_data_directory_is_named(tmp_path):
    log = run(
        "fairseq-train",
        *[tmp_path / "none", *PLUGIN, *TINY, "--save-dir", tmp_path],
        expected_code=2,
    )
    assert str(tmp_path / "none") in log.splitlines()[-1] and "Traceback" not in log


def test_a_checkpoint_that_would_run_code_is_refused(data_directory, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"model": Hostile()}, tmp_path / "hostile.pt")
    run(
        "fairseq-generate",
        *[data_directory, *PLUGIN, "--path", tmp_path / "hostile.pt"],
        expected_code=2,
    )
    assert not (tmp_path / "ran").exists()
