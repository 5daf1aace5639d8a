"""Checkpoints that would run code, in every place of one and through every way in: none runs."""

import argparse
import json
import os
import struct
from collections import OrderedDict

import pytest
import torch

from tests.commands import PLUGIN, TINY, run
from tests.conftest import run_main
from vt_fairseq import plugin  # noqa: F401
from vt_fairseq.errors import UserError
from vt_fairseq.files import untrusted_files
from vt_fairseq.inference.api import VideoTranslate
from vt_fairseq.models.pretrained.files import read_tensors
from vt_fairseq.training import checkpoints, patches

WAY_OUT = "--trust-checkpoint --out SAFE.pt"


class Runs:
    """Runs a function when it is unpickled; each touches the file ``ran``."""

    def __init__(self, function, argument: str):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


def hostile_states(marker) -> dict[str, dict]:
    """A checkpoint's state with something hostile in it, by what it is."""
    system = Runs(os.system, f"touch {marker}")
    evaluated = Runs(eval, f"open({str(marker)!r}, 'w')")
    whole = {"model": {"weight": torch.ones(2)}, "cfg": {"task": {"_name": "video_translate"}}}
    return {
        "os.system as the model": {**whole, "model": system},
        "builtins.eval as a tensor": {**whole, "model": {"weight": evaluated}},
        "nested in cfg": {**whole, "cfg": {"task": {"_name": "video_translate", "x": [system]}}},
        "in extra_state": {**whole, "extra_state": {"train_iterator": evaluated}},
        "in client_state": {**whole, "client_state": {"args": argparse.Namespace(x=system)}},
        "in task_state": {**whole, "task_state": {"vocabulary": evaluated}},
    }


KINDS = list(hostile_states(""))


@pytest.fixture(params=KINDS)
def hostile(request, tmp_path):
    """(checkpoint, the file that its code would make)"""
    marker, path = tmp_path / "ran", tmp_path / "checkpoint_last.pt"
    torch.save(hostile_states(marker)[request.param], path)
    yield path, marker
    assert not marker.exists()


def test_the_api_and_what_uses_it_refuse_it_and_name_the_only_way_round(hostile):
    path, _ = hostile
    with pytest.raises(UserError, match=r"it would run (posix\.system|eval)") as raised:
        VideoTranslate.from_pretrained(path, device="cpu")
    assert WAY_OUT in str(raised.value) and "\n" not in str(raised.value)


def test_a_restart_refuses_it_and_does_not_start_from_scratch(hostile):
    path, _ = hostile
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole") as raised:
        checkpoints.newest_complete(path.parent)
    assert WAY_OUT in str(raised.value)


def test_fairseqs_own_reading_refuses_it(hostile):
    from fairseq import checkpoint_utils

    patches.install(patches.PATCHES)
    path, _ = hostile
    with pytest.raises(UserError) as raised:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert WAY_OUT in str(raised.value)
    with pytest.raises(UserError):
        checkpoint_utils.load_model_ensemble_and_task([str(path)])


def test_the_commands_end_in_one_line(data_directory, tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "x.pt"
    torch.save(hostile_states(marker)[KINDS[0]], path)
    commands = [
        (2, "fairseq-generate", data_directory, *PLUGIN, "--path", path),
        (2, "fairseq-train", data_directory, *PLUGIN, *TINY, "--restore-file", path),
        (2, "vt-score", "vqa", data_directory, "--path", path, "--out", tmp_path, "--cpu"),
    ]
    for code, *command in commands:
        log = run(*command, expected_code=code, cwd=tmp_path)
        assert WAY_OUT in log.splitlines()[-1] and "Traceback" not in log, command
    assert not marker.exists()


# --- the way round --------------------------------------------------------------------------------


def test_a_trusted_checkpoint_runs_once_and_its_copy_is_safe(tmp_path, capsys, caplog):
    marker, path, safe = tmp_path / "ran", tmp_path / "x.pt", tmp_path / "safe.pt"
    state = {
        "model": OrderedDict(weight=torch.nn.Parameter(torch.arange(3.0))),
        "args": argparse.Namespace(lr=[0.1], shape=torch.Size([2])),
        "last_optimizer_state": {"state": {0: {"step": 5}}},
        "extra_state": {"odd": Runs(os.mkdir, str(marker)), "object": UserError("x"), "k": (1, 2)},
    }
    torch.save(state, path)
    with pytest.raises(UserError):
        read_tensors(path)
    assert not marker.exists()
    run_main(
        "vt_fairseq.cli.init",
        *["--from-checkpoint", str(path), "--trust-checkpoint", "--out", str(safe)],
    )
    assert marker.exists() and "runs nothing" in capsys.readouterr().out
    assert "whatever code is in it runs now" in caplog.text
    assert "left out: ['extra_state']['object'], a UserError" in caplog.text
    marker.rmdir()
    with torch.serialization.safe_globals(untrusted_files.checkpoint_types()):
        copy = torch.load(safe, weights_only=True)
    assert not marker.exists()
    assert torch.equal(copy["model"]["weight"], torch.arange(3.0))
    assert copy["args"] == argparse.Namespace(lr=[0.1], shape=[2])
    assert copy["last_optimizer_state"] == {"state": {0: {"step": 5}}}
    assert copy["extra_state"] == {"odd": None, "object": None, "k": [1, 2]}


@pytest.mark.parametrize(
    "options", [["--out", "x"], ["--from-checkpoint", "x"], ["--from-checkpoint", "x", "--export"]]
)
def test_trust_goes_with_one_checkpoint_and_one_output(options, tmp_path, capsys):
    options = [*options, str(tmp_path / "y")] if options[-1] == "--export" else options
    with pytest.raises(SystemExit) as ended:
        run_main("vt_fairseq.cli.init", "--trust-checkpoint", *options)
    assert ended.value.code == 2 and "goes with --from-checkpoint and --out" in (
        capsys.readouterr().err
    )


# --- safetensors and configurations ---------------------------------------------------------------


def safetensors(header: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS = {
    "a huge length": safetensors({"a": entry(0, 16, [4])}, length=2**62),
    "a length past the file": safetensors({"a": entry(0, 16, [4])}, length=10_000),
    "overlapping offsets": safetensors({"a": entry(0, 16, [4]), "b": entry(8, 16, [2])}),
    "offsets past the end": safetensors({"a": entry(0, 1 << 40, [1 << 38])}),
    "offsets backwards": safetensors({"a": entry(16, 0, [4])}),
    "a shape that is not the size": safetensors({"a": entry(0, 16, [400])}),
    "a product that overflows": safetensors({"a": entry(0, 16, [1 << 62, 1 << 62])}),
    "a dtype that is none": safetensors({"a": entry(0, 16, [4], "os.system")}),
    "a hole": safetensors({"a": entry(8, 16, [2])}),
    "no JSON": safetensors(b"{'a': __import__('os').system('x')}"),
    "a name twice": safetensors(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_safetensors_header_is_refused(tmp_path, kind):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[kind])
    with pytest.raises(
        UserError, match=r"model\.safetensors (is damaged|has a header of|holds no tensors)"
    ):
        read_tensors(path)


def test_a_sound_safetensors_file_of_the_same_make_is_read(tmp_path):
    (tmp_path / "x").write_bytes(safetensors({"a": entry(0, 16, [4])}))
    assert read_tensors(tmp_path / "x")["a"].tolist() == [0, 0, 0, 0]


def test_an_exported_config_cannot_make_anything_run(tmp_path):
    """Hydra would call a ``_target_``; here a configuration is only data."""
    marker = tmp_path / "ran"
    hostile = {"_target_": "os.system", "_args_": [f"touch {marker}"], "_name": "video_translate"}
    config = {"format": 1, "cfg": {"model": hostile, "task": hostile}, "shared": {}, "classes": {}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocabulary_sha256": "0"}))
    with pytest.raises(UserError):
        VideoTranslate.from_pretrained(tmp_path, device="cpu")
    assert not marker.exists()


def test_the_code_neither_evaluates_text_nor_loads_whole_yaml_or_pickles():
    import re
    from pathlib import Path

    root = Path(untrusted_files.__file__).parent.parent
    found = {
        (path.name, match[0])
        for path in root.rglob("*.py")
        for match in re.finditer(
            r"(?<![\w.])(?:eval|exec)\(|yaml\.(?:unsafe_)?load\(|pickle\.loads?\(|"
            r"weights_only=False\b|shell=True|os\.system\(",
            "\n".join(line for line in path.read_text().splitlines() if "``" not in line),
        )
    }
    assert found == {("untrusted_files.py", "weights_only=False")}
