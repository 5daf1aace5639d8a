"""What a training says at its start: on one screen, true, with the mistakes that show by then."""

import logging
import re
import subprocess
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tests.commands import ROOT, TINY, command_line, environment, run
from vt_fairseq.data.head_targets import HeadTargets
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import BUILT_IN
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary
from vt_fairseq.models.video_backbones import VIDEO_NETWORKS
from vt_fairseq.training import start
from vt_fairseq.training.quiet_log import is_told, quiet

PLUGIN = ["--user-dir", ROOT / "user_dir", "--task", "video_translate"]


def said(log: str) -> list[str]:
    """What the start says, in order."""
    return re.findall(rf"\| {re.escape(start.__name__)} \| (.*)", log)


def test_a_training_says_on_one_screen_what_it_does_and_what_is_wrong(
    data_directory, trained, tmp_path
):
    """Without --cpu, with captions cut at 3 tokens, and with a random network at a tenth."""
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--stop-time-hours", "0.0001", "--no-save"],
        *["--max-target-tokens", "caption=3", "--video-lr-scale", "0.1"],
        cwd=tmp_path,
    )
    beginning = log[: log.index("| train_inner |")]
    assert len(beginning.splitlines()) < 40, beginning
    device, parameters, options, data, memory, cut, slow = said(log)
    assert device.startswith("no GPU was found") and "--cpu says that it is meant" in device
    state = torch.load(trained, weights_only=True)["model"]
    copies = ("running_mean", "running_var", "num_batches_tracked", "decoder.embed_tokens.weight")
    total = sum(t.numel() for name, t in state.items() if not name.endswith(copies))
    assert parameters.startswith(f"{total:,} of {total:,} parameters are trained")
    assert options == "{'video_lr_scale': 0.1, 'head_lr_scale': 100.0, 'heads': ''}"
    # 4 videos of 5 clips in batches of 8.
    assert data == "20 clips of train in batches of 8, 3 updates an epoch, no end"
    assert re.fullmatch(r"expected memory: \d+\.\d GiB of \d+\.\d on each process", memory)
    assert re.match(r"\d+ of the \d+ targets of caption .* longer than 3 tokens", cut)
    limit = re.search(r"--max-target-tokens caption=(\d+) cuts none", cut)[1]
    assert "random weights and learns at 0.1 times --lr" in slow
    log = run(
        "fairseq-train",
        *[data_directory, *PLUGIN, *TINY, "--max-update", "1", "--no-save", "--cpu"],
        *["--max-target-tokens", f"caption={limit}", "--finetune-from-model", trained],
        *["--video-lr-scale", "0.1"],
        cwd=tmp_path,
    )
    device, _, _, data = said(log)  # nothing is wrong, and a trial needs no prediction
    assert device.startswith("trains on the CPU") and data.endswith("ends at 1")


def test_targets_that_are_cut_or_all_equal_are_warned_of():
    tokenizer = Tokenizer(train_vocabulary(["a red circle jumps", "far away"] * 9, 60))
    texts = ["a red circle jumps", "a"]
    lengths = [len(tokenizer.encode(text)) for text in texts]
    prompts = [replace(BUILT_IN["caption"], max_target_tokens=lengths[1]), BUILT_IN["classify"]]
    rows = [ClipRow(str(i), "a.mp4", captions=(texts[i],), label="far away") for i in range(2)]
    dataset = SimpleNamespace(rows=rows, prompts=prompts, heads=None)
    cut, equal = start.target_warnings(dataset, tokenizer)
    assert cut.startswith(
        f"1 of the 2 targets of caption that were looked at are longer than {lengths[1]}"
    )
    assert cut.endswith(f"--max-target-tokens caption={lengths[0]} cuts none of them")
    assert equal.startswith("the 2 targets of classify that were looked at are all 'far away'")
    whole = SimpleNamespace(rows=rows, prompts=[BUILT_IN["caption"]], heads=None)
    assert not list(start.target_warnings(whole, tokenizer))
    heads = HeadTargets.of(["label", "verb"], {"label": ["far away"], "verb": ["go", "jump"]}, "x")
    (lonely,) = start.target_warnings(
        SimpleNamespace(rows=rows, prompts=[], heads=heads), tokenizer
    )
    assert lonely.startswith("the head label has the class 'far away' alone")


def test_options_model_and_known_warnings_are_left_out_of_the_log(monkeypatch):
    def told(name: str, message: object) -> bool:
        return is_told(logging.makeLogRecord({"name": name, "msg": message}))

    assert not told("fairseq_cli.train", nn.Linear(2, 2))
    assert not told("fairseq_cli.train", OmegaConf.create({"task": 1}))
    assert not told("fairseq.trainer", "detected shared parameter: a.bias <- b.bias")
    assert told("fairseq_cli.train", "done training in 2.7 seconds")
    assert told("fairseq.trainer", "begin training epoch 1")

    def shown() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.resetwarnings()
            quiet()
            for module in ("hydra.compose", "fairseq.tasks.fairseq_task", "mine", "hydraulics"):
                warnings.warn_explicit("of a call", UserWarning, "file.py", 1, module=module)
            # Hydra's word on fairseq's call stands where the command was started.
            text = "\n'config' is validated against ConfigStore schema"
            warnings.warn_explicit(text, UserWarning, "bin/fairseq-generate", 8, module="__main__")
        return [str(w.message) for w in caught]

    assert len(shown()) == 2  # mine and hydraulics
    monkeypatch.setenv("LOGLEVEL", "debug")
    assert len(shown()) == 5


def test_the_whole_configuration_is_left_out_of_every_commands_log(caplog):
    quiet()
    caplog.set_level(logging.INFO)
    for name in ("fairseq_cli.train", "fairseq_cli.generate", "fairseq_cli.validate"):
        logging.getLogger(name).info(OmegaConf.create({"task": 1}))
        logging.getLogger(name).info("loading model(s)")
    assert caplog.messages == ["loading model(s)"] * 3


def test_a_frozen_or_slow_random_network_is_warned_of_and_a_pretrained_one_is_not(caplog):
    model = nn.Module()
    model.encoder, model.encoder.video = nn.Module(), nn.Module()
    model.encoder.video.network = network = VIDEO_NETWORKS["tiny"]()
    start.warn_of_slow_network(model, "tiny")
    assert not caplog.messages  # at the rate of the rest
    for parameter in network.parameters():
        parameter.optim_overrides = {"optimizer": {"lr_scale": 0.1}}
    start.warn_of_slow_network(model, "tiny")
    network.requires_grad_(False)
    start.warn_of_slow_network(model, "tiny")
    slow, frozen = caplog.messages
    assert "--video-lr-scale 1" in slow and "is frozen" in frozen
    weight = "encoder.video.network.stem.0.weight"
    assert start.has_new_video_network({"pretrained": {"new": {weight: 1}}})
    for new in ({"encoder.video.projection.weight": 1}, {f"{weight[:-6]}num_batches_tracked": 1}):
        assert not start.has_new_video_network({"pretrained": {"new": new}})
    assert not start.has_new_video_network({"model": {}})


@pytest.mark.slow
def test_fairseqs_switch_brings_the_configuration_and_the_model_back(data_directory, tmp_path):
    words = [data_directory, *PLUGIN, *TINY, "--max-update", "1", "--no-save", "--cpu"]
    logs = [
        subprocess.run(
            command_line("fairseq-train", *words),
            env={**environment(), "LOGLEVEL": level},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout
        for level in ("INFO", "DEBUG")
    ]
    for text in ("'optimization': {", "(decoder): T5Decoder(", "Hydra14MigrationWarning"):
        assert [text in log for log in logs] == [False, True], text


@pytest.mark.slow
@pytest.mark.parametrize("size", ["56", "112"])
def test_the_expected_memory_of_a_cpu_is_about_what_the_process_takes(
    data_directory, tmp_path, size
):
    script = tmp_path / "measured.py"
    script.write_text(
        "import resource, sys, fairseq_cli.train as t\n"
        "t.cli_main()\n"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)\n"
    )
    words = [data_directory, *PLUGIN, *TINY[:4], "--lr", "1e-3", "--batch-size", "8", "--cpu"]
    sizes = ["--num-frames", "16", "--frame-size", size, "--max-update", "50", "--num-workers", "0"]
    log = subprocess.run(
        command_line(str(script), *words, *sizes, "--disable-validation", "--no-save"),
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = float(re.search(r"expected memory: ([\d.]+) GiB", log)[1])
    assert 0.7 < float(re.search(r"peak ([\d.]+)", log)[1]) / expected < 1.3
