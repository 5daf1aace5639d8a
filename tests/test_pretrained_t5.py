"""T5 weights in Hugging Face's layouts: sizes, names, values, and everything accounted for."""

import hashlib
import io
import json
import math
import shutil

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from tests.weights import SENTENCES, SMALL_T5, V1_1, Hostile, hf_t5, vocabulary, write_t5
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import architecture, build_model
from vt_fairseq.models.pretrained.t5_weights import (
    UNUSED,
    config_of_dims,
    dims_of_config,
    hf_key,
    read_t5,
)
from vt_fairseq.models.pretrained.vocabulary_rows import (
    check_vocabulary,
    input_rows,
    output_rows,
)
from vt_fairseq.models.t5 import T5_VARIANTS

WEIGHT = torch.ones(2, 3)
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("t5")
    write_t5(made)
    return made


def write_state(folder, layout: str, state: dict) -> None:
    """The tensors in one of the layouts, beside a config.json."""
    if layout == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif layout == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    elif layout == "old bin":
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    else:
        write_parts(folder, layout.split()[1], state)


def write_parts(folder, ending: str, state: dict) -> None:
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    listed = {}
    for number, half in enumerate(halves, 1):
        stem = "model" if ending == "safetensors" else "pytorch_model"
        file = f"{stem}-{number:05}-of-00002.{ending}"
        write = save_file if ending == "safetensors" else torch.save
        write({name: state[name] for name in half}, folder / file)
        listed |= dict.fromkeys(half, file)
    (folder / INDEX[ending]).write_text(json.dumps({"weight_map": listed}))


@pytest.mark.parametrize(
    "layout", ["safetensors", "bin", "old bin", "sharded safetensors", "sharded bin"]
)
def test_every_layout_gives_the_same_tensors_and_sizes(tmp_path, folder, layout):
    state = load_file(folder / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    write_state(tmp_path, layout, state)
    weights = read_t5(tmp_path)
    assert weights.dims == read_t5(folder).dims and weights.has_config
    assert len(weights.files) == (2 if "sharded" in layout else 1)
    assert all(torch.equal(weights.tensors[name], state[name]) for name in weights.tensors)
    assert state.keys() - weights.tensors.keys() <= {"decoder.embed_tokens.weight"}


def test_a_file_of_weights_does_without_a_config_and_its_sizes_show_in_the_tensors(
    tmp_path, folder
):
    shutil.copy(folder / "model.safetensors", tmp_path / "weights")
    weights = read_t5(tmp_path / "weights")
    assert not weights.has_config
    assert weights.dims.d_model == 48 and weights.dims.num_decoder_layers == 3
    assert not weights.dims.gated_gelu and weights.dims.tie_word_embeddings


def test_the_first_checkpoints_copies_of_the_table_become_one(tmp_path, folder):
    state = load_file(folder / "model.safetensors")
    table = state.pop("shared.weight")
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    torch.save(state | {name: table.clone() for name in names}, tmp_path / "pytorch_model.bin")
    tensors = read_t5(tmp_path / "pytorch_model.bin").tensors
    assert torch.equal(tensors["shared.weight"], table) and not set(names) & tensors.keys()


@pytest.mark.parametrize("variant", sorted(T5_VARIANTS))
@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_published_sizes_have_exactly_the_names_and_shapes_of_transformers(size, variant):
    config = architecture(f"video_translate_t5_{size}")
    config.t5_variant = variant
    dims = T5_VARIANTS[variant][size]
    with torch.device("meta"):
        ours = build_model(config, 32128, 32103).state_dict()
        theirs = T5ForConditionalGeneration(T5Config(**config_of_dims(dims))).state_dict()
    found = {hf_key(n): t.shape for n, t in ours.items() if not n.startswith("encoder.video.")}
    expected = {name: tensor.shape for name, tensor in theirs.items()}
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    for copy in copies + ["lm_head.weight"] * dims.tie_word_embeddings:
        del expected[copy]
    assert found == expected


@pytest.mark.parametrize("changes", [{}, V1_1], ids=["v1_0", "v1_1"])
def test_sizes_go_to_a_config_and_back(changes):
    config = T5Config(**{**SMALL_T5, **changes}).to_dict()
    dims = dims_of_config(config, "config.json")
    assert dims.gated_gelu == bool(changes) and dims.tie_word_embeddings == (not changes)
    assert dims_of_config(config_of_dims(dims), "config.json") == dims
    again = T5Config(**config_of_dims(dims)).to_dict()
    same = {
        *SMALL_T5,
        "is_gated_act",
        "dense_act_fn",
        "scale_decoder_outputs",
        "layer_norm_epsilon",
    }
    assert {name: again[name] for name in same} == {name: config[name] for name in same}


def test_a_config_of_google_s_without_the_newer_keys_is_understood():
    # The keys that t5-small's config.json has had since 2019.
    old = {"model_type": "t5", "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048}
    old |= {"num_heads": 8, "num_layers": 6, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6}
    old |= {"relative_attention_num_buckets": 32}
    assert dims_of_config(old, "config.json") == T5_VARIANTS["v1_0"]["small"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bart"}, "expected model_type t5 or mt5, found bart"),
        ({"model_type": "umt5"}, "found umt5: each of its layers has relative positions of its"),
        ({"model_type": "t5gemma"}, "found t5gemma: its layers are Gemma's"),
        ({"tokenizer_class": "ByT5Tokenizer"}, "is a ByT5, which reads bytes: expected a T5 with"),
        ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj 'gated-tanh', expected one of"),
        ({"d_model": None}, "lacks sizes.*d_model"),
        ({"d_model": "48"}, "d_model is '48', no whole number"),
        ({"d_ff": 65}, "d_ff 64 and not 65, which is what .*config.json says"),
        ({"num_decoder_layers": 2}, "num_decoder_layers 3 and not 2"),
        ({"model_type": ["t5"]}, r"expected model_type t5 or mt5, found \['t5'\]"),
        ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj \['relu'\], expected one of"),
        ({"dropout_rate": "0.1"}, "dropout_rate is '0.1', expected a number from 0 to 1"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon is inf, expected a number"),
    ],
)
def test_a_config_that_is_none_or_not_of_these_weights_is_named(tmp_path, folder, changes, message):
    shutil.copytree(folder, tmp_path / "t5")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "t5" / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=message):
        read_t5(tmp_path / "t5")


def test_a_folder_without_config_or_without_weights_says_what_it_lacks(tmp_path, folder):
    with pytest.raises(UserError, match=r"has no weights: expected one of model\.safetensors"):
        read_t5(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_t5(tmp_path)


def test_weights_that_are_no_t5_say_which_tensor_is_missing(tmp_path):
    save_file({"bert.embeddings.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no T5: 'shared\.weight'"):
        read_t5(tmp_path / "model.safetensors")


def test_weights_in_fp8_are_read_as_the_numbers_that_they_are(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "t5")
    state = load_file(folder / "model.safetensors")
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}
    save_file(small, tmp_path / "t5" / "model.safetensors")
    found = read_t5(tmp_path / "t5").tensors
    assert all(torch.equal(found[name], small[name].float()) for name in found)
    small["shared.weight"] = torch.full_like(small["shared.weight"].float(), math.nan)
    save_file(
        {name: tensor.to(torch.float8_e4m3fn) for name, tensor in small.items()},
        tmp_path / "t5" / "model.safetensors",
    )
    with pytest.raises(UserError, match=r"shared\.weight has values that are not finite"):
        read_t5(tmp_path / "t5")


@pytest.mark.parametrize("name", ["shared", "encoder.block.0.layer.0.SelfAttention.q"])
def test_a_table_of_whole_numbers_or_no_heads_is_no_t5(tmp_path, folder, name):
    shutil.copytree(folder, tmp_path / "t5")
    state = load_file(folder / "model.safetensors")
    if name == "shared":
        state[f"{name}.weight"] = state[f"{name}.weight"].long()
    else:
        bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[bias] = state[bias][:, :0].contiguous()
    save_file(state, tmp_path / "t5" / "model.safetensors")
    with pytest.raises(UserError, match=r"expected floating point|holds no T5"):
        read_t5(tmp_path / "t5")


@pytest.mark.parametrize("content", [[1], {"decoder.embed_tokens.weight": "text"}, {1: WEIGHT}])
def test_a_file_of_something_else_than_tensors_is_named(tmp_path, content):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"pytorch_model\.bin: expected (a plain tensor|tensors by)"
    ):
        read_t5(tmp_path / "pytorch_model.bin")


def test_copies_of_the_table_that_differ_are_refused(tmp_path, folder):
    state = load_file(folder / "model.safetensors")
    state["encoder.embed_tokens.weight"] = state["shared.weight"] + 1
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"encoder\.embed_tokens\.weight differs from shared\.weight"
    ):
        read_t5(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("change", ["lost", "moved", "outside", "no map"])
def test_parts_that_are_not_what_their_list_says_are_refused(tmp_path, folder, change):
    shutil.copy(folder / "config.json", tmp_path)
    write_parts(tmp_path, "safetensors", load_file(folder / "model.safetensors"))
    index = tmp_path / INDEX["safetensors"]
    listed = json.loads(index.read_text())["weight_map"]
    first = sorted(listed)[0]
    if change == "lost":
        (tmp_path / listed[first]).unlink()
    elif change == "moved":
        listed[first] = listed[sorted(listed)[-1]]
    elif change == "outside":
        listed[first] = "../secret.safetensors"
    content = {} if change == "no map" else {"weight_map": listed}
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"no file|does not hold|not beside it|no weight_map"):
        read_t5(tmp_path)


def test_a_part_that_would_run_code_runs_nothing(tmp_path, folder):
    shutil.copy(folder / "config.json", tmp_path)
    write_parts(tmp_path, "bin", load_file(folder / "model.safetensors"))
    torch.save({"a": Hostile(tmp_path / "ran")}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(UserError, match=r"posix\.system"):
        read_t5(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_bias_that_t5_never_uses_is_the_only_one_left_out():
    assert UNUSED.fullmatch(
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    )
    names = hf_t5().state_dict()
    assert not [name for name in names if UNUSED.fullmatch(name)]


# Rows of the embedding table


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(vocabulary(), "spiece.model")


def test_new_tokens_start_as_t5s_sentinels_and_all_other_rows_stay(tokenizer):
    table = torch.randn(tokenizer.table_size, 8)
    rows, origins = input_rows(table, tokenizer)
    symbols = tokenizer.symbols()
    for token, sentinel in (("[MASK]", 0), ("[SEP]", 1), ("[CLS]", 2)):
        assert torch.equal(
            rows[symbols.index(token)], table[symbols.index(f"<extra_id_{sentinel}>")]
        )
        assert origins[token] == f"the row of <extra_id_{sentinel}>"
    new = [tokenizer.cls, tokenizer.sep, tokenizer.mask]
    others = [i for i in range(tokenizer.table_size) if i not in new]
    assert torch.equal(rows[others], table[others])
    assert torch.equal(output_rows(table, tokenizer), table)


def test_rows_that_a_shorter_table_lacks_start_as_the_mean_of_the_pieces(tokenizer):
    table = torch.randn(tokenizer.num_pieces + 2, 8)
    rows, origins = input_rows(table, tokenizer)
    assert torch.equal(rows[: len(table)], table)
    mean = table[: tokenizer.num_pieces].mean(0)
    torch.testing.assert_close(rows[len(table) :], mean.expand(len(rows) - len(table), -1))
    assert set(origins.values()) == {"the mean of all pieces"}


def test_sentinels_that_are_pieces_are_found_there():
    """As in mT5's vocabulary."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES * 5),
        model_writer=out,
        user_defined_symbols=[f"\u2581<extra_id_{n}>" for n in (2, 1, 0)],
        **{"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2},
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    tokenizer = Tokenizer(out.getvalue())
    table = torch.randn(tokenizer.table_size, 4)
    rows, _ = input_rows(table, tokenizer)
    pieces = tokenizer.symbols()
    assert torch.equal(rows[tokenizer.mask], table[pieces.index("\u2581<extra_id_0>")])
    assert torch.equal(rows[tokenizer.cls], table[pieces.index("\u2581<extra_id_2>")])


@pytest.mark.data
def test_t5s_own_vocabulary_has_its_sentinels_where_t5_has_them(test_data):
    tokenizer = Tokenizer.from_file(test_data / "t5" / "spiece.model")
    assert hashlib.sha256(tokenizer.model_proto).hexdigest().startswith("d60acb128cf7b7f2")
    rows, _ = input_rows(torch.arange(32128.0).unsqueeze(1), tokenizer)
    new = [tokenizer.mask, tokenizer.sep, tokenizer.cls]
    assert rows[new].flatten().tolist() == [32099, 32098, 32097]
    check_vocabulary(32128, tokenizer, "t5")
    with pytest.raises(UserError, match=r"has 32000 pieces.* has one of 32"):
        check_vocabulary(32, tokenizer, "t5")


def test_a_vocabulary_too_small_for_the_weights_is_refused_too(tokenizer):
    with pytest.raises(UserError, match=r"32128: expected the spiece\.model that belongs to"):
        check_vocabulary(32128, tokenizer, "t5")
