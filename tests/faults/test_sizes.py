"""Files that would fill the memory are refused by their size, before they are read."""

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import vt_fairseq
from tests import media
from tests.corpora import write_jsonl
from tests.faults.forks import in_a_process
from tests.faults.test_crafted_files import outcome
from vt_fairseq.cli.inputs import read_labels
from vt_fairseq.corpora import files, howto100m, jsonl
from vt_fairseq.corpora.prepare import Probing, write_rows
from vt_fairseq.corpora.rows import Source
from vt_fairseq.corpora.subtitles import Subtitles, parse_subtitles
from vt_fairseq.data.manifest import ClipRow, DataDirectory, Manifest, write_manifest
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError
from vt_fairseq.evaluation import caption_files
from vt_fairseq.files import result_files, untrusted_files
from vt_fairseq.files.bounded_files import parse_json
from vt_fairseq.models.pretrained.files import read_json, read_tensors
from vt_fairseq.report.logs import read_log
from vt_fairseq.report.readers import read_rankings
from vt_fairseq.report.results import read_object
from vt_fairseq.training import checkpoints
from vt_fairseq.video.decoding import probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

GIGABYTE = 1 << 30
MOST_MB = 200  # of JSON in one object a value of 64 MiB is held, twice


def refused(read: Callable[[Path], Any], folder: Path) -> str:
    """The line by which ``read(folder)`` refuses, having taken little memory."""
    ended, found = in_a_process(lambda: outcome(read, folder))
    assert ended == "done", found
    how, message, rise, _ = found  # type: ignore[misc]
    assert how == "refused" and "\n" not in message and rise < MOST_MB, (how, message[:300], rise)
    return message


# Files of nothing but zeros, which take no room on the disk, under the names that readers expect.
SPARSE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "data.json": ("data.json", lambda path: DataDirectory.open(path.parent)),
    "the classes of a data directory": (
        "labels.txt",
        lambda path: DataDirectory(path.parent, "", path, True, {}, {}).classes("label"),
    ),
    "a vocabulary": ("spiece.model", Tokenizer.from_file),
    "an exported configuration": ("config.json", read_json),
    "a manifest": ("a.jsonl", lambda path: list(jsonl.read(path))),
    "predictions": ("predictions.jsonl", result_files.read),
    "rankings": ("predictions.jsonl", lambda path: list(read_rankings(path, {}))),
    "metrics": ("metrics.json", read_object),
    "a log": ("train.log", read_log),
    "official JSON": ("a.json", files.json_document),
    "official JSON in one object": ("a.json", lambda path: list(files.json_items(path))),
    "official CSV": ("a.csv", lambda path: list(files.csv_records(path, ["x"]))),
    "the tasks of HowTo100M": ("task_ids.csv", howto100m.read_tasks),
    "a subtitle": ("a.srt", parse_subtitles),
    "subtitles": ("a.jsonl", Subtitles),
    "class names": ("labels.txt", read_labels),
    "captions in lines": ("a.txt", lambda path: caption_files.read_pairs(path, [path])),
    "captions of COCO": ("a.json", lambda path: caption_files.read_pairs(path, [path])),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_a_gigabyte_of_zeros_is_refused_unread(kind, tmp_path):
    name, read = SPARSE[kind]
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, GIGABYTE)
    assert name in refused(lambda folder: read(folder / name), tmp_path)


@pytest.mark.parametrize("size", [3 * GIGABYTE, 107_000_000])
def test_a_picture_larger_than_any_can_be_is_not_read(tmp_path, size):
    folder = media.write_folder(tmp_path / "frames", 3)
    os.truncate(folder / "1.jpg", size)
    for read in (probe, lambda path: read_clip(path, FrameSampling(num_frames=3))):
        said = refused(lambda path, read=read: read(path / "frames"), tmp_path)
        assert said == f"frame 1.jpg has {size:,} bytes, at most 106,168,320 are read"
    # 8192 x 4320 pixels of 3 bytes; and a picture with something behind it is still one.
    os.truncate(folder / "1.jpg", 1 << 20)
    assert probe(folder) == 1.0


# --- compression ----------------------------------------------------------------------------------


def write_compressed(path: Path, compression: str) -> None:
    """A manifest of one batch whose captions are 300 MB of one letter."""
    write_manifest(path, [ClipRow(str(k), "a.mp4") for k in range(300)])
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    captions = pa.array([["a" * 1_000_000]] * 300, pa.list_(pa.string()))
    table = table.set_column(4, table.schema.field("captions"), captions)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with open(path, "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_manifest_is_refused_before_it_grows(tmp_path, compression):
    path = tmp_path / "train.arrow"
    made = in_a_process(lambda: write_compressed(path, compression))
    assert made == ("done", None) and path.stat().st_size < 2_000_000
    for read in (lambda m: m[0], lambda m: list(m), len):
        said = refused(lambda folder, read=read: read(Manifest(folder / "train.arrow")), tmp_path)
        assert "its batches are compressed, expected plain ones" in said


@pytest.mark.parametrize("part", ["data.pkl", "data/0"])
def test_a_compressed_checkpoint_is_refused_before_it_grows(tmp_path, part):
    file = io.BytesIO()
    torch.save({"model": torch.zeros(10)}, file)
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(file) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name in given.namelist():
            more = bytes(300_000_000) if name.endswith(part) else b""
            made.writestr(name, given.read(name) + more)
    assert path.stat().st_size < 1_000_000
    said = refused(lambda folder: read_tensors(folder / "model.pt"), tmp_path)
    assert "is compressed, expected plain ones" in said
    said = refused(
        lambda folder: checkpoints.load_checkpoint_to_cpu(str(folder / "model.pt"), None, True),
        tmp_path,
    )
    assert "is compressed, expected plain ones" in said
    with pytest.raises(RuntimeError, match="is compressed"):
        untrusted_files.load_plain(path)


# --- rows -----------------------------------------------------------------------------------------


def test_a_row_with_more_than_a_mebibyte_of_text_is_rejected_and_the_others_stay(tmp_path):
    long, short = "word " * 220_000, "a red circle"
    rows = [{"id": name, "video": "a.mp4"} for name in ("caption", "candidates", "short")]
    texts = ({"caption": long}, {"candidates": [long[:10_000]] * 120}, {"caption": short})
    write_jsonl(tmp_path / "a.jsonl", *(row | text for row, text in zip(rows, texts, strict=True)))
    source = Source(jsonl.read(tmp_path / "a.jsonl"), tmp_path)
    data = write_rows("jsonl", source, tmp_path / "out", Probing(probe=False))
    assert data["reasons"] == {"too much text": 2}
    assert [row.id for row in Manifest(tmp_path / "out" / "train.arrow")] == ["short"]
    with pytest.raises(UserError, match=r"row 'x' has 1,100,\d+ bytes of text, at most 1,048,576"):
        write_manifest(tmp_path / "b.arrow", [ClipRow("x", "a.mp4", captions=(long,))])


@pytest.mark.parametrize("value", ["0", "-1", "x", "9" * 5000, str(10**15)])
def test_counts_of_rows_that_do_not_fit_into_the_file_are_refused(tmp_path, value):
    """They would be that many indices in memory."""
    path = tmp_path / "train.arrow"
    write_manifest(path, [ClipRow(str(k), "a.mp4") for k in range(1500)])
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    table = table.replace_schema_metadata({"vt_fairseq.rows_per_batch": value})
    with open(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=1024)
    with pytest.raises(UserError, match=r"is damaged \(.*; make it again") as caught:
        list(Manifest(path))
    assert len(str(caught.value)) < 500


def test_lines_as_long_as_are_allowed_are_read(tmp_path):
    text = "a" * ((1 << 24) - 40)
    write_jsonl(tmp_path / "a.jsonl", {"id": "a", "prediction": text})
    assert result_files.read(tmp_path / "a.jsonl")["a"]["prediction"] == text
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a", "prediction": text + "a" * 80}))
    with pytest.raises(UserError, match=r"a.jsonl line 1: longer than 16,777,216"):
        result_files.read(tmp_path / "a.jsonl")


def test_json_that_others_wrote_is_parsed_in_one_way_that_knows_no_depth():
    deep = "[" * 100_000
    for text in (deep, deep.encode()):
        with pytest.raises(ValueError, match="recursion"):
            parse_json(text)
    assert parse_json('{"a": [1, "b"]}') == {"a": [1, "b"]}
    package = Path(vt_fairseq.__file__).parent
    # What it has written itself in the same line has no depth of a stranger's.
    elsewhere = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"json\.loads?\((?!json\.dumps)", file.read_text())
    }
    assert elsewhere == {"files/bounded_files.py", "miniworld/world.py"}
