"""Rows on disk: what is written is read back, cheaply, in any process, or refused in words."""

import json
import multiprocessing
import os
import pickle
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from vt_fairseq.data import manifest as module
from vt_fairseq.data.manifest import (
    ROWS_PER_BATCH,
    ClipRow,
    DataDirectory,
    Manifest,
    write_manifest,
)
from vt_fairseq.data.root_signatures import is_signed, sign
from vt_fairseq.errors import UserError

TEXTS = ("a", "", "two\u2028lines", "😀 naïve 日本語", "line\nbreak", "\x00nul", "x" * 5000)
FULL = ClipRow(
    "id", "a/b.mp4", 0.5, 1.25, ("one", "two"), "label", "verb", "noun", "why ?", ("x", "y"), 1,
    "subtitles", "group",
)  # fmt: skip


def random_row(rng: random.Random, i: int) -> ClipRow:
    def text() -> str | None:
        return rng.choice([None, *TEXTS])

    def texts() -> tuple[str, ...]:
        return tuple(rng.choices(TEXTS, k=rng.randrange(4)))

    return ClipRow(
        id=f"{i}-{rng.choice(TEXTS)}",
        video=rng.choice(TEXTS),
        start=rng.choice([None, 0.0, 0.1, 1e-9, 12345.678]),
        end=rng.choice([None, rng.random() * 1e6]),
        captions=texts(),
        candidates=texts(),
        answer=rng.choice([None, 0, 4]),
        **{name: text() for name in ("label", "verb", "noun", "question", "context", "group")},
    )


def many(n: int) -> Iterator[ClipRow]:
    for i in range(n):
        yield ClipRow(f"clip{i}", f"{i // 10}.mp4", i * 0.5, i * 0.5 + 5, ("words",))


@pytest.fixture
def written(tmp_path) -> Path:
    """A file of 3,000 rows, which are three record batches."""
    write_manifest(tmp_path / "a.arrow", many(3000))
    return tmp_path / "a.arrow"


def ids(manifest: Manifest, indices: list[int]) -> list[str]:
    return [manifest[i].id for i in indices]


@pytest.mark.parametrize("n", [0, 1, ROWS_PER_BATCH - 1, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH + 3])
def test_rows_come_back_as_they_were_written(tmp_path, n):
    rng = random.Random(n)
    rows = [FULL, *(random_row(rng, i) for i in range(n))][:n]
    assert write_manifest(tmp_path / "a.arrow", iter(rows)) == n
    manifest = Manifest(tmp_path / "a.arrow")
    assert len(manifest) == n
    assert list(manifest) == rows
    assert [manifest[i] for i in range(n)] == rows
    assert list(manifest.column("id")) == [row.id for row in rows]
    assert [tuple(texts) for texts in manifest.column("captions")] == [r.captions for r in rows]


def test_a_row_holds_a_mebibyte_of_text_and_no_more(tmp_path):
    fits, long = (ClipRow("a", "a.mp4", captions=("x" * n,)) for n in (2**20 - 100, 2**20))
    assert write_manifest(tmp_path / "a.arrow", [fits]) == 1
    with pytest.raises(UserError, match="at most 1,048,576 fit"):
        write_manifest(tmp_path / "a.arrow", [long])


def test_negative_indices_count_from_the_end_and_others_are_refused(tmp_path):
    write_manifest(tmp_path / "a.arrow", many(5))
    manifest = Manifest(tmp_path / "a.arrow")
    assert manifest[-1].id == "clip4"
    for index in (5, -6):
        with pytest.raises(IndexError):
            manifest[index]


def test_a_large_manifest_is_neither_read_into_memory_nor_slow(tmp_path):
    n = 200_000
    path = tmp_path / "a.arrow"
    write_manifest(path, many(n))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    manifest = Manifest(path)
    indices = [random.Random(0).randrange(n) for _ in range(1000)]
    assert ids(manifest, indices) == [f"clip{i}" for i in indices]
    assert len(manifest) == n
    assert time.monotonic() - began < 5  # 0.05 s on a quiet machine; a full read takes longer
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 * 1024


def test_writing_holds_one_batch_of_rows_at_a_time(tmp_path):
    alive, most = set(), 0

    class Tracked(ClipRow):
        def __del__(self):
            alive.discard(self.id)

    def rows():
        nonlocal most
        for i in range(5 * ROWS_PER_BATCH):
            alive.add(str(i))
            most = max(most, len(alive))
            yield Tracked(str(i), "v")

    write_manifest(tmp_path / "a.arrow", rows())
    assert most <= ROWS_PER_BATCH + 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same_rows(written, method):
    manifest = Manifest(written)
    assert len(pickle.dumps(manifest)) < 1000  # the path alone
    expected = ids(manifest, [0, 1500, 2999])
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(ids, [(manifest, [0, 1500, 2999])] * 4) == [expected] * 4


def test_a_forked_child_reads_an_inherited_manifest(written):
    manifest = Manifest(written)
    assert manifest[7].id == "clip7"
    child = os.fork()
    if not child:
        os._exit(0 if manifest[2999].id == "clip2999" else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_manifest_is_refused(written, kept):
    content = written.read_bytes()
    written.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=r"a.arrow is damaged .* make it again with vt-prepare"):
        Manifest(written)


def test_flipped_bytes_give_rows_or_an_error_but_never_foreign_memory(tmp_path):
    write_manifest(tmp_path / "a.arrow", many(2000))
    content = (tmp_path / "a.arrow").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        broken = bytearray(content)
        at = rng.randrange(1000, len(content))
        broken[at : at + 8] = rng.randbytes(8)
        (tmp_path / "b.arrow").write_bytes(broken)
        try:
            ids(Manifest(tmp_path / "b.arrow"), list(range(0, 2000, 50)))
        except UserError:
            refused += 1
    assert refused > 5


def test_a_missing_manifest_and_a_foreign_arrow_file_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no manifest at .*a.arrow; make one with vt-prepare"):
        Manifest(tmp_path / "a.arrow")
    feather.write_feather(pa.table({"id": ["a"]}), tmp_path / "a.arrow")
    with pytest.raises(UserError, match="not a manifest of this version"):
        Manifest(tmp_path / "a.arrow")


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "sub" / "a.arrow"
    write_manifest(path, many(3))

    def failing():
        yield from many(2000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_manifest(path, failing())
    assert os.listdir(path.parent) == ["a.arrow"]
    assert len(Manifest(path)) == 3


# --- the directory -------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> Path:
    content = {
        "format": module.FORMAT,
        "corpus": "jsonl",
        "video_root": "/videos",
        "video_root_signature": sign(Path("/videos")),
        "splits": {"train": {"rows": 3, "rejected": 1}, "test": {"rows": 0, "rejected": 0}},
        "settings": {"probed": True},
    }
    (tmp_path / "data.json").write_text(json.dumps(content))
    (tmp_path / "labels.txt").write_text("a\u2028b\nc\n", encoding="utf-8")
    write_manifest(tmp_path / "train.arrow", many(3))
    return tmp_path


def test_a_data_directory_says_what_it_holds(data):
    found = DataDirectory.open(data)
    assert (found.corpus, found.video_root) == ("jsonl", Path("/videos"))
    assert found.splits["train"] == {"rows": 3, "rejected": 1}
    assert found.settings == {"probed": True}
    assert found.tokenizer_path == data / "spiece.model"
    assert found.classes("label") == ["a\u2028b", "c"]
    assert len(found.manifest("train")) == 3


def test_the_video_root_can_be_moved(data, monkeypatch):
    monkeypatch.chdir(data)
    assert DataDirectory.open(data, "elsewhere").video_root == data / "elsewhere"


def test_an_unknown_split_names_the_splits_there_are(data):
    with pytest.raises(UserError, match=r"no split 'valid'; it has: test, train"):
        DataDirectory.open(data).manifest("valid")
    for asked in ("Train", "trian"):
        with pytest.raises(UserError, match=rf"no split '{asked}' \(did you mean 'train'\?\); it"):
            DataDirectory.open(data).manifest(asked)


def test_only_what_this_user_has_signed_is_signed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    assert not is_signed(tmp_path, "0" * 64)  # there is no key
    signature = sign(tmp_path)
    assert is_signed(tmp_path, signature) and not is_signed(tmp_path / "a", signature)
    assert not is_signed(tmp_path, signature, "another purpose")
    for other in (None, 5, [signature], "", "\ud83d"):
        assert not is_signed(tmp_path, other)


def test_a_missing_directory_and_one_without_data_json_name_the_command(data):
    with pytest.raises(UserError, match=r"gone does not exist; make it with: vt-prepare"):
        DataDirectory.open(data / "gone")
    (data / "data.json").unlink()
    with pytest.raises(UserError, match=r"has no data.json; make it with: vt-prepare"):
        DataDirectory.open(data)


OUTSIDE = '{"format": 1, "corpus": "", "video_root": "", "settings": {}, "splits": {"../x": {}}}'
DAMAGED = ("", "{", "[]", "{}", '{"format": 1}', "null", OUTSIDE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((content, r"data.json is damaged .* make it again") for content in DAMAGED),
        ('{"format": 99}', "has format 99, expected 1"),
    ],
)
def test_a_damaged_data_json_and_another_format_are_refused(data, content, message):
    (data / "data.json").write_text(content)
    with pytest.raises(UserError, match=message):
        DataDirectory.open(data)


def test_reading_all_over_a_file_does_not_keep_it_in_this_process(tmp_path, monkeypatch):
    path = tmp_path / "a.arrow"
    row = ClipRow("x" * 500, "y" * 500, captions=("z" * 500,))
    write_manifest(path, (row for _ in range(40_000)))
    assert path.stat().st_size > 50 * 2**20

    def mapped_kib() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0])

    monkeypatch.setattr(module, "TOUCHED_BATCHES", 8)
    manifest = Manifest(path)
    before, most = mapped_kib(), 0
    for i in range(0, 40_000, 100):
        assert manifest[i] == row
        most = max(most, mapped_kib() - before)
    assert most < 25 * 1024  # 8 batches are 12 MiB
    assert sum(1 for _ in manifest.column("id")) == 40_000
    assert mapped_kib() - before < 25 * 1024
