"""Discriminative fine-tuning: the loss against naive ones, and the real commands on MiniWorld."""

import math
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics

import vt_fairseq.plugin  # noqa: F401
from tests.commands import PLUGIN, environment, launcher, run, train_losses
from vt_fairseq import VideoTranslate
from vt_fairseq.criterions.classification import (
    ClassificationCriterion,
    head_counts,
    logits_of_clips,
)
from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion
from vt_fairseq.data.head_targets import NO_CLASS, candidate_mask
from vt_fairseq.errors import UserError

VERBS, NOUNS = 4, 6


class Logits(torch.nn.Module):
    """A model whose logits are its parameters."""

    def __init__(self, **logits: torch.Tensor):
        super().__init__()
        self.logits = torch.nn.ParameterDict(logits)

    def forward(self, src_tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(self.logits.items())


def criterion() -> ClassificationCriterion:
    return ClassificationCriterion(SimpleNamespace(heads=object(), target_dictionary=None))


def sample(missing: list[bool], sources: int | None = None, **classes: list[int]) -> dict:
    rows = len(missing) if sources is None else sources
    return {
        "ntokens": 7,
        "num_labeled": sum(
            not lost and any(value != NO_CLASS for value in row)
            for lost, row in zip(missing, zip(*classes.values(), strict=True), strict=True)
        ),
        "nsentences": len(missing),
        "net_input": {"src_tokens": torch.ones(rows, 3, dtype=torch.long)},
        "missing": torch.tensor(missing),
        "unreadable": [],
        "classes": {name: torch.tensor(values) for name, values in classes.items()},
    }


def random_logits(rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "verb": torch.randn(rows, VERBS, generator=generator),
        "noun": torch.randn(rows, NOUNS, generator=generator),
    }


def test_the_loss_is_the_sum_of_the_heads_over_the_clips_that_have_a_class_and_were_seen():
    logits = random_logits(5)
    verbs, nouns = [3, NO_CLASS, 0, 1, NO_CLASS], [5, 2, NO_CLASS, 0, NO_CLASS]
    missing = [False, False, False, True, False]
    model = Logits(**logits)
    loss, size, log = criterion()(model, sample(missing, verb=verbs, noun=nouns))
    naive = 0.0
    for name, targets in (("verb", verbs), ("noun", nouns)):
        for row, target in enumerate(targets):
            if target != NO_CLASS and not missing[row]:
                probabilities = [math.exp(x) for x in logits[name][row].tolist()]
                naive -= math.log(probabilities[target] / sum(probabilities))
    assert loss.item() == pytest.approx(naive, abs=1e-5)
    assert size == log["sample_size"] == 3
    assert (log["verb_count"], log["noun_count"], log["action_count"]) == (2, 2, 1)
    assert (log["verb_unlabeled"], log["noun_unlabeled"]) == (2, 2)
    loss.backward()
    assert model.logits["verb"].grad.ne(0).any(1).tolist() == [True, False, True, False, False]


def test_an_answers_loss_is_the_softmax_over_its_own_questions_candidates():
    scores = torch.tensor([[0.3], [1.2], [-0.5], [2.0], [0.1]])
    batch = sample([False, False, False], sources=5, answer=[1, 0, NO_CLASS])
    batch["candidates"] = candidate_mask([2, 3, 0])
    model = Logits(answer=scores)
    loss, size, log = criterion()(model, batch)
    naive = -math.log(math.exp(1.2) / (math.exp(0.3) + math.exp(1.2)))
    naive -= math.log(math.exp(-0.5) / (math.exp(-0.5) + math.exp(2.0) + math.exp(0.1)))
    assert loss.item() == pytest.approx(naive, abs=1e-5) and size == 2
    assert log["answer_correct"] == 1 and log["answer_count"] == 2
    loss.backward()
    assert model.logits["answer"].grad.isfinite().all()


def logged(logs: list[dict]) -> dict[str, float]:
    with metrics.aggregate(new_root=True) as found:
        ClassificationCriterion.reduce_metrics(logs)
    return found.get_smoothed_values()


def test_accuracies_equal_a_recount_over_batches_of_different_sizes():
    generator = torch.Generator().manual_seed(1)
    logs, right = [], {"verb": [], "noun": [], "action": []}
    for rows in (5, 1, 3):
        logits = {
            "verb": torch.randn(rows, VERBS, generator=generator),
            "noun": torch.randn(rows, NOUNS, generator=generator),
        }
        verbs = torch.randint(VERBS, (rows,), generator=generator).tolist()
        nouns = torch.randint(NOUNS, (rows,), generator=generator).tolist()
        verbs[0], nouns[0] = int(logits["verb"][0].argmax()), int(logits["noun"][0].argmax())
        logs.append(
            criterion()(Logits(**logits), sample([False] * rows, verb=verbs, noun=nouns))[2]
        )
        for row in range(rows):
            best = {
                name: max(range(len(x[row])), key=x[row].tolist().__getitem__)
                for name, x in logits.items()
            }
            right["verb"].append(best["verb"] == verbs[row])
            right["noun"].append(best["noun"] == nouns[row])
            right["action"].append(right["verb"][-1] and right["noun"][-1])
    found = logged(logs)
    for name, hits in right.items():
        assert found[f"{name}_accuracy"] == pytest.approx(100 * sum(hits) / len(hits), abs=0.01)
    assert 0 < sum(right["action"]) < 9


def test_a_head_without_any_class_logs_its_unlabeled_clips_and_no_nan():
    log = criterion()(
        Logits(**random_logits(2)), sample([False] * 2, verb=[1, 2], noun=[NO_CLASS] * 2)
    )[2]
    found = logged([log])
    assert found["noun_unlabeled"] == 2 and "verb_unlabeled" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_what_is_logged_of_heads_is_per_clip_in_bits_and_per_cent_over_all_processes():
    """Three clips with a verb, of 5 nats, two of them right; the other process has no such head."""
    log = {"loss": 5.0, "sample_size": 3, "verb_count": 3, "verb_correct": 2, "verb_loss": 5.0}
    other = {"loss": 0.0, "sample_size": 0}
    bits = 5 / 3 / math.log(2)  # 2.40449...
    expected = {"loss": 2.4045, "verb_loss": 2.4045, "verb_accuracy": 66.67, "bad_clips": 0}
    assert bits == pytest.approx(2.404492, abs=1e-6)
    for logs in ([log, other], [other, log]):
        assert logged(logs) == expected
    alone = {"loss": math.log(2), "sample_size": 1}
    alone |= {"noun_loss": math.log(2), "noun_count": 1, "noun_correct": 1}
    assert logged([alone]) == {"loss": 1, "noun_loss": 1, "noun_accuracy": 100, "bad_clips": 0}


def test_a_batch_without_sources_costs_nothing_and_still_has_a_gradient():
    batch = sample([False] * 2, sources=0, answer=[NO_CLASS] * 2)
    batch["candidates"] = candidate_mask([0, 0])
    model = Logits(answer=torch.ones(1, 1))
    loss, size, log = criterion()(model, batch)
    loss.backward()
    assert loss.item() == 0 and size == 0 and log["answer_count"] == 0
    assert logits_of_clips(model, batch)["answer"].tolist() == [[0], [0]]
    assert model.logits["answer"].grad.eq(0).all()


def test_each_criterion_says_what_it_needs():
    with pytest.raises(UserError, match="--heads verb,noun or --heads answer"):
        ClassificationCriterion(SimpleNamespace(heads=None))
    with pytest.raises(UserError, match="--criterion video_translate_classification"):
        VideoTranslateCriterion(SimpleNamespace(heads=object()))


# --- the commands --------------------------------------------------------------------------------

TINY = [
    *["--arch", "video_translate_tiny", "--num-frames", "4", "--frame-size", "32", "--seed", "5"],
    *["--optimizer", "adam", "--batch-size", "8", "--no-progress-bar", "--log-format", "simple"],
    *["--log-interval", "1", "--no-epoch-checkpoints"],
]
CLASSIFY = [*TINY, "--criterion", "video_translate_classification", "--heads", "verb,noun"]
ANSWER = [*TINY, "--criterion", "video_translate_classification", "--heads", "answer"]
PAPER_RATES = [
    *["--lr", "1e-5", "--video-lr-scale", "1", "--head-lr-scale", "100"],
    *["--lr-scheduler", "step", "--lr-decay", "0.1"],
]
BEST_ACTION = ["--best-checkpoint-metric", "action_accuracy", "--maximize-best-checkpoint-metric"]


@pytest.fixture(scope="module")
def generative(data_directory, tmp_path_factory) -> Path:
    """A checkpoint of one update of generative training."""
    save = tmp_path_factory.mktemp("generative")
    run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--criterion", "video_translate", "--lr", "1e-3"],
        *["--max-update", "1", "--save-dir", save, "--disable-validation"],
    )
    return save / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def checkpoint(data_directory, generative, tmp_path_factory) -> Path:
    """Verb and noun heads after five updates at the paper's rates, from the generative one."""
    save = tmp_path_factory.mktemp("discriminative")
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *CLASSIFY, *PAPER_RATES, "--lr-deacy-period", "3"],
        *["--finetune-from-model", generative, "--save-dir", save, "--max-update", "5"],
        *BEST_ACTION,
    )
    (save / "log").write_text(log)
    return save / "checkpoint_last.pt"


def test_fine_tuning_starts_from_the_generative_weights_and_names_what_is_new(
    generative, checkpoint
):
    log = (checkpoint.parent / "log").read_text()
    new = set(re.findall(r"(heads\.\S+) is new: the checkpoint does not have it", log))
    assert new == {"heads.verb.weight", "heads.verb.bias", "heads.noun.weight", "heads.noun.bias"}
    before, after = (torch.load(p, weights_only=True)["model"] for p in (generative, checkpoint))
    assert after.keys() - before.keys() == new
    decoder = [name for name in before if name.startswith("decoder.") and "embed" not in name]
    assert decoder and all(torch.equal(before[name], after[name]) for name in decoder)
    # Five updates of at most 1e-5 move no weight of the encoder far, and some at all.
    name = "encoder.transformer.layers.0.feed_forward.wi.weight"
    assert 0 < (before[name] - after[name]).abs().max() < 6e-5


def test_body_and_heads_have_their_own_rates_and_both_fall_tenfold_at_the_period(checkpoint):
    log = (checkpoint.parent / "log").read_text()
    assert "3,870 parameters learn at 100 times --lr" in log
    rates = re.findall(r"\| train_inner \|.*num_updates=(\d).*? lr=([\d.e-]+)", log)
    # fairseq prints the rate of the update that comes next.
    assert rates == [(n, "1e-05" if n in "12" else "1e-06") for n in "12345"]
    groups = torch.load(checkpoint, weights_only=True)["last_optimizer_state"]["param_groups"]
    found = {group["lr_scale"]: group["lr"] for group in groups}
    assert found == {100.0: pytest.approx(1e-4), 1.0: pytest.approx(1e-6)}


def test_a_model_with_heads_is_asked_for_neither_texts_nor_likelihoods(checkpoint):
    vt = VideoTranslate.from_pretrained(checkpoint, device="cpu")
    frames = torch.zeros(8, 40, 40, 3, dtype=torch.uint8)
    for ask in (vt.caption, lambda frames: vt.score(frames, ["a cat"])):
        with pytest.raises(UserError, match="vt-score reads its"):
            ask(frames)
    assert vt.encode(frames).cls.shape == (128,)


def accuracies(log: str, line: str) -> dict[str, str]:
    last = re.findall(rf"\| {line} \|.*", log)[-1]
    return dict(
        re.findall(r"(\w+_accuracy) ([\d.]+)", last.replace("best_action_accuracy", "best"))
    )


def test_validation_in_training_and_fairseq_validate_print_the_same_accuracies(
    data_directory, checkpoint
):
    of_training = accuracies((checkpoint.parent / "log").read_text(), "valid")
    assert of_training.keys() == {"verb_accuracy", "noun_accuracy", "action_accuracy"}
    assert (checkpoint.parent / "checkpoint_best.pt").is_file()
    for size in (2, 8):
        log = run(
            "fairseq-validate",
            *[data_directory, *PLUGIN, "--path", checkpoint, "--batch-size", size],
        )
        assert accuracies(log, "valid") == of_training


@pytest.mark.parametrize("options", [CLASSIFY, ANSWER], ids=["classify", "answer"])
def test_training_lowers_the_loss(data_directory, tmp_path, options):
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *options, "--save-dir", tmp_path, "--no-save"],
        *["--lr", "1e-3", "--head-lr-scale", "3", "--video-lr-scale", "1", "--no-flip"],
        *["--max-epoch", "5", "--disable-validation", "--crop-scales", "1", "--no-context"],
    )
    losses = [float(x) for x in re.findall(r"\| train \|.* loss ([\d.]+) ", log)]
    assert len(losses) == 5
    assert losses[-1] < 0.8 * losses[0], losses


@pytest.mark.slow
@pytest.mark.parametrize("options", [CLASSIFY, ANSWER], ids=["classify", "answer"])
def test_a_run_that_was_stopped_goes_on_with_the_same_losses(
    data_directory, tmp_path, generative, options
):
    def train(updates: int, save: Path) -> dict[int, tuple[str, str]]:
        return train_losses(
            run(
                "fairseq-train",
                *[data_directory, *PLUGIN, *options, *PAPER_RATES, "--lr-deacy-period", "3"],
                *["--finetune-from-model", generative, "--save-dir", save, "--clip-norm", "1"],
                *["--max-update", updates, "--disable-validation"],
            )
        )

    whole = train(5, tmp_path / "whole")
    assert sorted(whole) == [1, 2, 3, 4, 5]
    assert train(2, tmp_path / "parts") | train(5, tmp_path / "parts") == whole


@pytest.mark.slow
def test_restoring_with_everything_reset_starts_heads_anew_as_well(
    data_directory, tmp_path, generative
):
    resets = [f"--reset-{what}" for what in ("optimizer", "lr-scheduler", "dataloader", "meters")]
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *CLASSIFY, "--lr", "1e-5", "--save-dir", tmp_path, "--no-save"],
        *["--restore-file", generative, *resets, "--disable-validation", "--max-update", "1"],
    )
    assert "heads.noun.weight is new" in log and "num_updates=1," in log


def refused(command: str, *arguments: str | Path) -> str:
    """The one line with which a command refuses."""
    log = run(command, *arguments, expected_code=2)
    assert "Traceback" not in log
    return log.splitlines()[-1]


def test_a_model_with_heads_is_not_asked_for_text(data_directory, checkpoint):
    line = refused("fairseq-generate", *[data_directory, *PLUGIN, "--path", checkpoint])
    assert "writes no text; vt-score" in line


def test_a_generative_checkpoint_is_not_resumed_as_a_discriminative_one(
    data_directory, tmp_path, generative
):
    line = refused(
        "fairseq-train",
        *[data_directory, *PLUGIN, *CLASSIFY, "--lr", "1e-5", "--save-dir", tmp_path],
        *["--restore-file", generative, "--disable-validation", "--max-update", "2"],
    )
    assert re.search(r"no heads noun, verb.*--finetune-from-model", line)


@pytest.mark.parametrize("what", ["training", "validation"])
def test_other_classes_than_those_of_the_checkpoint_are_named(
    data_directory, tmp_path, checkpoint, what
):
    other = tmp_path / "data"
    shutil.copytree(data_directory, other)
    verbs = (other / "verbs.txt").read_text().split()
    (other / "verbs.txt").write_text("\n".join([*verbs[:-1], "fly"]) + "\n")
    if what == "training":
        line = refused(
            "fairseq-train",
            *[other, *PLUGIN, *CLASSIFY, "--lr", "1e-5", "--save-dir", tmp_path / "save"],
            *["--finetune-from-model", checkpoint, "--disable-validation"],
        )
    else:
        validate = [other, *PLUGIN, "--path", checkpoint, "--batch-size", "4"]
        line = refused("fairseq-validate", *validate)
    expected = f"head verb was trained on {len(verbs)} classes.*lacks '{verbs[-1]}'.*has 'fly'"
    assert re.search(expected, line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--eval-bleu"], "--eval-bleu does not go with --heads"),
        (["--actions", "caption,classify"], "expected one action with --heads"),
        (["--criterion", "video_translate"], "which --heads freezes"),
        (["--heads", ""], "say which, --heads verb,noun"),
        (["--cache-clips", "1", "--num-workers", "2"], "expected --num-workers 0, found 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(data_directory, tmp_path, change, message):
    fixed = [data_directory, *PLUGIN, *CLASSIFY, "--lr", "1e-5", "--save-dir", tmp_path]
    assert message in refused("fairseq-train", *fixed, *change)


@pytest.mark.parametrize("others", [False, True], ids=["the same classes", "other classes"])
def test_a_model_that_writes_starts_from_the_weights_of_a_classifier(
    data_directory, checkpoint, tmp_path, others
):
    if others:  # the model has no head for them
        shutil.copytree(data_directory, tmp_path / "data")
        data_directory = tmp_path / "data"
        (data_directory / "verbs.txt").write_text("fly\n")
    options = [*TINY, "--cache-clips", "1", "--num-workers", "0", "--disable-validation"]
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *options, "--max-update", "1", "--lr", "0"],
        *["--finetune-from-model", checkpoint, "--save-dir", tmp_path],
    )
    assert "heads.verb.weight of the checkpoint is left out" in log
    before, after = (
        torch.load(path, weights_only=True)["model"]
        for path in (checkpoint, tmp_path / "checkpoint_last.pt")
    )
    trained = {n for n in before if not n.startswith("heads.") and "running" not in n}
    assert trained <= set(after) and not any(name.startswith("heads.") for name in after)
    for name in trained:
        if "num_batches" not in name:
            assert torch.equal(before[name], after[name]), name


ZERO_2 = ["--zero-stage", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [CLASSIFY, ANSWER], ids=["classify", "answer"])
@pytest.mark.parametrize(
    ("processes", "kind"),
    [
        (2, []),
        (1, ZERO_2),
        (2, ZERO_2),
    ],
    ids=["fairseq", "zero2-1", "zero2-2"],
)
def test_processes_and_deepspeed_do_not_change_the_losses(
    data_directory, tmp_path, generative, options, processes, kind
):
    def losses(processes: int, *more: str) -> dict[int, list[float]]:
        arguments = [
            *[data_directory, *PLUGIN, *options, *PAPER_RATES, "--lr-deacy-period", "3"],
            *["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--adam-eps", "1e-6"],
            *["--finetune-from-model", generative, "--save-dir", tmp_path / "save", "--no-save"],
            # Two epochs of five batches, two per update: the last of an epoch has one alone.
            *["--batch-size", "4", "--max-epoch", "2", "--disable-validation"],
            *["--zero-stage", "0", *more],
        ]
        done = subprocess.run(
            [*launcher(processes), "-m", "fairseq_cli.train", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-3000:]
        return {n: [float(x) for x in found] for n, found in train_losses(done.stdout).items()}

    expected = losses(1, "--update-freq", "2")
    found = losses(processes, *kind, "--update-freq", str(2 // processes))
    assert sorted(found) == sorted(expected) == [1, 2, 3, 4, 5, 6]
    for update, (loss, norm) in expected.items():
        assert found[update][0] == pytest.approx(loss, abs=2e-3), update
        assert found[update][1] == pytest.approx(norm, rel=2e-3), update


def test_of_verbs_alone_no_action_is_counted():
    logits, target = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0])
    counts = head_counts(
        {"verb": torch.zeros(2)}, {"verb": logits}, {"verb": target}, torch.tensor([False, False])
    )
    assert (counts["verb_count"], counts["verb_correct"]) == (2, 1)
    assert not any(name.startswith("action") for name in counts)
