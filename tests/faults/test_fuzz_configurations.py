"""Configurations in checkpoints and exported folders: none runs, leaks or ends in a traceback.

Each mutant has code, an interpolation, ``_target_``, the name of another registered class, another
type or a huge value in the place of one option of ``cfg`` or of one entry of ``config.json``. One
of these reads it, in turn: ``from_pretrained`` (as ``vt-caption``, ``vt-score`` and ``vt-init``
do), fairseq's loader (as ``fairseq-generate`` and ``fairseq-validate`` do), and what training goes
on from. What may come of it: a model, or UserError of one line in plain letters.

python -m pytest tests/faults/test_fuzz_configurations.py --campaign
"""

import argparse
import collections
import contextlib
import copy
import json
import random
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY

from tests.faults.test_fuzz_texts import cpu_limit
from vt_fairseq import plugin  # noqa: F401
from vt_fairseq.cli import init
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.inference.api import VideoTranslate
from vt_fairseq.models.architectures import architecture, build_model
from vt_fairseq.models.checkpoint_config import LOCAL_OPTIONS
from vt_fairseq.models.checkpoint_state import read_checkpoint, vocabulary_state
from vt_fairseq.models.pretrained.exported import write_exported
from vt_fairseq.training import checkpoints

SECRET, CANARY = "a secret of the environment", "vt_canary"
MAX_GROWTH = 2 * 2**30
MAX_LINE = 10_000
DIMS = "d_model=16,d_kv=4,d_ff=16,num_heads=2,num_layers=1,num_decoder_layers=1"
# Read from nowhere and written to nowhere: what a configuration must not reach.
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.mkdir")

_seen: list[str] | None = None


def _watch(event: str, arguments: tuple) -> None:
    """Python's audit hook: notes what runs, while something is being read."""
    if _seen is None:
        return
    if event in WATCHED or event.startswith("socket.c") or CANARY in repr(arguments)[:2000]:
        _seen.append(f"{event}{arguments!r:.200}")


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_watch)  # it stays for good, and does nothing when nothing is read


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """What ran in the block; empty where nothing did."""
    global _seen
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


def tiny_state(data: Path) -> dict[str, Any]:
    """A checkpoint as ``fairseq-train`` writes it, of the smallest model, not trained."""
    config = architecture("video_translate_tiny")
    config.t5_dims, config._name = DIMS, "video_translate_tiny"
    tokenizer = Tokenizer.from_file(DataDirectory.open(data).tokenizer_path)
    torch.manual_seed(1)
    model = build_model(config, tokenizer.table_size, tokenizer.video)
    cfg = init._whole_configuration(config)
    cfg["criterion"] = {"_name": "video_translate"}
    cfg["task"] |= {"num_frames": 8, "frame_size": 32, "data": str(data)}
    history = {"criterion_name": None, "optimizer_name": None, "num_updates": 0}
    return {
        "args": None,
        "cfg": cfg,
        "model": model.state_dict(),
        "optimizer_history": [history | {"lr_scheduler_state": {}}],
        "task_state": vocabulary_state(tokenizer) | {"classes": {}, "head_classes": {}},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
        "last_optimizer_state": None,
    }


@pytest.fixture(scope="module")
def state(data_directory) -> dict[str, Any]:
    return tiny_state(data_directory)


# --- mutants --------------------------------------------------------------------------------------


def code(marker: Path) -> str:
    """Python that several of fairseq's architectures evaluate where they expect a list of sizes."""
    return f"[(8, 3)] * len([open({str(marker)!r}, 'w')])  # {CANARY}"


def hostile_values(marker: Path) -> list[Any]:
    run = code(marker)
    deep: Any = run
    for _ in range(200):
        deep = [deep]
    return [
        *[
            run,
            f"__import__('os').system('touch {marker}')",
            f"$(touch {marker})",
            f"{{{{{run}}}}}",
        ],
        *["${oc.env:VT_SECRET}", "${oc.env:HOME}", "${task}", "${model._name}", "${", "???"],
        *["a${oc.env:VT_SECRET}b", "${oc.decode:${oc.env:VT_SECRET}}", "${oc.create:{a: 1}}"],
        {"_target_": "os.system", "_args_": [f"touch {marker}"]},
        {"_target_": "builtins.eval", "_args_": [run]},
        {"_name": "fconv", "encoder_layers": run, "decoder_layers": run},
        argparse.Namespace(_name="fconv", arch="fconv", encoder_layers=run),
        *[None, True, -1, 0, 10**9, 10**12, 10**400, 2**63, -(10**9), 1e308, -1.5],
        *[float("nan"), float("inf"), "nan", "1e999", "9" * 5000, b"bytes", (1, 2), [], {}],
        *["", "x" * 10**6, ["x"] * 1000, {"x": 1}, [[1]], deep, torch.ones(2), {1: 2}],
        *["\x1b[2J\x1b]0;owned\x07", "a\nerror: forged", "\ud800", "../../etc/passwd", "/"],
        *["d_model=1000000000", "d_model=16,num_layers=1000000000", "d_ff=99999999999999999999"],
        *["d_kv=100000,num_heads=100000", "num_buckets=2147483647", "num_layers=1e3", "d_model=-1"],
        *["video_translate_t5_large", "large", "34", "v1_1", "answer", "verb,noun,label", "label"],
    ]


def other_names() -> list[str]:
    """Everything that fairseq knows by name and is not ours."""
    names = [*ARCH_MODEL_REGISTRY, *TASK_REGISTRY]
    for registry in REGISTRIES.values():
        names += registry["registry"]
    return sorted({name for name in names if not name.startswith("video_translate")})


def places(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """The way to every entry in dicts in dicts."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*place, key)
            yield from places(item, (*place, key))


def with_value(content: dict, place: tuple, value: Any) -> dict:
    """A copy of ``content`` with ``value`` at one place."""
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed


def mutants(content: dict, marker: Path, number: int, seed: int) -> Iterator[dict]:
    """``content`` with one hostile value each: names of classes, options, new options."""
    draw = random.Random(seed)
    used = [p for p in places(content) if p[0] in ("model", "task", "criterion")]
    unused = [p for p in places(content) if p not in used]
    names = [(part, "_name") for part in ("model", "task", "criterion") if part in content]
    values, others = hostile_values(marker), other_names()
    for _ in range(number):
        how = draw.random()
        if how < 0.2:
            yield with_value(content, draw.choice(names), draw.choice(others))
        elif how < 0.3:
            new = (draw.choice(names)[0], draw.choice(["_target_", "arch", "_parent_", "encoder"]))
            yield with_value(content, new, draw.choice(values))
        else:
            at = draw.choice(used if how < 0.9 or not unused else unused)
            yield with_value(content, at, draw.choice(values))


# --- reading --------------------------------------------------------------------------------------


def outcome(read: Callable[[], Any], marker: Path) -> str:
    """ "read" or "refused"; fails where something ran, leaked, or ended otherwise."""
    with watched() as seen, cpu_limit():
        try:
            found, what = read(), "read"
        except UserError as error:
            found, what = str(error), "refused"
            assert found.isprintable() and len(found) < MAX_LINE, found
    assert not seen and not marker.exists(), seen
    assert SECRET not in repr(found)
    return what


def readers(state: dict, data: Path) -> dict[str, Callable[[Path], Any]]:
    task = VideoTranslate.from_pretrained(state["sound"], device="cpu").loaded.task

    def validated(path: Path) -> Any:
        overrides = {"data": str(data), "cpu": True}
        _, cfg, made = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides)
        return repr(cfg), made.build_criterion(cfg.criterion)

    def resumed(path: Path) -> Any:
        if reason := checkpoints.problem(path):
            raise UserError(reason)
        return read_checkpoint(path)["cfg"]

    return {
        "from_pretrained": lambda path: VideoTranslate.from_pretrained(path, device="cpu"),
        "fairseq-generate": lambda path: repr(
            checkpoint_utils.load_model_ensemble([str(path)], arg_overrides={}, task=task)[1]
        ),
        "fairseq-validate": validated,
        "fairseq-train": resumed,
    }


def fuzz(
    content: dict,
    write: Callable[[dict], Path],
    reads: dict[str, Callable[[Path], Any]],
    marker: Path,
    number: int,
    seed: int,
) -> dict[str, Any]:
    """How many were read and refused by each reader, and by how much memory grew."""
    counts: dict[str, collections.Counter] = {name: collections.Counter() for name in reads}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, mutant in enumerate(mutants(content, marker, number, seed)):
        path = write(mutant)
        for name, read in reads.items():
            if index % len(reads) != list(reads).index(name):
                continue  # each mutant is read by one of them in turn
            counts[name][outcome(lambda read=read, path=path: read(path), marker)] += 1
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert growth < MAX_GROWTH
    return {"mutants": number, "ran": 0, **{name: dict(found) for name, found in counts.items()}}


@pytest.fixture(autouse=True)
def secret(monkeypatch) -> None:
    monkeypatch.setenv("VT_SECRET", SECRET)


@pytest.mark.parametrize("reader", ["from_pretrained", "fairseq-generate", "fairseq-validate"])
def test_an_architecture_that_evaluates_texts_is_not_made(state, data_directory, tmp_path, reader):
    marker, path = tmp_path / f"{CANARY}_ran", tmp_path / "x.pt"
    torch.save(state, tmp_path / "sound.pt")
    read = readers({"sound": tmp_path / "sound.pt"}, data_directory)[reader]
    options = {"_name": "fconv", "heads": "", "encoder_embed_path": None, "dropout": 0.1}
    options |= {"max_source_positions": 64, "encoder_embed_dim": 8, "decoder_embed_dim": 8}
    options |= {"max_target_positions": 64, "share_input_output_embed": False}
    options |= {"decoder_embed_path": None, "decoder_out_embed_dim": 8, "decoder_attention": "True"}
    options |= dict.fromkeys(("encoder_layers", "decoder_layers"), code(marker))
    torch.save(state | {"cfg": state["cfg"] | {"model": options}}, path)
    with pytest.raises(UserError, match="is a checkpoint of the model fconv, expected"):
        read(path)
    assert not marker.exists()


def test_a_path_of_the_machine_that_trained_may_hold_any_character_and_is_not_kept(state, tmp_path):
    odd = "data \x1b[31m\n\u202e"
    for option, ours in LOCAL_OPTIONS.items():
        task = state["cfg"]["task"] | {option: odd}
        if isinstance(ours, bool):
            continue
        torch.save(state | {"cfg": state["cfg"] | {"task": task}}, tmp_path / "x.pt")
        assert read_checkpoint(tmp_path / "x.pt")["cfg"]["task"][option] == ours
    task = state["cfg"]["task"] | {"data": f"{odd}${{oc.env:HOME}}"}
    torch.save(state | {"cfg": state["cfg"] | {"task": task}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"'data': 'data \\x1b.* would be looked up"):
        read_checkpoint(tmp_path / "x.pt")


def test_an_environment_that_makes_torch_unpickle_is_refused(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "x.pt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for read in (
        lambda path: VideoTranslate.from_pretrained(path, device="cpu"),
        lambda path: checkpoint_utils.load_checkpoint_to_cpu(str(path)),
        lambda path: checkpoint_utils.load_checkpoint_to_cpu(str(path), load_on_all_ranks=True),
        checkpoints.problem,
        checkpoints.choose,
    ):
        with pytest.raises(UserError, match="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set"):
            read(tmp_path / "x.pt")


def test_a_trusted_checkpoint_of_another_architecture_is_not_passed_on(state, tmp_path, call_main):
    torch.save(state | {"cfg": state["cfg"] | {"model": {"_name": "fconv"}}}, tmp_path / "x.pt")
    options = ["--from-checkpoint", tmp_path / "x.pt", "--trust-checkpoint"]
    code, _, said = call_main(init.main, *options, "--out", tmp_path / "safe.pt")
    assert code == 2 and "of the model fconv" in said and not (tmp_path / "safe.pt").exists()


@pytest.mark.parametrize("dropout", [1e9, -0.1])
def test_a_dropout_that_is_no_probability_is_one_line(state, tmp_path, dropout):
    torch.save(
        state | {"cfg": state["cfg"] | {"model": state["cfg"]["model"] | {"dropout": dropout}}},
        tmp_path / "x.pt",
    )
    with pytest.raises(UserError, match=f"--dropout: expected a probability, found {dropout}"):
        VideoTranslate.from_pretrained(tmp_path / "x.pt", device="cpu")


def test_no_configuration_of_a_checkpoint_runs_or_leaks_anything(
    state, data_directory, tmp_path, campaign, record
):
    path, marker = tmp_path / "checkpoint_last.pt", tmp_path / f"{CANARY}_ran"
    torch.save(state, tmp_path / "sound.pt")

    def write(cfg: dict) -> Path:
        torch.save(state | {"cfg": cfg}, path)
        return path

    reads = readers({"sound": tmp_path / "sound.pt"}, data_directory)
    for name, read in reads.items():
        assert outcome(lambda read=read: read(tmp_path / "sound.pt"), marker) == "read", name
    found = fuzz(state["cfg"], write, reads, marker, *((2000, 0) if campaign else (60, 7)))
    record("checkpoints", found)
    assert all(found[name]["refused"] for name in reads)


def test_no_configuration_of_an_exported_folder_runs_or_leaks_anything(
    state, tmp_path, campaign, record
):
    folder, marker = tmp_path / "model", tmp_path / f"{CANARY}_ran"
    folder.mkdir()
    write_exported(state, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]  # by which every change would be refused
    flat = {**config.pop("cfg"), **config}

    def write(flat: dict) -> Path:
        whole = dict(flat)
        cfg = {part: whole.pop(part) for part in ("model", "task")}
        (folder / "config.json").write_text(json.dumps({"cfg": cfg, **whole}, default=str))
        return folder

    reads = {"from_pretrained": lambda path: VideoTranslate.from_pretrained(path, device="cpu")}
    assert outcome(lambda: reads["from_pretrained"](write(flat)), marker) == "read"
    found = fuzz(flat, write, reads, marker, *((600, 1) if campaign else (30, 5)))
    record("exported folders", found)
    assert found["from_pretrained"]["refused"]
