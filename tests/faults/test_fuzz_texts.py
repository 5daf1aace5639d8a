"""Damaged annotation files and manifests: each is read, or ends in one line; every row is counted.

Hypothesis changes sound files of every kind that is read: the jsonl manifest, the official files of
the six corpora (MiniWorld's, in their layouts), captions in four formats, a prepared data
directory, and what vt-report reads: results of each kind and logs of fairseq-train. It puts other
values, types and texts into them, leaves parts out, doubles them, and changes bytes. What may come
of a file: rows and rejected rows, whose counts must be those of the rows that were found, a report
whose data is JSON, or UserError of one line. Anything else, or more than 10 s of CPU time, is a
failure, which is shown with the smallest input that has it.
"""

import collections
import contextlib
import copy
import csv
import io
import json
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.faults.forks import in_a_process
from vt_fairseq.corpora import jsonl
from vt_fairseq.corpora.prepare import Probing, write_rows
from vt_fairseq.corpora.registry import corpus_reader
from vt_fairseq.corpora.rows import Entry, Rejected, Source
from vt_fairseq.data.manifest import DataDirectory, Manifest
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary
from vt_fairseq.errors import UserError
from vt_fairseq.evaluation import caption_files, tasks
from vt_fairseq.files.atomic_files import write_json
from vt_fairseq.miniworld.official_layouts import LAYOUTS, annotation_files
from vt_fairseq.miniworld.world import SIZES
from vt_fairseq.report.content import read_content
from vt_fairseq.report.page import render

CPU_SECONDS = 10
Files = dict[str, bytes]

# --- sound files ----------------------------------------------------------------------------------

ROW = {
    "id": "a", "video": "a.mp4", "start": 1, "end": 2.5, "caption": ["one ☃", "two"],
    "label": "l", "verb": "v", "noun": "n", "question": "q ?", "candidates": ["x", "y"],
    "answer": 1, "context": "c", "group": "g", "split": "train",
}  # fmt: skip
START = "2026-11-28 12:00:00 | "
LOG = (
    START + "INFO | fairseq_cli.train | {'heads': 'label', 'video_lr_scale': 0.1}\n" + START
    + "INFO | train_inner | epoch 001:  1 / 2 loss=2.5, ups=1, bsz=8, wall=40, train_wall=1, "
    "lr=1e-3, gnorm=inf, num_updates=1\n"
    + START + "WARNING | task | cannot read clip a: it is no video\n"
    + START + "INFO | valid | epoch 001 | valid on 'valid' subset | loss 3 | num_updates 1\n"
    + START + "INFO | fairseq_cli.train | done training in 1.0 seconds\n"
)  # fmt: skip
JSON_LOG = (
    START + 'INFO | train_inner | {"epoch": 1, "loss": "2.5", "lr": "1e-3", "num_updates": "1"}\n'
    + START + 'INFO | valid | {"epoch": 1, "valid_loss": "3", "valid_num_updates": "1"}\n'
)  # fmt: skip
CAPTIONS = {"a": ["a red circle slides", "it slides"], "b": ["a blue square"], "c": ["x"]}


def _lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _captions() -> dict[str, Files]:
    """Predictions and references as our jsonl, TVC's, COCO's and plain text."""
    first = {name: texts[0] for name, texts in CAPTIONS.items()}
    numbered = list(enumerate(CAPTIONS.values()))
    tvc = [{"clip_id": n, "descs": [{"desc": t} for t in ts]} for n, ts in numbered]
    coco = [{"image_id": n, "caption": t} for n, ts in numbered for t in ts]
    plain = "".join(f"{text}\n" for text in first.values()).encode()
    return {
        "jsonl": {
            "predictions.jsonl": _lines([{"id": n, "prediction": t} for n, t in first.items()]),
            "references.jsonl": _lines([{"id": n, "references": t} for n, t in CAPTIONS.items()]),
        },
        "tvc": {
            "predictions.jsonl": _lines([row | {"descs": row["descs"][:1]} for row in tvc]),
            "references.jsonl": _lines(tvc),
        },
        "coco": {
            "predictions.json": json.dumps(
                [{"image_id": n, "caption": ts[0]} for n, ts in numbered]
            ).encode(),
            "references.json": json.dumps({"annotations": coco}).encode(),
        },
        "text": {"predictions.txt": plain, "references.txt": plain},
    }


def _results() -> dict[str, Files]:
    """Folders that vt-report reads."""
    signatures = {"signatures": {"accuracy": "exact"}}
    data = {"format": 1, "corpus": "jsonl", "video_root": "/none", "settings": {}, "splits": {}}
    data["reasons"], rejected = {"bad times": 1}, ("id", "video", "split", "reason", "where")
    ids, asked = ["a", "b"], {"question": "q ?", "candidates": ["x", "y"]}
    rows: dict[str, tuple[dict, dict, dict]] = {  # kind: prediction, reference, score
        "captions": ({"prediction": "it slides", "score": -1.5}, {"references": ["it"]}, {}),
        "vqa": ({"prediction": 0, "scores": [-1.0, -2.5]}, {"answer": 1, **asked}, {}),
        "classify": (
            {"prediction": "l", "ranking": ["l", "m"]},
            {"label": "m"},
            {"ranks": {"label": 2}, "scores": [-1.0, -2.0], "captions": ["it"]},
        ),
        "retrieval": ({"ranking": ["a", "b"]}, {"target": "b", "query": "it"}, {}),
    }
    return {
        f"report of {kind}": {
            "predictions.jsonl": _lines([{"id": n} | prediction for n in ids]),
            "references.jsonl": _lines([{"id": n} | reference for n in ids]),
            "scores.jsonl": _lines([{"id": n} | scores for n in ids]),
            "settings.json": json.dumps({"kind": kind, "split": "test"}).encode(),
            "metrics.json": json.dumps({"accuracy": 50.0, "n": 2} | signatures).encode(),
            "data/data.json": json.dumps(data).encode(),
            "data/rejected.jsonl": _lines([dict.fromkeys(rejected, "x")]),
        }
        for kind, (prediction, reference, scores) in rows.items()
    } | {"report of a log": {"simple.log": LOG.encode(), "json.log": JSON_LOG.encode()}}


def _directory() -> Files:
    """A prepared data directory, without its vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        (Path(folder) / "a.jsonl").write_bytes(SOUND["jsonl"]["clips.jsonl"])
        source = Source(jsonl.read(Path(folder) / "a.jsonl"), Path(folder), {})
        write_json(out / "data.json", write_rows("jsonl", source, out, Probing(probe=False)))
        return {path.name: path.read_bytes() for path in out.iterdir()}


SOUND: dict[str, Files] = {
    "jsonl": {"clips.jsonl": _lines([ROW, ROW | {"id": "b"}, ROW | {"id": "c", "split": "val"}])}
}
for _corpus in LAYOUTS:
    _texts = annotation_files(_corpus, SIZES["tiny"])
    SOUND[_corpus] = {name: text.encode() for name, text in _texts.items()}
for _format, _files in _captions().items():
    SOUND[f"captions in {_format}"] = _files
SOUND["data directory"] = _directory()
SOUND |= _results()
KINDS = tuple(SOUND)

# --- damage ---------------------------------------------------------------------------------------

# Halves of characters, separators, control characters, right-to-left marks: all of Unicode.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=12),
    st.sampled_from(["\u2028", "a\x85b", "\ud800", "\0", "\n", "nan", "inf", "-1", "1e999", "١"]),
    st.sampled_from(["00:00:61", "99:99:99.99", "../a.mp4", "http://127.0.0.1:1/a", "x" * 5000]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
PIECES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([b"", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"," * 9, b"[" * 100_000]),
    st.sampled_from([b"\0" * 8, b"\xff" * 8, b"1" * 5000, b"1" * 400, b"\xe2\x80\xa8", b"}\n{"]),
)


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key or index) of every value in a JSON document."""
    keys = range(len(document)) if isinstance(document, list) else list(document)
    for key in keys:
        yield document, key
        if isinstance(document[key], list | dict):
            yield from places(document[key])


def edited(draw: Callable, document: Any) -> Any:
    """``document`` with one value changed, left out or doubled."""
    document = copy.deepcopy(document)
    where = list(places(document))
    if not where:
        return draw(VALUES)
    container, key = where[draw(st.integers(0, len(where) - 1))]
    how = draw(st.sampled_from(["value", "value", "leave out", "double", "rename"]))
    if how == "value":
        container[key] = draw(VALUES)
    elif how == "leave out":
        del container[key]
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[draw(TEXTS)] = container.pop(key) if how == "rename" else container[key]
    return document


def as_bytes(text: str) -> bytes:
    """UTF-8, also of halves of characters, which are then no UTF-8."""
    return text.encode(errors="surrogatepass")


def edit_json(draw: Callable, data: bytes) -> bytes:
    """A JSON file whose document is changed."""
    return as_bytes(json.dumps(edited(draw, json.loads(data)), ensure_ascii=draw(st.booleans())))


def edit_jsonl(draw: Callable, data: bytes) -> bytes:
    """A jsonl file, one of whose rows is changed."""
    records = edited(draw, [json.loads(line) for line in data.splitlines()])
    records = records if isinstance(records, list) else [records]
    ascii_only = draw(st.booleans())
    return as_bytes("".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in records))


def edit_csv(draw: Callable, data: bytes) -> bytes:
    """A CSV file, one of whose cells or lines is changed."""
    rows = edited(draw, list(csv.reader(io.StringIO(data.decode()))))
    rows = [row if isinstance(row, list) else [row] for row in rows] if rows else []
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return as_bytes(out.getvalue())


def edit_bytes(draw: Callable, data: bytes) -> bytes:
    """Bytes put into the place of others."""
    begin = draw(st.integers(0, len(data)))
    return data[:begin] + draw(PIECES) + data[begin + draw(st.integers(0, 20)) :]


EDITS = {".json": edit_json, ".jsonl": edit_jsonl, ".csv": edit_csv}


@st.composite
def damage(draw: Callable, kind: str) -> dict[str, bytes | None]:
    """New contents of one or two of the files of ``kind``; None: it is missing."""
    files, changed = SOUND[kind], {}
    for name in draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True)):
        edits = [edit_bytes, *[EDITS.get(Path(name).suffix, edit_bytes)] * 2, lambda *_: None]
        changed[name] = draw(st.sampled_from(edits))(draw, files[name])
    return changed


# --- reading --------------------------------------------------------------------------------------


def read(kind: str, folder: Path) -> str:
    """ "read", "read, rows rejected" or "refused"; anything that should not be raises."""
    try:
        if kind.startswith("captions"):
            return read_captions(*(folder / name for name in sorted(SOUND[kind])))
        if kind == "data directory":
            return read_directory(folder)
        if kind.startswith("report"):
            return read_report(folder)
        return prepare(kind, folder)
    except UserError as error:
        assert str(error) and "\n" not in str(error), error
        return "refused"


def read_captions(predictions: Path, references: Path) -> str:
    """As vt-evaluate does, without the metrics that need Java."""
    pairs = caption_files.read_pairs(predictions, [references])
    found = tasks.captions(pairs, tokenizer="off")
    assert found.n + found.unscored == len(pairs) and found.missing <= found.n
    return "read, rows rejected" if found.unscored else "read"


def read_report(folder: Path) -> str:
    """As vt-report does."""
    content = read_content([folder], [], 2)
    page = render(content).decode()
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        json.loads(data, parse_constant=pytest.fail)
    if any(note.startswith("Not shown") for note in content.notes):
        return "read, rows rejected"
    return "read"


def read_directory(folder: Path) -> str:
    """As a training does: every row of every split. Arrow is C++, so in a process of its own."""

    def rows() -> int:
        try:
            data = DataDirectory.open(folder)
            data.classes("label")
            return sum(len([*data.manifest(split)]) for split in data.splits)
        except UserError as error:
            return str(error)

    how, found = in_a_process(rows)
    assert how == "done", found
    if isinstance(found, str):
        raise UserError(found)
    return "read"


def prepare(kind: str, folder: Path) -> str:
    """As ``vt-prepare --skip-probe`` does; every row is in a manifest or among the rejected."""
    out, found = folder.parent / "out", collections.Counter()
    clips = folder / "clips.jsonl"
    source = corpus_reader(kind)(clips if kind == "jsonl" else folder, folder)

    def counted() -> Iterator[Entry | Rejected]:
        for entry in source.rows:
            found["rows"] += 1
            yield entry

    data = write_rows(kind, replace(source, rows=counted()), out, Probing(probe=False), True)
    kept = sum(counts["rows"] for counts in data["splits"].values())
    rejected = sum(counts["rejected"] for counts in data["splits"].values())
    assert kept + rejected == found["rows"], (kept, rejected, found)
    if kind == "jsonl":
        lines = [x for x in clips.read_bytes().split(b"\n") if x.strip(b" \t\r\n\xef\xbb\xbf")]
        assert len(lines) == found["rows"], "each line is a row or a rejection"
    assert kept == sum(len([*Manifest(out / f"{split}.arrow")]) for split in data["splits"])
    lines = (out / "rejected.jsonl").read_bytes().splitlines()
    assert rejected == len(lines) == sum(data["reasons"].values())
    assert all("\n" not in json.loads(line)["reason"] for line in lines)
    return "read, rows rejected" if rejected else "read"


def write(files: dict[str, bytes | None], folder: Path) -> Path:
    """``folder``, made, with those of ``files`` that are not None."""
    folder.mkdir()
    for name, data in files.items():
        if data is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return folder


@contextlib.contextmanager
def cpu_limit() -> Iterator[None]:
    """Raise TimeoutError inside the block after CPU_SECONDS of this process."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {CPU_SECONDS} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fuzz(kind: str, examples: int, seed: int) -> collections.Counter[str]:
    """What came of so many damaged files; raises at the first failure, made small."""
    outcomes: collections.Counter[str] = collections.Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(damage(kind))
    def one(changed: dict[str, bytes | None]) -> None:
        with tempfile.TemporaryDirectory() as folder, cpu_limit():
            outcomes[read(kind, write(SOUND[kind] | changed, Path(folder) / "given"))] += 1

    one()
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_texts_give_rows_and_counted_rejections_or_one_line(
    kind, tmp_path, campaign, record
):
    assert read(kind, write(SOUND[kind], tmp_path / "sound")) == "read"
    outcomes = fuzz(kind, *((1000, 0) if campaign else (15, 7)))
    record(kind, {"files": outcomes.total(), **outcomes})
    # What is no line of a log is passed over.
    assert outcomes["refused"] or kind == "report of a log"


# --- odd texts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_vocabulary(["a red circle", "the blue square"] * 5, 60))


def test_a_caption_of_a_megabyte_is_cut_at_once(tokenizer):
    begin = time.process_time()
    assert len(tokenizer.encode("redcircle" * 120_000, 20)) == 20
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("text", ["a 😀 b", "红色 圆", "\u202eabc", " ", "a\u2028b\u0085c", "\0"])
def test_texts_of_any_script_become_pieces_or_unknown_and_never_control_tokens(text, tokenizer):
    ids = tokenizer.encode(text)
    assert all(2 <= i < tokenizer.num_pieces for i in ids)
    tokenizer.decode(ids)
