"""The recipes under examples/: their command lines are real ones, and their smoke mode runs.

Command lines are recorded (``tests.recipes``); smoke runs start the real commands with this Python.
"""

import functools
import json
import math
import sys
from pathlib import Path

import pytest

from tests import recipes
from tests.commands import ROOT, parsed
from tests.recipes import EXAMPLES, INPUTS, RECIPES, bash, recorded, trainings

COSTS = json.loads((ROOT / "benchmarks/results/recipe_costs.json").read_text())["measured"]
CARD = "NVIDIA H200"
# Recipes that cost what others do.
COST_OF = {"pretrain_howto100m_paper": "pretrain_howto100m"}


# --- command lines --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Path:
    return recipes.recorder(tmp_path_factory.mktemp("recorder") / "bin")


@pytest.fixture(scope="module")
def commands_of(recorder, tmp_path_factory):
    """(recipe, smoke) -> the command lines of its run.sh; recorded once."""

    @functools.cache
    def commands(recipe: str, smoke: bool = False) -> list[list[str]]:
        folder = tmp_path_factory.mktemp("recorded")
        script = EXAMPLES / recipe / "run.sh"
        return recorded(script, recorder, folder, SMOKE="1" if smoke else "", **INPUTS)

    return commands


@pytest.fixture(scope="module")
def trainings_of(commands_of):
    """(recipe, smoke) -> what fairseq-train makes of the options of each of its trainings."""

    @functools.cache
    def of(recipe: str, smoke: bool = False) -> list[dict]:
        return trainings(commands_of(recipe, smoke))

    return of


@pytest.mark.parametrize("smoke", [False, True], ids=["", "1"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_option_of_a_recipe_is_one_of_the_real_commands(
    recipe, smoke, commands_of, monkeypatch
):
    monkeypatch.chdir(ROOT)
    for command in commands_of(recipe, smoke):
        try:
            parsed(command)
        except SystemExit:
            pytest.fail(f"{recipe}: not a command line that is understood: {command}")


def test_pretraining_has_the_papers_hyper_parameters(recorder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    script = EXAMPLES / "pretrain_howto100m" / "slurm.sbatch"
    (command,) = recorded(script, recorder, tmp_path, SLURM_NTASKS=128, **INPUTS)
    found = vars(parsed(command))
    paper = {
        "arch": "video_translate_t5_large",
        "actions": "caption,classify",
        "reuse_batch": True,
        "text_input": "shuffled-masked",
        "mask_amount": "batch",
        "max_target_tokens": "caption=20,classify=12",
        "num_frames": 32,
        "frame_size": 112,
        "lr": [1e-3],
        "video_lr_scale": 0.1,
        "lr_scheduler": "inverse_sqrt",
        "warmup_updates": 50_000,
        "warmup_init_lr": 1e-3,  # T5's: 1 / sqrt(max(n, k)) does not rise before k
        "max_update": 250_000,
        "batch_size": 8,
        "distributed_world_size": 128,
    }
    assert {key: found[key] for key in paper} == paper


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.startswith("pretrain")])
def test_generative_fine_tunings_have_the_papers_one_rate(recipe, trainings_of):
    generative = [t for t in trainings_of(recipe) if t["criterion"] == "video_translate"]
    assert generative
    for found in generative:  # C.1: "constant learning rate", "entire encoder-decoder model"
        assert found["lr"] == [1e-4] and found["video_lr_scale"] == 1.0
        assert (found["lr_scheduler"], found["warmup_updates"]) == ("fixed", 20_000)
        assert found["max_update"] == 2**18


def test_the_baseline_of_epic_kitchens_falls_tenfold_after_nine_epochs(trainings_of):
    (found,) = [t for t in trainings_of("epic_kitchens") if t["heads_on"] == "video"]
    rates = [rate for rate in (0.0025, 0.00025, 0.000025) for _ in range(9)]
    assert found["lr"] == rates and found["lr_scheduler"] == "fixed" and found["max_epoch"] == 27
    assert (found["video_lr_scale"], found["head_lr_scale"]) == (1.0, 1.0)
    assert found["batch_size"] == 6 and found["optimizer"] == "nag"
    epoch = math.ceil(23_191 / (8 * 6))  # clips of P01 to P25, 8 GPUs
    assert found["warmup_updates"] == epoch


def test_the_papers_text_noise_differs_from_ours_in_two_options(trainings_of):
    (ours,), (papers,) = map(trainings_of, ("pretrain_howto100m", "pretrain_howto100m_paper"))
    changed = {key: papers[key] for key in ours if papers[key] != ours[key]}
    del changed["save_dir"], changed["finetune_from_model"], changed["data"]
    assert changed == {"text_dropout": 0.0, "test_text": "mask"}


def test_torchrun_starts_the_same_training_as_slurm(recorder, tmp_path):
    folder = EXAMPLES / "pretrain_howto100m"
    node = {"NODE": 3, "FIRST_NODE": "node0"}
    (command,) = recorded(folder / "torchrun.sh", recorder, tmp_path, **node, **INPUTS)
    launcher, training = command[: (k := command.index("fairseq-train"))], command[k:]
    assert " ".join(launcher) == (
        "torchrun --nnodes 16 --node-rank 3 --nproc-per-node 8 --master-addr node0 "
        "--master-port 29500 --no-python"
    )
    (tmp_path / "record.jsonl").unlink()
    (slurm,) = recorded(folder / "slurm.sbatch", recorder, tmp_path, SLURM_NTASKS=128, **INPUTS)
    assert slurm[: len(training)] == training
    added = " ".join(slurm[len(training) :])
    assert added == "--distributed-world-size 128 --distributed-port 29500"


@pytest.mark.parametrize("recipe", RECIPES)
def test_smoke_mode_trains_with_the_recipes_own_options_made_small(recipe, trainings_of):
    """It changes sizes, paths, and fp16, which needs a GPU: the optimizer and all else stay."""
    small = {"arch", "num_frames", "frame_size", "batch_size", "batch_size_valid", "max_update"}
    small |= {"warmup_updates", "num_workers", "log_interval", "cpu", "fp16", "data", "save_dir"}
    small |= {"finetune_from_model", "restore_file", "given"}
    small |= {"t5_size", "video_network", "dropout", "video_lr_scale"}  # the architecture's own
    whole, smoke = trainings_of(recipe), trainings_of(recipe, smoke=True)
    assert len(whole) == len(smoke) > 0
    for ours, made_small in zip(whole, smoke, strict=True):
        changed = {key for key in ours if ours[key] != made_small[key]}
        assert changed <= small, changed - small


def costs_of(recipe: str) -> dict[str, dict]:
    """Of each training of a recipe, in their order."""
    recipe = COST_OF.get(recipe, recipe)
    found = {name: cost for name, cost in COSTS.items() if name.split()[0] == recipe}
    assert found
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_costs_in_a_readme_are_those_that_were_computed(recipe):
    text = " ".join((EXAMPLES / recipe / "README.md").read_text().split())
    for name, t in costs_of(recipe).items():
        cost = f"{t['hours']} hours on {t['gpus']} V100s, {t['gib_per_gpu']} GiB each"
        assert cost in text, name
        cells = [name, t["gpus"], f"{t['updates']:,}", t["tflop_per_update"], t["hours"]]
        cells += [f"{t['gpu_hours']:,}", t["gib_per_gpu"], t[f"hours_at_measured_rate_of_{CARD}"]]
        assert f"| {' | '.join(map(str, cells))} |" in (EXAMPLES / "README.md").read_text()


def test_the_costs_were_computed_for_as_many_updates_as_the_recipes_make(trainings_of):
    for recipe in RECIPES:
        # An epoch of EPIC-Kitchens, the one corpus that is trained on by epochs: 6 clips on 8 GPUs.
        made = [
            t["max_update"] or t["max_epoch"] * math.ceil(23_191 / 48) for t in trainings_of(recipe)
        ]
        assert made == [t["updates"] for t in costs_of(recipe).values()]


def test_hours_at_a_measured_rate_are_operations_over_it():
    """An H200 took 304 and 236 ms (docs/performance.md) for the pretraining's 8.24 TFLOP."""
    for name, milliseconds in (("pretrain_howto100m", 303.71), ("epic_kitchens baseline", 236.32)):
        t = COSTS[name]
        hours = t["updates"] * t["tflop_per_update"] / (8.24 / milliseconds * 1e3) / 3600
        assert t[f"hours_at_measured_rate_of_{CARD}"] == pytest.approx(hours, abs=0.06)


# --- smoke mode -----------------------------------------------------------------------------------


def numbers(path: Path) -> dict:
    return json.loads(path.read_text())


def test_the_smoke_mode_of_youcook2_runs_through_deepspeeds_engine(real_commands, tmp_path):
    bash(EXAMPLES / "youcook2" / "run.sh", path=real_commands, SMOKE=1, RUNS=tmp_path)
    results = tmp_path / "youcook2"
    for folder in (tmp_path / "pretrain_howto100m" / "checkpoints", results / "generative"):
        assert (folder / "deepspeed" / "update3").is_dir()
    for name in ("captions", "retrieval"):
        found = numbers(results / name / "metrics.json")
        assert (found["n"], found["missing"]) == (10, 0)
    page = (results / "report.html").read_text()
    assert "generative.log" in page and page.count('"outcome":') == 20


@pytest.fixture(scope="module")
def pretrained(real_commands, tmp_path_factory) -> dict[str, Path]:
    """What a recipe takes from pretraining's smoke run, which starts from a T5 like google's."""
    from tests.weights import vocabulary, write_t5

    runs = tmp_path_factory.mktemp("pretrained")
    layers = {"num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
    write_t5(runs / "t5", vocabulary(), d_model=128, d_kv=32, d_ff=256, **layers)
    given = {"T5": runs / "t5", "IG65M": "random", "VOCABULARY": runs / "t5" / "spiece.model"}
    script = EXAMPLES / "pretrain_howto100m" / "run.sh"
    bash(script, path=real_commands, SMOKE=1, RUNS=runs, **given)
    checkpoint = runs / "pretrain_howto100m" / "checkpoints" / "checkpoint_last.pt"
    return {"PRETRAINED": checkpoint, "VOCABULARY": given["VOCABULARY"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "results"),
    [
        ("msrvtt", {"captions": 15, "retrieval": 10}),
        ("tvc", {"results_yes/valid": 5}),
        ("tvqa", {f"results_yes/{n}": 5 for n in ("generative", "discriminative", "fused")}),
        (
            "epic_kitchens",
            {
                f"results/{n}": 5
                for n in ("baseline", "zero_shot", "generative", "multitask", "discriminative")
            },
        ),
    ],
)
def test_the_smoke_mode_runs(recipe, results, real_commands, pretrained, tmp_path):
    script = EXAMPLES / recipe / "run.sh"
    bash(script, path=real_commands, SMOKE=1, RUNS=tmp_path, **pretrained)
    for name, rows in results.items():
        found = numbers(tmp_path / recipe / name / "metrics.json")
        assert (found["n"], found["missing"]) == (rows, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "stage"), [("tvc", "captions"), ("tvqa", "answers")])
def test_the_smoke_mode_without_subtitles_runs(recipe, stage, real_commands, pretrained, tmp_path):
    script = EXAMPLES / recipe / "run.sh"
    bash(script, path=real_commands, SMOKE=1, RUNS=tmp_path, SUBTITLES="no", **pretrained)
    assert (tmp_path / recipe / "results_no" / "submission.zip").is_file()


@pytest.mark.slow
def test_pretraining_runs_under_torchrun(real_commands, tmp_path):
    bash(
        EXAMPLES / "pretrain_howto100m" / "run.sh",
        path=real_commands,
        SMOKE=1,
        RUNS=tmp_path,
        LAUNCHER=f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 --no-python",
    )
    checkpoints = tmp_path / "pretrain_howto100m" / "checkpoints"
    assert (checkpoints / "checkpoint_last.pt").is_file()
    shards = {path.name for path in (checkpoints / "deepspeed").rglob("*optim_states.pt")}
    assert len(shards) == 2
