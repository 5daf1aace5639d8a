"""Training through DeepSpeed's engine, on CPUs with gloo; real processes, real launchers."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.commands import PLUGIN, ROOT, command_line, environment, launcher, run

psutil = pytest.importorskip("psutil")

RECORDING = ROOT / "tests" / "recording.py"
# A low learning rate and an eps far above rounding: a network with relu and BatchNorm turns a
# gradient's last bit into visible differences within a few large steps.
TINY = [
    *["--arch", "video_translate_tiny", "--criterion", "video_translate"],
    *["--num-frames", "4", "--frame-size", "32", "--lr", "3e-5", "--clip-norm", "0.5"],
    *["--lr-scheduler", "inverse_sqrt", "--warmup-updates", "10", "--video-lr-scale", "0.1"],
    *["--dropout", "0.1", "--batch-size", "3", "--disable-validation", "--no-progress-bar"],
    *["--log-format", "simple", "--log-interval", "1", "--no-epoch-checkpoints"],
]
ADAM = ["--optimizer", "deepspeed_adam", "--adam-backend", "torch", "--adam-eps", "1e-6"]
EVERY_STAGE = [1, 2, 3]


def zero(stage: int) -> list[str]:
    """Options of a ZeRO stage."""
    return [*ADAM, "--zero-stage", str(stage)]


def command(data: Path, out: Path, *arguments: str | int | Path, processes: int = 1) -> list[str]:
    """``fairseq-train`` with its losses recorded in ``out/recorded``."""
    out.mkdir(exist_ok=True)
    return [
        *launcher(processes),
        *map(str, [RECORDING, out / "recorded", data, *PLUGIN, *TINY, "--save-dir", out / "save"]),
        *map(str, arguments),
    ]


def output_of(
    arguments: list[str], expected_code: int = 0, timeout: float = 600, **extra: str
) -> str:
    """Run it to its end, with ``extra`` in its environment."""
    done = subprocess.run(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), **extra},
        timeout=timeout,
    )
    assert done.returncode == expected_code, done.stdout[-4000:]
    return done.stdout


def train(data: Path, out: Path, *arguments, processes: int = 1, expected_code: int = 0) -> str:
    """The output of ``command``."""
    return output_of(command(data, out, *arguments, processes=processes), expected_code)


def recorded(out: Path) -> dict[int, float]:
    """Loss of each update (the last one, where an update was computed twice)."""
    lines = map(json.loads, (out / "recorded").read_text().splitlines())
    return {line["update"]: line["loss"] for line in lines}


def difference(a: dict[int, float], b: dict[int, float]) -> float:
    """Largest difference of the losses of the updates of ``b``."""
    assert b and set(b) <= set(a)
    return max(abs(a[update] - b[update]) for update in b)


# --- equal to fairseq's own trainer ---------------------------------------------------------------


def compare_with_fairseq(data: Path, tmp_path: Path, stage: int, processes: int, updates: int):
    """20 clips in batches of 3: the last batch is smaller, and one process runs out before."""
    options = ["--update-freq", "2", "--max-update", updates, "--no-save"]
    train(data, tmp_path / "fairseq", *zero(0), *options, processes=processes)
    sharded = ["--deepspeed-config", tmp_path / "zero3.json"] if stage == 3 else []
    (tmp_path / "zero3.json").write_text(
        json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}})
    )
    train(data, tmp_path / "zero", *zero(stage), *options, *sharded, processes=processes)
    last = json.loads((tmp_path / "zero" / "recorded").read_text().splitlines()[-1])
    assert (last["elements"] == 0) == (stage == 3)
    expected, found = recorded(tmp_path / "fairseq"), recorded(tmp_path / "zero")
    assert len(found) == updates and expected[updates] < expected[1]
    assert difference(expected, found) < 1e-5


def test_zero_2_on_two_processes_has_the_losses_of_fairseqs_own_trainer(data_directory, tmp_path):
    compare_with_fairseq(data_directory, tmp_path, stage=2, processes=2, updates=12)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_every_stage_has_the_losses_of_fairseqs_own_trainer_for_50_updates(
    data_directory, tmp_path, stage, processes
):
    compare_with_fairseq(data_directory, tmp_path, stage, processes, updates=50)


@pytest.mark.slow
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_validation_and_the_best_checkpoint_are_those_of_fairseqs_trainer(
    data_directory, tmp_path, stage
):
    options = ["--max-epoch", 2, "--ddp-backend", "legacy_ddp", "--num-workers", 0]
    if stage < 3:
        options += ["--eval-bleu", "--best-checkpoint-metric", "bleu"]
        options += ["--maximize-best-checkpoint-metric"]
    found = []
    for which in (0, stage):
        out = tmp_path / str(which)
        arguments = command(data_directory, out, *zero(which), *options, processes=2)
        arguments.remove("--disable-validation")
        pattern = r"valid on 'valid' subset \| (loss .*?) \| wps"
        found.append(re.findall(pattern, output_of(arguments)))
        assert (out / "save" / "checkpoint_best.pt").exists()
    assert found[0] == found[1] and len(found[0]) == 2


@pytest.mark.slow
def test_the_optimizer_can_live_in_cpu_memory_and_the_flops_profiler_run(data_directory, tmp_path):
    config = tmp_path / "ds.json"
    config.write_text(json.dumps({"flops_profiler": {"enabled": True, "profile_step": 2}}))
    train(data_directory, tmp_path / "plain", *zero(2), "--max-update", 6)
    log = train(
        data_directory,
        tmp_path / "offloaded",
        *[*zero(2), "--offload-optimizer", "cpu", "--deepspeed-config", config, "--max-update", 6],
    )
    assert "DeepSpeed Flops Profiler" in log
    assert difference(recorded(tmp_path / "plain"), recorded(tmp_path / "offloaded")) < 1e-5


# --- checkpoints ----------------------------------------------------------------------------------

SAVING = ["--save-interval-updates", "4", "--keep-interval-updates", "1"]


def interrupted(data, out, options, *, first_updates: int, processes: int = 1) -> None:
    """A run that is killed after ``first_updates``; its records are forgotten."""
    process = subprocess.Popen(
        command(data, out, *options, processes=processes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=environment(),
    )
    deadline = time.monotonic() + 300
    while not (out / "recorded").exists() or max(recorded(out), default=0) < first_updates:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    # torchrun's workers have sessions of their own, so a process group would miss them.
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in reversed(family):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    (out / "recorded").unlink()


def check_resuming(data, tmp_path, first, then, processes=(1, 1), tolerance=0.0) -> None:
    """Kill a run with options ``first``, go on with ``then``; compare with a run never stopped."""
    options = [*SAVING, "--max-update", "12"]
    train(data, tmp_path / "whole", *first, *options, processes=processes[0])
    interrupted(
        *(data, tmp_path / "cut", [*first, *SAVING, "--max-update", "99"]),
        first_updates=6,
        processes=processes[0],
    )
    train(data, tmp_path / "cut", *then, *options, processes=processes[1])
    resumed = recorded(tmp_path / "cut")
    assert 4 < min(resumed) <= 9 and max(resumed) == 12
    assert difference(recorded(tmp_path / "whole"), resumed) <= tolerance


def test_a_killed_zero_2_run_goes_on_with_the_same_losses_to_the_last_digit(
    data_directory, tmp_path
):
    check_resuming(data_directory, tmp_path, zero(2), zero(2))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_a_killed_run_goes_on_with_the_same_losses_at_every_stage(
    data_directory, tmp_path, stage, processes
):
    check_resuming(data_directory, tmp_path, zero(stage), zero(stage), (processes, processes))


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_run_goes_on_at_another_stage(data_directory, tmp_path, first, then):
    check_resuming(data_directory, tmp_path, zero(first), zero(then), tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stage", EVERY_STAGE)
@pytest.mark.parametrize("processes", [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(data_directory, tmp_path, stage, processes):
    """Two runs that differ in nothing but the engine: fairseq's own and ours, resumed alike."""
    options = [*SAVING, "--ddp-backend", "legacy_ddp"]
    losses = []
    for name, which in (("fairseq", 0), ("zero", stage)):
        out = tmp_path / name
        train(
            data_directory, out, *zero(which), *options, "--max-update", 8, processes=processes[0]
        )
        (out / "recorded").unlink()
        more = [*zero(which), *options, "--max-update", 14]
        train(data_directory, out, *more, processes=processes[1])
        losses.append(recorded(out))
    assert min(losses[0]) == 9 and max(losses[0]) == 14
    assert difference(*losses) < 1e-5


@pytest.fixture(scope="module")
def zero_2_run(data_directory, tmp_path_factory) -> Path:
    """A short ZeRO-2 run with its checkpoint."""
    out = tmp_path_factory.mktemp("zero2") / "run"
    train(data_directory, out, *zero(2), "--max-update", 4)
    return out


def copy_of(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_a_checkpoint_is_whole_and_loads_with_weights_only(zero_2_run):
    state = torch.load(zero_2_run / "save" / "checkpoint_last.pt", weights_only=True)
    assert state["last_optimizer_state"]["zero_stage"] == 2
    assert all(torch.is_tensor(t) and t.numel() for t in state["model"].values())
    assert (zero_2_run / "save" / state["last_optimizer_state"]["folder"]).is_dir()


def test_generation_needs_no_deepspeed(data_directory, zero_2_run, tmp_path):
    (tmp_path / "deepspeed.py").write_text("raise ImportError('not installed')\n")
    output_of(
        command_line(
            *["fairseq-generate", data_directory, *PLUGIN, "--action", "classify"],
            *["--path", zero_2_run / "save" / "checkpoint_last.pt"],
            *["--max-len-b", "5", "--results-path", tmp_path],
        ),
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 5


def test_from_the_engine_to_fairseqs_trainer_all_but_the_moments_goes_on(
    data_directory, zero_2_run, tmp_path
):
    out = copy_of(zero_2_run, tmp_path)
    log = train(data_directory, out, *zero(0), "--max-update", 5)
    assert "was saved with DeepSpeed: weights, update count and learning rate go on" in log
    # Four updates by the engine and one more, none of them twice.
    assert len((out / "recorded").read_text().splitlines()) == max(recorded(out)) == 5


@pytest.mark.slow
def test_from_fairseqs_trainer_to_the_engine_all_but_the_moments_goes_on(data_directory, tmp_path):
    train(data_directory, tmp_path / "run", *zero(0), "--max-update", 4)
    log = train(data_directory, tmp_path / "run", *zero(1), "--max-update", 5)
    assert "was saved without DeepSpeed: weights, update count and learning rate go on" in log
    lines = (tmp_path / "run" / "recorded").read_text().splitlines()
    assert len(lines) == max(recorded(tmp_path / "run")) == 5


def test_what_deepspeed_cannot_convert_is_refused_with_the_way_out(
    data_directory, zero_2_run, tmp_path
):
    out = copy_of(zero_2_run, tmp_path)
    log = train(data_directory, out, *zero(3), "--max-update", 5, expected_code=2)
    assert "--reset-optimizer" in log.splitlines()[-1] and "Traceback" not in log


def test_missing_shards_are_named(data_directory, zero_2_run, tmp_path):
    out = copy_of(zero_2_run, tmp_path)
    shutil.rmtree(out / "save" / "deepspeed")
    log = train(data_directory, out, *zero(2), "--max-update", 5, expected_code=2)
    last = log.splitlines()[-1]
    assert "/deepspeed/update4/" in last and "is missing; --reset-optimizer" in last
    assert "Traceback" not in log


def test_shards_that_would_run_code_are_refused(data_directory, zero_2_run, tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    out = copy_of(zero_2_run, tmp_path)
    (shard,) = (out / "save" / "deepspeed" / "update4").glob("*optim_states.pt")
    torch.save({"optimizer_state_dict": Hostile()}, shard)
    for path in (out / "save").glob("*.pt"):  # somebody who changes shards changes their sizes
        state = torch.load(path, weights_only=True)
        state["last_optimizer_state"]["files"][shard.name] = shard.stat().st_size
        torch.save(state, path)
    log = train(data_directory, out, *zero(2), "--max-update", 5, expected_code=2)
    assert not (tmp_path / "ran").exists()
    last = log.splitlines()[-1]
    assert "/deepspeed/update4 hold more than data (GLOBAL posix.system)" in last
    assert "--reset-optimizer" in last and "Traceback" not in log


@pytest.mark.slow
def test_generation_from_a_zero_3_run_equals_generation_from_the_unsharded_model(
    data_directory, tmp_path
):
    texts = []
    for stage in (0, 3):
        out = tmp_path / str(stage)
        train(data_directory, out, *zero(stage), "--max-update", 20)
        run(
            "fairseq-generate",
            *[data_directory, *PLUGIN, "--path", out / "save" / "checkpoint_last.pt"],
            *["--action", "caption", "--max-len-b", "12", "--results-path", out, "--beam", "5"],
        )
        texts.append([json.loads(x) for x in (out / "predictions.jsonl").read_text().splitlines()])
    assert len(texts[0]) == 5
    for expected, found in zip(*texts, strict=True):
        assert found["prediction"] == expected["prediction"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-4)


# --- loss scale -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", EVERY_STAGE)
def test_an_overflow_on_one_process_skips_the_step_on_all_and_halves_the_scale(
    data_directory, tmp_path, stage
):
    log = output_of(
        [
            *launcher(2),
            *map(str, [ROOT / "tests" / "overflowing.py", tmp_path, data_directory, *PLUGIN]),
            *[*TINY, *zero(stage), "--fp16", "--max-update", "5", "--save-dir"],
            *[str(tmp_path / "save"), "--no-save"],
        ]
    )
    assert log.count("setting loss scale to: 64.0") == 1
    assert re.search(r"num_updates=5.*loss_scale=64\b", log)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    assert ranks[0]["updates"] == 5 and ranks[0]["loss_scale"] == 64.0


# --- launching ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_deepspeeds_fused_adam_follows_torchs(data_directory, tmp_path):
    """Compiles DeepSpeed's operation at its first use, which takes minutes."""
    options = ["--optimizer", "deepspeed_adam", "--adam-eps", "1e-6", "--zero-stage", "2"]
    for backend in ("auto", "deepspeed"):
        more = ["--adam-backend", backend, "--max-update", "12", "--no-save"]
        train(data_directory, tmp_path / backend, *options, *more)
    assert difference(recorded(tmp_path / "auto"), recorded(tmp_path / "deepspeed")) < 1e-5


@pytest.fixture
def no_compiler(tmp_path) -> dict[str, str]:
    """An environment with this machine's programs but for compilers, and no extension compiled."""
    (programs := tmp_path / "programs").mkdir()
    compiler = re.compile(r"(.*-)?(cc|c\+\+|g?cc|g\+\+|clang(\+\+)?|ninja|nvcc)(-\d+)?")
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        for program in folder.iterdir() if folder.is_dir() else []:
            if not compiler.fullmatch(program.name) and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    return {"PATH": str(programs), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Adam: torch's fused one (--adam-backend deepspeed compiles DeepSpeed's)"),
        pytest.param(
            ["--offload-optimizer", "cpu", "--zero-stage", "2"],
            "Adam: torch's fused one, because DeepSpeed could not compile its Adam",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_without_a_compiler_the_engine_trains_and_the_log_names_its_adam(
    data_directory, tmp_path, no_compiler, options, said
):
    options = ["--optimizer", "deepspeed_adam", *options, "--max-update", "2"]
    log = output_of(command(data_directory, tmp_path / "run", *options), **no_compiler)
    assert said in log and len(recorded(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "save" / "deepspeed" / "update2").is_dir(), "the engine trained"
    assert not [*(tmp_path / "extensions").rglob("*.so")]


def test_a_missing_compiler_is_named_with_the_cure(data_directory, tmp_path):
    options = ["--optimizer", "deepspeed_adam", "--adam-backend", "deepspeed"]
    options += ["--max-update", "1", "--no-save"]
    log = output_of(
        command(data_directory, tmp_path / "run", *options),
        expected_code=2,
        **{"CXX": "no-such-compiler", "TORCH_EXTENSIONS_DIR": str(tmp_path)},
    )
    last = log.splitlines()[-1]
    assert "C++ compiler" in last and "--adam-backend torch" in last, log[-3000:]
    assert "vt_fairseq.errors" not in log


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--zero-stage", "3", "--eval-bleu"], "use --zero-stage 2"),
        (["--zero-stage", "3", "--store-ema"], "use --zero-stage 2"),
        (["--zero-stage", "2", "--zero-sharding", "os"], "leave it out"),
    ],
)
def test_what_an_engine_cannot_do_ends_in_one_line(data_directory, tmp_path, change, message):
    log = train(data_directory, tmp_path / "run", *ADAM, *change, expected_code=2)
    assert message in log.splitlines()[-1] and "Traceback" not in log
