"""Files of tensors: every layout is told apart and read, and nothing in a file is ever run."""

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.weights import Hostile, python2_pickle
from vt_fairseq.errors import UserError
from vt_fairseq.models.pretrained.files import read_json, read_tensors, sha256

WEIGHT = torch.arange(6.0).reshape(2, 3)


def write(path, layout: str, content) -> None:
    if layout == "safetensors":
        save_file(content, path)
    elif layout == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth", "x.pkl"])
@pytest.mark.parametrize("layout", ["safetensors", "zip", "legacy"])
def test_a_files_content_and_not_its_name_says_what_it_is(tmp_path, layout, name):
    write(tmp_path / name, layout, {"a": WEIGHT})
    assert torch.equal(read_tensors(tmp_path / name)["a"], WEIGHT)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_arrays_are_read_in_every_protocol(tmp_path, protocol, order):
    array = np.array(WEIGHT.numpy(), order=order)
    content = {"blobs": {"w": array, "n": np.float32(2), "names": ["a", b"b"]}}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_tensors(tmp_path / "x.pkl")["blobs"]
    assert np.array_equal(found["w"], array) and found["w"].dtype == np.float32
    assert found["n"] == 2


def test_pickles_of_python_2_and_numpy_1_are_read(tmp_path):
    array = WEIGHT.numpy()
    data = python2_pickle({"blobs": {"w": array}})
    assert b"cnumpy.core.multiarray\n_reconstruct" in data and b"_codecs" not in data
    (tmp_path / "x.pkl").write_bytes(data)
    assert np.array_equal(read_tensors(tmp_path / "x.pkl")["blobs"]["w"], array)


@pytest.mark.parametrize("layout", ["zip", "legacy", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, layout):
    path, marker = tmp_path / "weights.bin", tmp_path / "ran"
    write(path, layout, {"a": Hostile(marker)})
    with pytest.raises(UserError, match=r"weights\.bin is damaged or .*posix\.system"):
        read_tensors(path)
    assert not marker.exists()
    with open(path, "rb") as file:  # the file is what it seems: it runs where it is trusted
        torch.load(path, weights_only=False) if layout == "zip" else pickle.load(file)
        if layout == "legacy":
            torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    "expression",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n(cnumpy\nndarray\nS'x'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
        b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.",
    ],
)
def test_pickles_may_name_nothing_but_what_makes_arrays(tmp_path, expression):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + expression)
    with pytest.raises(UserError, match=r"only numpy arrays are allowed|expected latin1"):
        read_tensors(tmp_path / "x.pkl")


@pytest.mark.parametrize("layout", ["safetensors", "zip", "legacy", "pickle"])
def test_a_truncated_file_ends_in_one_line_wherever_it_was_cut(tmp_path, layout):
    path = tmp_path / "weights"
    values = {"a": torch.randn(50, 40), "b": torch.ones(3)}
    write(path, layout, {n: t.numpy() for n, t in values.items()} if layout == "pickle" else values)
    whole = path.read_bytes()
    for length in (0, 1, 9, 33, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as caught:
            read_tensors(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_that_lies_about_its_size_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"a": {"dtype": "F32", "shape": [1 << 20, 1 << 20], "data_offsets": [0, 1 << 42]}}
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)
    with pytest.raises(UserError, match="is damaged"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\0" * 99])
def test_a_file_of_another_kind_is_named(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth holds no tensors: expected a safetensors"):
        read_tensors(tmp_path / "weights.pth")


def test_a_pointer_of_git_lfs_and_a_folder_are_named(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid ...")
    with pytest.raises(UserError, match=r"weights\.pth .* was not downloaded: git lfs pull"):
        read_tensors(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="is a folder: expected a file of weights"):
        read_tensors(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*nothing\.pth"):
        read_tensors(tmp_path / "nothing.pth")


@pytest.mark.parametrize("content", ["", "{", "[1]", "\ud800"])
def test_a_json_file_without_an_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError, match=r"config\.json"):
        read_json(tmp_path / "config.json")


def test_the_hash_is_sha256s(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")
