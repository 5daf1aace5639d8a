"""What a command trains and generates with that says little; what it must say ends in one line."""

import subprocess

import pytest
from fairseq import options

from tests.commands import PLUGIN, command_line, environment, run
from vt_fairseq import plugin  # noqa: F401
from vt_fairseq.training import default_options

TINY_RUN = ["--arch", "video_translate_tiny", "--num-frames", "8", "--frame-size", "32"]


def parsed(parser, *words):
    return options.parse_args_and_arch(parser, ["data", *PLUGIN, *words])


def test_a_bare_training_has_our_criterion_rate_optimizer_and_batches():
    found = parsed(options.get_training_parser(), *TINY_RUN, "--max-update", "1")
    assert (found.criterion, found.optimizer) == ("video_translate", "deepspeed_adam")
    assert found.zero_stage == "1"  # the engine
    assert found.lr == [1e-4] and found.batch_size == 8  # the paper's C.1 and 4.1
    with_heads = [*TINY_RUN, "--heads", "label", "--max-update", "1"]
    found = parsed(options.get_training_parser(), *with_heads)
    assert found.criterion == "video_translate_classification"


def test_what_a_command_says_wins_over_our_defaults():
    said = ["--optimizer", "adagrad", "--lr", "0.25", "--batch-size", "3", "--max-update", "1"]
    found = parsed(options.get_training_parser(), *TINY_RUN, *said)
    assert (found.optimizer, found.lr, found.batch_size) == ("adagrad", [0.25], 3)
    found = parsed(options.get_training_parser(), *TINY_RUN, "--max-tokens", "99")
    assert (found.max_tokens, found.batch_size) == (99, None)


def test_generation_has_small_batches_and_texts_of_the_tasks_length():
    parser = options.get_generation_parser()
    parser.add_argument("--arch", default="wav2vec2")  # as the command does
    found = parsed(parser, "--path", "x.pt")
    assert (found.batch_size, found.max_len_b, found.optimizer) == (8, 64, None)
    found = parsed(options.get_generation_parser(), "--path", "x.pt", "--max-len-b", "200")
    assert found.max_len_b == 200


def test_other_tasks_keep_fairseqs_defaults():
    found = options.parse_args_and_arch(
        options.get_training_parser(), ["data", "--task", "translation", "--arch", "transformer"]
    )
    assert (found.criterion, found.optimizer, found.lr) == ("cross_entropy", None, [0.25])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--update-freq", "2,0"], "--update-freq 2,0: expected at least 1"),
        (["--num-workers", "-1"], "--num-workers -1: expected at least 0"),
        (["--lr-scheduler", "polynomial_decay"], "polynomial_decay: expected --total-num-update"),
        (["--adam-betas", "0.9"], "--adam-betas: expected two numbers"),
        (["--optimizer", "adam", "--adam-betas", "(0.9,1.0)"], "from 0 to below 1"),
    ],
)
def test_numbers_that_cannot_be_trained_with_are_one_line(capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        parsed(options.get_training_parser(), *TINY_RUN, "--max-update", "1", *words)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith("error: ") and said in line


def test_defaults_and_a_training_without_an_end_are_said(caplog):
    with caplog.at_level("INFO", logger=default_options.__name__):
        parsed(options.get_training_parser(), *TINY_RUN)
    assert "--criterion video_translate, --optimizer deepspeed_adam, --lr 0.0001" in caplog.text
    assert "nothing ends this training" in caplog.text


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("fairseq-train", [], "--arch is missing"),
        ("fairseq-train", [*TINY_RUN, "--fp16"], "--fp16 needs a GPU"),
        (
            "fairseq-train",
            [*TINY_RUN, "--valid-subset", "dev"],
            "no split 'dev'; it has: novel, pretrain, retrieval, test, train, valid; "
            "--train-subset, --valid-subset and --gen-subset name splits, and "
            "--disable-validation trains without measuring",
        ),
        ("fairseq-train", [*TINY_RUN, "--finetune-from-model", "x.pt"], "x.pt: there is no such"),
        (
            "fairseq-train",
            [*TINY_RUN, "--finetune-from-model", "t5"],
            "t5/config.json describes no",
        ),
        ("fairseq-train", [*TINY_RUN, "--finetune-from-model", "text"], "text holds no tensors"),
        ("fairseq-generate", ["--path", "x.pt"], "--path x.pt: there is no such checkpoint"),
        (
            "fairseq-generate",
            ["--path", "a:b.pt"],
            "--path a: there is no such check",
        ),
        ("fairseq-generate", ["--path", "text"], "text holds no tensors"),
        ("fairseq-validate", ["--path", "x.pt"], "--path x.pt: there is no such checkpoint"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(data_directory, tmp_path, command, words, said):
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "text").write_text("no tensors\n")
    ends = ["--max-update", "1", "--no-save"] if command == "fairseq-train" else []
    log = run(command, data_directory, *PLUGIN, *words, *ends, cwd=tmp_path, expected_code=2)
    last = log.splitlines()[-1]
    assert last.startswith("error: ") and said in last and "Traceback" not in log


@pytest.mark.parametrize("command", ["fairseq-train", "fairseq-generate", "fairseq-validate"])
def test_a_colon_in_the_name_of_a_data_directory_is_one_line(tmp_path, trained, command):
    words = [*TINY_RUN, "--max-update", "1"] if command.endswith("train") else ["--path", trained]
    log = run(command, "a:b", *PLUGIN, *words, cwd=tmp_path, expected_code=2)
    assert log.splitlines()[-1].startswith("error: data directory a:b: expected a name without ':'")


@pytest.mark.slow
def test_an_exported_folder_is_fine_tuned_generated_from_and_validated(
    data_directory, trained, tmp_path
):
    run("vt-init", "--from-checkpoint", trained, "--export", tmp_path / "model")
    train = [data_directory, *PLUGIN, *TINY_RUN, "--lr", "1e-9", "--max-update", "1", "--no-save"]
    logs = [
        run("fairseq-train", *train, "--finetune-from-model", path)
        for path in (trained, tmp_path / "model")
    ]
    losses = [[line for line in log.splitlines() if "| valid on" in line][-1] for log in logs]
    keep = [line.split(" wps ")[0].split("| loss")[1] for line in losses]
    assert keep[0] == keep[1], "the weights are those of the checkpoint"
    options = [data_directory, *PLUGIN, "--path", tmp_path / "model"]
    printed = run("fairseq-generate", *options, "--gen-subset", "test", "--max-len-b", "4")
    assert "Generate test with beam=5" in printed
    assert "valid" in run("fairseq-validate", *options, "--valid-subset", "valid")


@pytest.mark.slow
def test_an_average_of_the_weights_is_kept_beside_them(data_directory, tmp_path):
    options = [*TINY_RUN, "--store-ema", "--max-update", "2", "--save-dir", tmp_path]
    run("fairseq-train", data_directory, *PLUGIN, *options)
    run("fairseq-train", data_directory, *PLUGIN, *options, "--max-update", "3")


@pytest.mark.slow
def test_deepspeed_that_is_missing_is_one_line(data_directory, tmp_path):
    (tmp_path / "deepspeed.py").write_text("raise ModuleNotFoundError('No module named deepspeed')")
    for more in ([], ["--zero-stage", "0", "--adam-backend", "deepspeed"]):
        words = [data_directory, *PLUGIN, *TINY_RUN, "--optimizer", "deepspeed_adam", *more]
        done = subprocess.run(
            command_line("fairseq-train", *words, "--max-update", "1", "--no-save"),
            env={**environment(), "PYTHONPATH": f"{tmp_path}:{environment()['PYTHONPATH']}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2, done.stderr[-2000:]
        assert "pip install deepspeed" in done.stderr.splitlines()[-1]
