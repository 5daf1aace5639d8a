"""Files made to fill the memory, to wait, or to be read in another's place: manifests in Arrow,
weights in safetensors and torch's zip files, subtitles, pictures.

Unlike random damage, each is made by somebody who knows the format: compressed batches, lengths
and counts that lie, tensors over one another, files of 3 GB that take no room on the disk, links,
pipes. Each is read in a process of its own. What may come of it: it is read, or refused in one
line; in CPU_SECONDS, with less than MOST_MB more memory, and nothing opened outside of its folder.

python -m pytest tests/faults/test_crafted_files.py --campaign
"""

import collections
import contextlib
import encodings.cp437  # noqa: F401  # which zipfile loads for names that are not UTF-8
import io
import json
import os
import random
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from tests import media
from tests.faults.forks import in_a_process
from tests.faults.test_fuzz_texts import cpu_limit
from vt_fairseq.corpora.subtitles import Subtitles
from vt_fairseq.data.manifest import ClipRow, Manifest
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.models.pretrained.files import only_tensors, read_tensors
from vt_fairseq.video.boundary import Boundary
from vt_fairseq.video.decoding import probe, read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

MOST_MB = 150
LONGEST_LINE = 2000
SPARSE = 3 << 30
SECRET = "what is said elsewhere"
Draw = random.Random
INTEGERS = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1)


# --- reading --------------------------------------------------------------------------------------


def peak_mb() -> float:
    """This process's most memory since its "clear_refs" was written."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def current_mb() -> float:
    """This process's memory."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def outcome(read: Callable[[Path], Any], folder: Path) -> tuple[str, str, float, list[str]]:
    """What came of ``read(folder)`` in this process: how, the error, MB more, what it opened."""
    root, opened, reading = os.path.realpath(folder), [], True

    def watch(event: str, arguments: tuple) -> None:
        if not reading:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(f"{root}/"):
                opened.append(path)
        elif event.startswith(("subprocess", "os.exec", "os.posix_spawn", "os.system", "socket.c")):
            opened.append(event)

    Path("/proc/self/clear_refs").write_text("5")
    before = current_mb()
    sys.addaudithook(watch)
    how, message = "read", ""
    with cpu_limit():
        try:
            read(folder)
        except (UserError, VideoError) as error:
            how, message = "refused", str(error)
    reading = False
    return how, message, peak_mb() - before, opened


def check(kind: str, read: Callable[[Path], Any], made: dict[Path, str]) -> list[tuple[str, float]]:
    """How each of some folders was read, and MB more, with everything asserted that must be.

    They are read in turn in one process.
    """
    ended, found = in_a_process(lambda: [outcome(read, folder) for folder in made], 300)
    assert ended == "done", (kind, made, ended, found)
    for what, (how, message, rise, opened) in zip(made.values(), found, strict=True):
        assert "\n" not in message and len(message) < LONGEST_LINE, (kind, what, message[:3000])
        assert SECRET not in message
        assert rise < MOST_MB, (kind, what, how, message, rise)
        assert not opened, (kind, what, opened)
    return [(how, rise) for how, _, rise, _ in found]


# --- Arrow ----------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> None:
    """As a training does: every row, and one by its number."""
    rows = Manifest(folder / "train.arrow")
    for column in ("id", "captions"):
        collections.deque(rows.column(column), maxlen=0)
    for index in {0, len(rows) // 2, len(rows) - 1} if len(rows) else ():
        rows[index]


def sound_table(draw: Draw, count: int) -> pa.Table:
    """The rows of a sound manifest."""
    rows = [
        ClipRow(str(k), f"{k}.mp4", k / 2, k + 1.0, ("one two", "three")[: draw.randint(0, 2)])
        for k in range(count)
    ]
    file = io.BytesIO()
    from vt_fairseq.data.manifest import ManifestWriter

    writer = ManifestWriter(file)
    for row in rows:
        writer.add(row)
    writer.close()
    return pa.ipc.open_file(file.getvalue()).read_all()


def arrow_bytes(table: pa.Table, batch: int = 1024, compression: str | None = None) -> bytes:
    file = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=batch)
    return file.getvalue()


def craft_arrow(draw: Draw, folder: Path) -> str:
    table = sound_table(draw, draw.choice((0, 1, 3, 1500)))
    path, schema = folder / "train.arrow", table.schema
    how = draw.choice(
        ("compressed", "bomb", "rows per batch", "batches", "schema", "dictionary", "numbers")
        + ("numbers",) * 8
        + ("sparse", "footer", "long row", "cut", "sound")
    )
    data = arrow_bytes(table)
    if how == "compressed":
        data = arrow_bytes(table, compression=draw.choice(("lz4", "zstd")))
    elif how == "bomb":
        table = table if len(table) else sound_table(draw, 1)
        long = "a" * (draw.choice((1 << 26, 1 << 27)) // len(table))  # of all rows together
        captions = pa.array([[long]] * len(table), pa.list_(pa.string()))
        table = table.set_column(4, schema.field("captions"), captions)
        data = arrow_bytes(table, compression=draw.choice(("lz4", "zstd")))
    elif how == "rows per batch":
        value = draw.choice(("0", "-1", "1", "x", "", "1e3", "9" * 5000, str(10**18), "1023", " 5"))
        data = arrow_bytes(table.replace_schema_metadata({"vt_fairseq.rows_per_batch": value}))
    elif how == "batches":
        data = arrow_bytes(table, batch=draw.choice((1, 7, 1000)))
    elif how == "schema":
        index = draw.randrange(len(schema))
        other = draw.choice((pa.null(), pa.large_string(), pa.list_(pa.null()), pa.int8()))
        table = table.set_column(index, schema.field(index).name, pa.nulls(len(table), other))
        data = arrow_bytes(table.replace_schema_metadata(schema.metadata))
    elif how == "dictionary":
        words = pa.array(["a" * draw.choice((1, 1 << 15))] * len(table)).dictionary_encode()
        table = table.set_column(5, pa.field("label", words.type), words)
        data = arrow_bytes(table, compression=draw.choice((None, "zstd")))
    elif how == "numbers":  # lengths, offsets and counts, which lie at multiples of four
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            kind = draw.choice(("<i", "<q"))
            near = draw.choice((0, len(data) - min(len(data), 1200)))
            at = min(near + draw.randrange(0, 1200, 4), len(data) - 8)
            if draw.random() < 0.3:
                at = draw.randrange(0, len(data) - 8, 4)
            number = draw.choice((*INTEGERS, len(data), draw.randrange(len(data))))
            size = struct.calcsize(kind)
            changed[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
        data = bytes(changed)
    elif how == "long row":  # valid, but no writer of ours takes so much
        text = "a" * draw.choice((1 << 20, 3 << 20, 80 << 20))
        captions = pa.array([[text]], pa.list_(pa.string()))
        table = sound_table(draw, 1).set_column(4, schema.field("captions"), captions)
        data = arrow_bytes(table)
    elif how == "cut":
        data = data[: draw.randrange(len(data))] + draw.choice((b"", b"ARROW1"))
    path.write_bytes(data)
    if how == "sparse":  # its footer at the end of 3 GB of nothing
        length = struct.unpack("<i", data[-10:-6])[0]
        os.truncate(path, SPARSE)
        with open(path, "r+b") as file:
            file.seek(-length - 10, os.SEEK_END)
            file.write(data[-length - 10 :])
    elif how == "footer":  # one that says that it is as long as the file, or longer
        os.truncate(path, draw.choice((len(data), SPARSE)))
        with open(path, "r+b") as file:
            file.seek(-10, os.SEEK_END)
            file.write(struct.pack("<i", draw.choice((0, -1, 2**31 - 1, 2**31 - 11))) + b"ARROW1")
    return how


# --- safetensors and torch ------------------------------------------------------------------------


def read_weights(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        only_tensors(read_tensors(path), path)


def craft_safetensors(draw: Draw, folder: Path) -> str:
    path = folder / "model.safetensors"
    header: Any = {
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
        "__metadata__": {"format": "pt"},
    }
    data, length, size = bytes(32), None, None
    how = draw.choice(("value", "value", "value", "length", "sparse", "names", "text", "sound"))
    if how == "value":
        place = header[draw.choice(list(header))]
        key = draw.choice([*place, "more"])
        numbers = [draw.choice(INTEGERS) for _ in range(draw.randint(0, 5))]
        values = [numbers, draw.choice(INTEGERS), "F64", "BF16", "F4", "x" * 5000, None, [[]], {}]
        values += [[0, 32], [8, 32], [32, 24], [0, 2**64], [1.5, 2.5], True, ["a", "b"]]
        place[key] = draw.choice(values)
    elif how == "length":
        length = draw.choice((*INTEGERS, 10, 2**24 + 1, 10**8, 2**64 - 1))
        size = draw.choice((None, SPARSE))
    elif how == "sparse":  # sound, and of 3 GB that are nowhere
        header = {"a": {"dtype": "U8", "shape": [SPARSE], "data_offsets": [0, SPARSE]}}
        size = SPARSE
    elif how == "names":
        name = draw.choice(("", "\n\x1b[31m", "x" * 100_000, "../../etc/passwd", "\u202e", "\0"))
        header[name] = draw.choice((header["a"], header["b"], 5))
        if draw.random() < 0.5:
            header = {f"{k}{name}"[:50]: header["b"] for k in range(2000)}
    text = json.dumps(header)
    if how == "text":
        text = draw.choice(
            ("", "{", "{}", "[" * 100_000, '{"a":' * 50_000, "{" + " " * 10**6 + "}")
        )
        text = draw.choice((text, json.dumps(header)[: draw.randrange(100)], "{\x00}"))
    encoded = text.encode()
    number = len(encoded) if length is None else length
    path.write_bytes(struct.pack("<Q", number % 2**64) + encoded + data)
    if size is not None:
        os.truncate(path, size + (8 + len(encoded) if how == "sparse" else 0))
    return how


def craft_torch(draw: Draw, folder: Path) -> str:
    """A file of ``torch.save``, its parts compressed, or of other sizes than the directory says."""
    file = io.BytesIO()
    torch.save({"a": torch.zeros(draw.choice((1, 2**20)))}, file)
    path = folder / "model.pt"
    how = draw.choice(("deflated", "bomb", "numbers", "sound"))
    if how == "sound" or how == "numbers":
        data = bytearray(file.getvalue())
        if how == "numbers":
            begin = data.rfind(b"PK\x01\x02")
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(begin, len(data) - 4, 2)
                struct.pack_into("<I", data, at, draw.choice(INTEGERS) % 2**32)
        path.write_bytes(data)
        return how
    with zipfile.ZipFile(file) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for part in given.namelist():
            content = given.read(part)
            if how == "bomb" and part.endswith(draw.choice(("data.pkl", "data/0", "version"))):
                content += bytes(1 << 28)
            made.writestr(part, content)
    return how


# --- subtitles ------------------------------------------------------------------------------------

TIMES = "00:00:01,000 --> 00:00:02,500"
CLIPS = ("a", "link", "..", "../secret", "a/../../secret", "/etc/passwd", "", "\0", "x" * 5000)


def read_subtitles(folder: Path) -> None:
    path = next(path for path in sorted(folder.iterdir()) if path.name != "asked")
    subtitles = Subtitles(path)
    clip = json.loads((folder / "asked").read_text())
    assert SECRET not in (subtitles.text(clip, None, None) or "")


def craft_subtitles(draw: Draw, folder: Path) -> str:
    (folder.parent / "secret.srt").write_text(f"1\n{TIMES}\n{SECRET}\n")
    how = draw.choice(("srt", "srt", "srt", "name", "jsonl", "sparse", "pipe"))
    asked = "a"
    if how == "jsonl":
        values = [*INTEGERS, 1e308, "soon", None, [], {}, "nan", "9" * 5000, "x" * 1000, True]
        entry: Any = {"text": "said", "start": 1, "end": 2}
        entry[draw.choice(list(entry))] = draw.choice(values)
        subs: Any = draw.choice(([entry] * draw.choice((1, 20_000)), entry, [[[]]] * 9, "x", [1]))
        line = json.dumps({"vid_name": draw.choice(("a", "a", 5, None, "b\n")), "sub": subs})
        deep = '{"vid_name": "a", "sub": ' + "[" * draw.choice((10, 100_000))
        line = draw.choice((line, line, line, line[:40], deep, "\ufeff" + line, line * 2))
        (folder / "s.jsonl").write_text(line + "\n" + draw.choice(("", "\n", line)))
        if draw.random() < 0.1:
            os.truncate(folder / "s.jsonl", SPARSE)
    else:
        (folder / "subtitles").mkdir()
        file = folder / "subtitles" / "a.srt"
        many = draw.choice((1, 1000, 100_000))
        texts = [
            *(f"1\n{TIMES}\nhello\n\n2\n{TIMES}\nthere", TIMES * many, f"{TIMES} " * many + "\n"),
            *("1" * many, "1:" * many, f"{'1' * many}:00:00,000 --> 00:00:01,000\nx", " " * many),
            *(f"{TIMES}\n" * many, f"{TIMES}{' ' * many}\nx", f"00:00:01,000{' ' * many}--\nx"),
            *("\n" * many, "\r" * many, "\ufeff" * many, f"{TIMES}\n{'x' * many}", "\n \n" * many),
            *(f"99:99:99,9 --> 00:00:00,0\n{'word ' * many}", "١٢:٠٠:٠٠,٠ --> ١٢:٠٠:٠٠,٠\nx"),
            *("00:00:00,000 --> 9999:00:00,000\nx", "\0" * many, "<b>" * many, ""),
        ]
        file.write_bytes(draw.choice(texts).encode(draw.choice(("utf-8", "utf-16", "utf-8-sig"))))
        if how == "name":
            asked = draw.choice(CLIPS)
            (folder / "subtitles" / "link.srt").symlink_to(folder.parent / "secret.srt")
        elif how == "sparse":
            os.truncate(file, draw.choice((SPARSE, 5 << 20)))
        elif how == "pipe":
            file.unlink()
            draw.choice((os.mkfifo, os.mkdir))(file)
    (folder / "asked").write_text(json.dumps(asked))
    return how


# --- pictures -------------------------------------------------------------------------------------


def read_frames(folder: Path) -> None:
    boundary = Boundary(folder / "frames")
    probe(folder / "frames", boundary)
    read_clip(folder / "frames", FrameSampling(num_frames=4), boundary=boundary)


def png(width: int, height: int, content: bytes) -> bytes:
    """A PNG of RGB with any header and content."""

    def part(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = part(b"IHDR", head) + part(b"IDAT", zlib.compress(content)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def craft_frames(draw: Draw, folder: Path) -> str:
    suffix = draw.choice(("jpg", "png"))
    media.write_folder(folder / "frames", 3, suffix)
    media_secret = folder.parent / "secret"
    if not media_secret.exists():
        media.write_folder(media_secret, 1)
    file = folder / "frames" / f"{draw.choice((1, 2, 3))}.{suffix}"
    how = draw.choice(("sparse", "sizes", "sizes", "bomb", "link", "pipe", "cut", "other", "sound"))
    if how == "sparse":
        os.truncate(file, draw.choice((SPARSE, 200 << 20, 50 << 20)))
    elif how == "sizes":
        numbers = (1, 2**14, 2**31 - 1, 2**20, 65_535, 0)
        file.write_bytes(png(draw.choice(numbers), draw.choice(numbers), bytes(1000)))
    elif how == "bomb":
        file.write_bytes(png(8, 8, bytes(1 << 28)))
    elif how in ("link", "pipe"):
        file.unlink()
        if how == "pipe":
            draw.choice((os.mkfifo, os.mkdir))(file)
        else:
            file.symlink_to(draw.choice((media_secret / "1.jpg", Path("/dev/zero"), file)))
    elif how == "cut":
        file.write_bytes(file.read_bytes()[: draw.randrange(200)])
    elif how == "other":
        heads = (b"", b"#EXTM3U\nfile:///etc/passwd\n", b"GIF89a" + bytes(99), b"\xff\xd8\xff" * 99)
        file.write_bytes(draw.choice(heads))
    return how


# --- all of them ----------------------------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[Draw, Path], str], Callable[[Path], Any], int]] = {
    "arrow": (craft_arrow, read_manifest, 400),
    "safetensors": (craft_safetensors, read_weights, 350),
    "torch": (craft_torch, read_weights, 100),
    "subtitles": (craft_subtitles, read_subtitles, 350),
    "pictures": (craft_frames, read_frames, 150),
}
SAMPLE, AT_ONCE = 25, 10


def warm_up(kind: str, folder: Path) -> None:
    """Whatever is loaded on first use is loaded, before anything that is opened counts."""
    craft, read, _ = KINDS[kind]
    for number in range(100):
        case = _new(folder / str(number) / "case")
        if craft(Draw(f"{kind} {number}"), case) in ("sound", "srt"):
            with contextlib.suppress(UserError):
                read(case)
            return


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k == "pictures" else []) for k in KINDS]
)
def test_crafted_files_are_read_or_refused_in_one_line_in_little_memory(
    kind, tmp_path, campaign, record
):
    craft, read, files = KINDS[kind]
    warm_up(kind, tmp_path / "warm")
    outcomes: collections.Counter[str] = collections.Counter()
    most = 0.0
    numbers = range(files if campaign else SAMPLE)
    for group in (numbers[k : k + AT_ONCE] for k in range(0, len(numbers), AT_ONCE)):
        folders = {number: _new(tmp_path / str(number) / "case") for number in group}
        made = {
            folder: f"{number}: {craft(Draw(f'{kind} {number}'), folder)}"
            for number, folder in folders.items()
        }
        for how, rise in check(kind, read, made):
            outcomes[how] += 1
            most = max(most, rise)
        for folder in folders.values():
            shutil.rmtree(folder.parent)
    record(kind, {"files": outcomes.total(), **outcomes, "most MB more": round(most, 1)})
    assert outcomes["refused"] and outcomes["read"], outcomes


def test_the_watch_sees_what_is_opened_outside(tmp_path):
    """So that the test above can fail."""
    folder = _new(tmp_path / "case")
    (tmp_path / "secret.srt").write_text(f"1\n{TIMES}\n{SECRET}\n")
    (folder / "a.srt").symlink_to(tmp_path / "secret.srt")
    ended, found = in_a_process(
        lambda: outcome(lambda path: Subtitles(path, follow_links=True).of("a"), folder)
    )
    assert ended == "done"
    assert found[3] == [str(tmp_path / "secret.srt")]
