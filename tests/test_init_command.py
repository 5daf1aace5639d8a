"""``vt-init`` on files in the published layouts: what it writes trains, decodes, and is exact."""

import hashlib
import json
import pickle
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

import vt_fairseq.plugin  # noqa: F401
from tests.checkpoints import changed
from tests.commands import PLUGIN, ROOT, command_line, environment, run
from tests.conftest import run_main
from tests.weights import SMALL_T5, V1_1, Hostile, hf_t5, network, vocabulary, write_t5
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.tokenizer import PAD, Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import (
    architecture,
    build_model,
    saved_config,
)
from vt_fairseq.models.checkpoint_state import read_checkpoint, saved_tokenizer
from vt_fairseq.models.pretrained.exported import read_exported
from vt_fairseq.models.pretrained.initial import initial_checkpoint, size_differences
from vt_fairseq.models.pretrained.t5_export import tokenizer_config
from vt_fairseq.models.pretrained.t5_weights import T5Weights, config_of_dims
from vt_fairseq.models.pretrained.video_weights import VideoWeights
from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS, R2Plus1D
from vt_fairseq.models.t5 import T5_DIMS, T5_V1_1_DIMS, T5Dims
from vt_fairseq.models.video_backbones import VIDEO_NETWORKS
from vt_fairseq.models.video_translate import VideoTranslateModel

INIT = "vt_fairseq.cli.init"
UNUSED_BIAS = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
OTHER = ["some words of another corpus"]


def init(options: dict) -> None:
    """``vt-init`` in this process."""
    run_main(INIT, *[str(word) for option in options.items() for word in option])


def failing(capsys, options: dict) -> str:
    """The one line of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        init(options)
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert error.count("\n") == 1 and error.startswith("vt-init: error: "), error
    return error


def build(state: dict) -> VideoTranslateModel:
    """The model of a checkpoint, every tensor from there."""
    tokenizer = saved_tokenizer(state["task_state"])
    config = saved_config(state["cfg"]["model"])
    model = build_model(config, tokenizer.table_size, tokenizer.video)
    model.load_state_dict(state["model"], strict=True)
    return model.eval()


def read(path) -> dict:
    """A checkpoint, by nothing but torch."""
    return torch.load(path, weights_only=True)


def assert_same_logits(state: dict, hf: T5ForConditionalGeneration, rows: int) -> None:
    """Text in, logits out: those of transformers, compared for the first ``rows`` ids."""
    model = build(state)
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, rows, (3, 11), generator=generator)
    source[1, 7:] = PAD
    previous = torch.randint(3, rows, (3, 6), generator=generator)
    previous[:, 0] = PAD
    with torch.no_grad():
        logits, _ = model(source, previous)
        mask = source.ne(PAD).long()
        expected = hf(source, attention_mask=mask, decoder_input_ids=previous).logits
    torch.testing.assert_close(logits[..., :rows], expected[..., :rows], rtol=1e-5, atol=2e-5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A T5 1.0 and a T5 1.1 folder with their vocabulary, and a small R(2+1)D of torch's names."""
    folder = tmp_path_factory.mktemp("published")
    spiece = vocabulary()
    write_t5(folder / "t5", spiece)
    write_t5(folder / "t5_v1_1", spiece, **V1_1)
    write_t5(folder / "ul2", spiece, **{**V1_1, "feed_forward_proj": "gated-silu"})
    mt5 = MT5ForConditionalGeneration(MT5Config(**{**SMALL_T5, **V1_1})).eval()
    mt5.load_state_dict(hf_t5(**V1_1).state_dict())
    mt5.save_pretrained(folder / "mt5")
    (folder / "mt5" / "spiece.model").write_bytes(spiece)
    torch.save(network("tiny").state_dict(), folder / "r2plus1d.pth")
    return folder


@pytest.fixture(scope="module")
def joining(files) -> dict:
    """Options that join them."""
    sources = {"--t5": files / "t5", "--video": files / "r2plus1d.pth"}
    return {**sources, "--arch": "from-t5", "--video-network": "tiny"}


@pytest.fixture(scope="module")
def started(joining, tmp_path_factory):
    """What vt-init makes of them, with ``--export`` in the same command."""
    folder = tmp_path_factory.mktemp("started")
    init(joining | {"--seed": 3, "--out": folder / "init.pt", "--export": folder / "model"})
    return folder


@pytest.mark.data
def test_a_real_t5_gives_the_logits_of_transformers(joining, test_data, tmp_path, capsys):
    # It knows 32 ids and has no sentencepiece model; ours has fewer pieces, and its table, with
    # room for sentinels and new tokens, is larger. The rows of the 32 ids are T5's.
    folder = test_data / "t5" / "tiny_t5_hf"
    (tmp_path / "spiece.model").write_bytes(vocabulary(30))
    options = {"--t5": folder, "--video": "random", "--vocabulary": tmp_path / "spiece.model"}
    init(joining | options | {"--out": tmp_path / "init.pt"})
    printed = capsys.readouterr().out
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in printed
    hf = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    state = read(tmp_path / "init.pt")
    assert len(state["model"]["encoder.embed_tokens.weight"]) == 256
    assert_same_logits(state, hf, rows=32)


@pytest.mark.parametrize("name", ["t5", "t5_v1_1", "ul2", "mt5"])
def test_logits_are_those_of_transformers_on_the_same_folder_and_on_the_exported_one(
    files, joining, tmp_path, name
):
    outputs = {"--out": tmp_path / "init.pt", "--export": tmp_path / "model"}
    init(joining | {"--t5": files / name, "--video": "random"} | outputs)
    state = read(tmp_path / "init.pt")
    hf = AutoModelForSeq2SeqLM.from_pretrained(files / name).eval()
    # All that T5 knows; the new tokens' rows are not its own any more.
    assert_same_logits(state, hf, rows=saved_tokenizer(state["task_state"]).cls)
    hf, report = T5ForConditionalGeneration.from_pretrained(
        tmp_path / "model" / "t5", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert (hf.lm_head.weight is hf.shared.weight) == (name == "t5")
    assert_same_logits(state, hf.eval(), rows=192)
    assert torch.equal(hf.shared.weight, state["model"]["encoder.embed_tokens.weight"])


def test_features_are_those_of_the_video_network(files, started):
    model = build(read(started / "init.pt"))
    clip = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model.encoder.video.network(clip), network("tiny")(clip))


@pytest.mark.parametrize("trained", ["init.pt", "model"])
def test_another_t5_takes_the_video_network_of_a_model_of_ours(files, started, tmp_path, trained):
    options = {"--t5": files / "t5_v1_1", "--video": started / trained, "--arch": "from-t5"}
    init(options | {"--out": tmp_path / "init.pt"})
    state, before = read(tmp_path / "init.pt"), read(started / "init.pt")["model"]
    assert state["cfg"]["model"]["video_network"] == "tiny"
    network = {n: t for n, t in before.items() if n.startswith("encoder.video.network.")}
    assert len(network) == state["pretrained"]["used"]["video"]["tensors"] > 0
    assert all(torch.equal(state["model"][name], tensor) for name, tensor in network.items())
    names = {"model": "model.safetensors"}
    assert names.get(trained, trained) in {s["file"] for s in state["pretrained"]["sources"]}
    wi = "encoder.transformer.layers.0.feed_forward"
    assert any(n.startswith(wi) and n not in before for n in state["model"])  # T5 1.1's gate


def test_another_network_than_that_of_the_model_of_ours_is_named(files, started, tmp_path, capsys):
    options = {"--t5": files / "t5", "--video": started / "model", "--arch": "from-t5"}
    error = failing(capsys, options | {"--video-network": "18", "--out": tmp_path / "init.pt"})
    assert "has the video network tiny, --video-network is 18" in error


class OfArrays(torch.nn.Module):
    """A network of one's own, whose weights are numpy's: a zip file, but none of torch's."""

    width = 3

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def num_tokens(self, frames: int) -> int:
        return frames

    def load_pretrained(self, path) -> None:
        with np.load(path) as arrays:
            self.weight.data = torch.from_numpy(arrays["weight"])


def test_a_zip_file_that_is_no_checkpoint_goes_to_the_network_that_knows_it(
    files, tmp_path, monkeypatch
):
    monkeypatch.setitem(VIDEO_NETWORKS, "of_arrays", OfArrays)
    np.savez(tmp_path / "weights.npz", weight=np.array([1, 2, 3], dtype=np.float32))
    options = {"--t5": files / "t5", "--arch": "from-t5", "--video-network": "of_arrays"}
    init(options | {"--video": tmp_path / "weights.npz", "--out": tmp_path / "init.pt"})
    weight = read(tmp_path / "init.pt")["model"]["encoder.video.network.weight"]
    assert weight.tolist() == [1, 2, 3]


@pytest.mark.parametrize("task_state", [None, [], 0])
def test_a_checkpoint_whose_task_state_is_nothing_has_no_vocabulary(started, tmp_path, task_state):
    change = lambda state: state.update(task_state=task_state)  # noqa: E731
    path = changed(started / "init.pt", tmp_path / "x.pt", change)
    with pytest.raises(UserError, match="the checkpoint holds no vocabulary"):
        saved_tokenizer(read_checkpoint(path)["task_state"])


def test_the_checkpoint_says_where_every_tensor_comes_from(files, started):
    state = read(started / "init.pt")
    report = state["pretrained"]
    by_part = {source["part"]: source for source in report["sources"]}
    for part, file in (
        ("t5", files / "t5" / "model.safetensors"),
        ("video", files / "r2plus1d.pth"),
        ("vocabulary", files / "t5" / "spiece.model"),
    ):
        assert by_part[part]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert by_part[part]["bytes"] == file.stat().st_size
        assert by_part[part]["file"] == file.name
    assert report["dropped"] == ["fc.bias", "fc.weight"]
    assert set(report["new"]) == {f"encoder.video.projection.{x}" for x in ("weight", "bias")}
    assert set(report["new_rows"]) == {"[CLS]", "[SEP]", "[MASK]", "[VIDEO]"}
    accounted = sum(report["used"][part]["tensors"] for part in ("t5", "video"))
    assert accounted + len(report["new"]) == len(state["model"]) - 1  # the table's second name
    assert str(files) not in json.dumps(report)


def test_what_is_new_depends_on_the_seed_alone(joining, tmp_path, started):
    found = {}
    for seed in ("3", "4"):
        init(joining | {"--seed": seed, "--out": tmp_path / seed})
        found[seed] = read(tmp_path / seed)["model"]
    before = read(started / "init.pt")["model"]
    different = [n for n, t in found["4"].items() if not torch.equal(t, before[n])]
    assert different == ["encoder.video.projection.weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in found["3"].items())


def test_new_video_tokens_have_the_mean_and_the_spread_of_the_words(joining, files, tmp_path):
    shutil.copytree(files / "t5", tmp_path / "t5")
    weights = tmp_path / "t5" / "model.safetensors"
    tensors = load_file(weights)
    generator = torch.Generator().manual_seed(1)
    words, width = tensors["shared.weight"].shape
    mean, spread = torch.linspace(-5, 5, width), torch.logspace(-1, 2, width)
    table = torch.randn(words, width, generator=generator)
    tensors["shared.weight"] = table * spread + mean
    save_file(tensors, weights, metadata={"format": "pt"})
    init(joining | {"--t5": tmp_path / "t5", "--out": tmp_path / "init.pt"})
    projection = build(read(tmp_path / "init.pt")).encoder.video.projection
    features = torch.randn(4000, projection.in_features, generator=generator)
    tokens = projection(features).detach()
    off = (tokens.mean(0) - mean) / spread
    assert off.abs().max() < 5 * (words**-0.5 + 4000**-0.5)
    ratio = tokens.std(0) / spread
    # The rows of the projection are drawn: each one's length varies by 1 / sqrt(2 inputs).
    assert (ratio - 1).abs().max() < 5 * (2 * projection.in_features) ** -0.5
    assert abs(ratio.mean() - 1) < 0.1


def nothing_as(state: dict) -> dict:
    """Zeros of the shapes of ``state``, which take no memory."""
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in state.items()}


def published_t5(dims: T5Dims, file) -> T5Weights:
    """A T5 with transformers' names and shapes, the first checkpoints' unused bias among them."""
    with torch.device("meta"):
        state = T5ForConditionalGeneration(T5Config(**config_of_dims(dims))).state_dict()
    state = nothing_as(state) | {UNUSED_BIAS: torch.zeros(dims.num_buckets, dims.num_heads)}
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    for name in copies + ["lm_head.weight"] * dims.tie_word_embeddings:
        del state[name]
    return T5Weights(file, (file,), state, dims, has_config=True, vocabulary=None)


@pytest.mark.data
def test_t5_large_and_r2plus1d_34_with_the_published_names_and_shapes(test_data, tmp_path):
    (tmp_path / "file").touch()
    with torch.device("meta"):
        net = R2Plus1D(R2PLUS1D_DIMS["34"], num_classes=359)
    state = initial_checkpoint(
        architecture("video_translate_t5_large"),
        t5=published_t5(T5_DIMS["large"], tmp_path / "file"),
        video=VideoWeights(tmp_path / "file", "torch", nothing_as(net.state_dict())),
        tokenizer=Tokenizer.from_file(test_data / "t5" / "spiece.model"),
        seed=1,
        cfg={},
    )
    report = state["pretrained"]
    assert report["used"]["t5"]["numbers"] == 737_668_096
    assert report["used"]["video"]["tensors"] == 416 - 2
    assert report["parameters"] == 737_668_096 + 63_491_975 + 512 * 1024 + 1024
    assert report["dropped"] == [UNUSED_BIAS, "fc.bias", "fc.weight"]
    assert report["new_rows"]["[MASK]"] == "the row of <extra_id_0>"


@pytest.mark.data
def test_t5_1_1_small_fills_the_named_architecture_of_that_variant(test_data, tmp_path):
    (tmp_path / "file").touch()
    t5 = published_t5(T5_V1_1_DIMS["small"], tmp_path / "file")
    tokenizer = Tokenizer.from_file(test_data / "t5" / "spiece.model")
    config = replace(architecture("video_translate_t5_small"), video_network="tiny")
    differing = size_differences(t5, config)
    assert "gated_gelu true and not false, tie_word_embeddings false" in differing
    config = replace(config, t5_variant="v1_1")
    state = initial_checkpoint(config, t5, None, tokenizer, seed=1, cfg={})
    assert state["pretrained"]["used"]["t5"]["numbers"] == 76_961_152
    assert state["model"]["decoder.lm_head.weight"].shape == (32128, 512)
    assert sum("video.network" in name for name in state["pretrained"]["new"]) > 100


@pytest.mark.parametrize(("named", "said"), [("right", "as it is named"), ("wrong", "not as it")])
def test_a_hash_in_a_files_name_is_compared(joining, tmp_path, capsys, named, said):
    digest = hashlib.sha256(joining["--video"].read_bytes()).hexdigest()[:8]
    name = f"net-{digest if named == 'right' else '0123abcd'}.pth"
    shutil.copy(joining["--video"], tmp_path / name)
    init(joining | {"--video": tmp_path / name, "--out": tmp_path / "init.pt"})
    assert f" ({said}" in capsys.readouterr().out


# Exports


@pytest.mark.parametrize("options", [["--export"], ["--trust-checkpoint", "--out"]])
def test_a_process_that_has_imported_nothing_else_knows_our_checkpoints(started, tmp_path, options):
    # ``run`` has everything imported before the command starts.
    line = command_line("vt-init", "--from-checkpoint", started / "init.pt", *options)
    subprocess.run([*line, tmp_path / "made"], env=environment(), check=True)
    assert (tmp_path / "made").exists()


def test_an_exported_folder_is_the_checkpoint_without_paths(started):
    state, exported = read(started / "init.pt"), read_exported(started / "model")
    assert exported["model"].keys() == state["model"].keys()
    assert all(torch.equal(exported["model"][n], t) for n, t in state["model"].items())
    assert exported["cfg"]["model"] == state["cfg"]["model"]
    assert exported["task_state"]["vocabulary_sha256"] == state["task_state"]["vocabulary_sha256"]
    assert exported["cfg"]["task"]["num_frames"] == state["cfg"]["task"]["num_frames"]
    assert exported["cfg"]["task"]["data"] == ""
    table = load_file(started / "model" / "model.safetensors")
    assert "decoder.embed_tokens.weight" not in table


def test_the_exported_tokenizer_gives_our_ids_in_transformers(started):
    ours = Tokenizer.from_file(started / "model" / "spiece.model")
    theirs = AutoTokenizer.from_pretrained(started / "model" / "t5")
    for text in ("a red circle grows.", "the blue square", " falls?  ring", "naïve ½ 你", ""):
        assert theirs(text).input_ids == [*ours.encode(text), 1]
    names = ["[CLS]", "[SEP]", "[MASK]", "[VIDEO]", "<extra_id_0>", "<pad>", "</s>"]
    ids = [ours.cls, ours.sep, ours.mask, ours.video, ours.cls - 1, 0, 1]
    assert theirs.convert_tokens_to_ids(names) == ids


@pytest.mark.data
def test_t5s_own_vocabulary_exports_with_its_ids(test_data, tmp_path):
    shutil.copy(test_data / "t5" / "spiece.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(512)))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("The house is wonderful.").input_ids == [37, 629, 19, 1627, 5, 1]
    assert theirs.convert_tokens_to_ids(["<extra_id_0>", "[CLS]", "[VIDEO]"]) == [
        *(32099, 32100, 32103),
    ]


def test_a_folder_that_is_damaged_or_mixed_up_is_refused(started, tmp_path, capsys):
    def broken(name: str, change) -> None:
        folder = tmp_path / name
        shutil.copytree(started / "model", folder)
        change(folder)
        with pytest.raises(UserError, match=name):
            read_exported(folder)

    broken("config.json", lambda f: (f / "config.json").write_text("{}"))
    broken("model.safetensors", lambda f: (f / "model.safetensors").write_bytes(b"\x08" * 99))
    broken("spiece.model", lambda f: (f / "spiece.model").write_bytes(vocabulary(texts=OTHER)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no file .*config\.json"):
        read_exported(tmp_path / "empty")


# Training from it


@pytest.fixture(scope="module")
def data(files, data_directory, tmp_path_factory):
    """A data directory with the vocabulary of the T5."""
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(data_directory, folder)
    shutil.copy(files / "t5" / "spiece.model", DataDirectory.open(folder).tokenizer_path)
    return folder


def train(started, data, save_dir, *options: str, expected_code: int = 0) -> str:
    """The output of one update from the checkpoint that vt-init wrote."""
    return run(
        "fairseq-train",
        *[data, *PLUGIN, "--criterion", "video_translate", *options, "--dropout", "0"],
        *["--finetune-from-model", started / "init.pt", "--optimizer", "adam", "--lr", "1e-5"],
        *["--video-lr-scale", "1", "--num-frames", "8", "--frame-size", "32", "--batch-size", "4"],
        *["--max-update", "1", "--save-dir", save_dir, "--disable-validation"],
        expected_code=expected_code,
    )


def same_model(state: dict) -> list[str]:
    dims = state["cfg"]["model"]["t5_dims"]
    return ["--arch", "video_translate", "--t5-dims", dims, "--video-network", "tiny"]


def test_training_goes_on_from_it_and_what_it_saves_exports(started, files, tmp_path, data):
    state = read(started / "init.pt")
    log = train(started, data, tmp_path, *same_model(state))
    assert "loading pretrained model from" in log
    trained = read_checkpoint(tmp_path / "checkpoint_last.pt")["model"]
    # Adam's first step is at most the learning rate; a model that had started anew would be far.
    for name, before in state["model"].items():
        if "running" not in name and "tracked" not in name:
            assert (trained[name] - before).abs().max() <= 1.01e-5, name
    assert not torch.equal(
        trained["encoder.embed_tokens.weight"], state["model"]["encoder.embed_tokens.weight"]
    )
    source = {"--from-checkpoint": tmp_path / "checkpoint_last.pt"}
    source["--vocabulary"] = files / "t5" / "spiece.model"
    init(source | {"--export": tmp_path / "model"})
    exported = read_exported(tmp_path / "model")["model"]
    assert all(torch.equal(exported[name], tensor) for name, tensor in trained.items())


def test_the_line_that_it_ends_with_trains_the_model_as_it_stands(joining, data, tmp_path, capsys):
    out = tmp_path / "a name.pt"
    init(joining | {"--out": out})
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    words[words.index("DATA")] = str(data)
    # For a CPU and a moment.
    words += ["--cpu", "--num-frames", "8", "--frame-size", "32", "--optimizer", "adam"]
    words += ["--max-epoch", "1", "--max-update", "2", "--disable-validation"]
    words += ["--batch-size", "1000", "--save-dir", str(tmp_path)]
    log = run(*words, cwd=ROOT)
    assert f"loading pretrained model from {out}" in log
    assert not (tmp_path / "checkpoint1.pt").exists(), "none of each epoch, which fills a disk"
    trained = read(tmp_path / "checkpoint_last.pt")["cfg"]["model"]
    wanted = read(out)["cfg"]["model"]
    assert {name: trained[name] for name in wanted} == wanted


def test_the_line_names_a_user_dir_that_is_found_from_any_folder(
    joining, tmp_path, capsys, monkeypatch
):
    def named() -> str:
        init(joining | {"--out": tmp_path / "init.pt"})
        words = shlex.split(capsys.readouterr().out.splitlines()[-1])
        return words[words.index("--user-dir") + 1]

    monkeypatch.chdir(ROOT)
    assert named() == "user_dir"
    monkeypatch.chdir(tmp_path)
    assert Path(named(), "__init__.py").is_file()


def test_the_line_lets_a_random_video_network_learn_as_fast_as_the_rest(joining, tmp_path, capsys):
    init(joining | {"--out": tmp_path / "init.pt"})
    assert "--video-lr-scale" not in capsys.readouterr().out
    init(joining | {"--out": tmp_path / "init.pt", "--video": "random"})
    assert " --video-lr-scale 1 " in capsys.readouterr().out.splitlines()[-1]


def test_another_vocabulary_than_the_checkpoints_is_named(started, data_directory, tmp_path):
    options = same_model(read(started / "init.pt"))
    log = train(started, data_directory, tmp_path, *options, expected_code=2)
    assert (
        f"error: {started / 'init.pt'}: the model was trained with another vocabulary than" in log
    )
    assert "--save-dir" not in log.splitlines()[-1]


def test_a_save_dir_of_another_training_is_named_with_a_way_out(started, trained, data, tmp_path):
    """``--finetune-from-model`` fits; the last checkpoint there has another vocabulary."""
    shutil.copy(trained, tmp_path / "checkpoint_last.pt")
    log = train(started, data, tmp_path, *same_model(read(started / "init.pt")), expected_code=2)
    assert f"error: {tmp_path / 'checkpoint_last.pt'}: the model was trained with another" in log
    assert f"It lies in --save-dir {tmp_path}," in log and "another --save-dir begins" in log


def test_another_architecture_than_the_checkpoints_is_named(started, data, tmp_path):
    log = train(started, data, tmp_path, "--arch", "video_translate_tiny", expected_code=2)
    assert "init.pt holds a model of --t5-size large (the command: tiny)" in log


def test_generation_works_before_any_training(started, data):
    log = run(
        "fairseq-generate",
        *[data, *PLUGIN, "--path", started / "init.pt", "--gen-subset", "test"],
        *["--action", "caption", "--max-len-b", "3", "--num-frames", "8", "--frame-size", "32"],
    )
    assert log.count("\nD-") == 5


# Mistakes


@pytest.mark.data
def test_a_sentencepiece_model_that_is_not_t5s_is_refused(test_data, tmp_path, capsys):
    wrong = test_data / "t5" / "not_t5_sentencepiece.model"
    options = {"--t5": test_data / "t5" / "tiny_t5_hf", "--video": "random", "--arch": "from-t5"}
    line = failing(capsys, options | {"--vocabulary": wrong, "--out": tmp_path / "x.pt"})
    assert f"{wrong} does not have T5's ids: expected" in line
    assert not list(tmp_path.iterdir())


def test_gated_gelu_weights_are_refused_for_relu_with_what_differs(files, tmp_path, capsys):
    options = {"--t5": files / "t5_v1_1", "--video": "random", "--out": tmp_path / "x.pt"}
    line = failing(capsys, options | {"--arch": "video_translate_t5_small"})
    assert "is a T5 1.1 or flan-t5 (gated gelu)" in line
    assert "gated_gelu true and not false" in line and "--t5-variant" in line


HOSTILE = {
    "t5 .bin": ("pytorch_model.bin", "--t5"),
    "video .pth": ("x.pth", "--video"),
    "video .pkl": ("x.pkl", "--video"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_ends_in_one_line_and_nothing_ran(joining, tmp_path, capsys, kind):
    name, option = HOSTILE[kind]
    marker, path = tmp_path / "ran", tmp_path / name
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps({"blobs": Hostile(marker)}))
    else:
        torch.save({"stem.0.weight": Hostile(marker)}, path)
    line = failing(capsys, joining | {option: path, "--out": tmp_path / "x.pt"})
    assert str(path) in line and "posix.system" in line
    assert not marker.exists() and not (tmp_path / "x.pt").exists()


def misshape(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["decoder.block.1.layer.2.DenseReluDense.wi.weight"] = torch.ones(64, 47)
    save_file(tensors, folder / "model.safetensors")


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: truncate(f / "t5" / "model.safetensors"), "model.safetensors is damaged"),
        (lambda f: truncate(f / "r2plus1d.pth"), "r2plus1d.pth is damaged"),
        (lambda f: misshape(f / "t5"), "DenseReluDense.wi.weight is (64, 47) torch.float32, the"),
        (lambda f: (f / "t5" / "spiece.model").unlink(), "no spiece.model beside"),
        (lambda f: truncate(f / "t5" / "spiece.model"), "is not a sentencepiece model"),
        (lambda f: (f / "t5" / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "r2plus1d.pth").unlink(), "no file"),
        (lambda f: shutil.rmtree(f / "t5"), "no file"),
    ],
)
def test_a_damaged_or_missing_file_ends_in_one_line(
    files, joining, tmp_path, capsys, change, message
):
    shutil.copytree(files, tmp_path / "files")
    change(tmp_path / "files")
    paths = {option: tmp_path / "files" / joining[option].name for option in ("--t5", "--video")}
    line = failing(capsys, joining | paths | {"--out": tmp_path / "x.pt"})
    assert message in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected --t5 and --video and --arch, or --from-checkpoint"),
        ({"--t5": "T5", "--video": "random", "--arch": "from-t5"}, "expected --out or --export"),
        ({"--from-checkpoint": "x.pt"}, "goes with --export alone"),
        ({"--from-checkpoint": "x.pt", "--export": "y", "--t5": "z"}, "found --t5"),
        ({"--from-checkpoint": "x.pt", "--export": "y"}, "no checkpoint at x.pt"),
    ],
)
def test_options_that_do_not_go_together_are_named(capsys, options, message):
    assert message in failing(capsys, options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--arch": "video_translate_t5_huge"}, "--arch video_translate_t5_huge: expected one of"),
        ({"--arch": "video_translate_t5_large"}, "d_model 48 and not 1024"),
        ({"--t5-variant": "v1_1"}, "takes --t5-variant from the T5's config.json"),
        ({"--t5-variant": "v2"}, "--t5-variant v2: expected one of v1_0, v1_1"),
        ({"--video-network": "50"}, "--video-network 50: expected one of"),
        ({"--video-network": "34"}, "of (1, 1, 1, 1) blocks, expected (3, 4, 6, 3)"),
        ({"--t5": "model.safetensors"}, "needs a config.json beside"),
        ({"--vocabulary": "other.model"}, "which belongs to the weights"),
        ({"--out": "full"}, "--out full is a folder"),
        ({"--export": "full"}, "exists and is not an empty folder"),
    ],
)
def test_a_wrong_choice_is_named(files, joining, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    shutil.copy(files / "t5" / "model.safetensors", tmp_path)
    (tmp_path / "other.model").write_bytes(vocabulary(texts=OTHER))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert message in failing(capsys, joining | {"--out": "x.pt"} | changes)
