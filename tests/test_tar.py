"""Videos in tar files: read where they lie, prepared by one command, and written by another."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_main
from vt_fairseq.corpora import transcode
from vt_fairseq.corpora.rows import Entry, Rejected
from vt_fairseq.corpora.video2dataset import open_corpus
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.video.boundary import Boundary, OutsideError
from vt_fairseq.video.decoding import FrameSampling, frames_of, probe, read_clip
from vt_fairseq.video.members import Member
from vt_fairseq.video.transforms import ClipTransform

SAMPLING = FrameSampling(num_frames=4, max_seconds=None)


@pytest.fixture(scope="module")
def videos(data_directory) -> list[Path]:
    """Loose files of a small MiniWorld."""
    root = DataDirectory.open(data_directory).video_root
    return sorted(root.glob("*.mp4"))[:4]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_tar(path: Path, samples: dict[str, tuple[Path, str, dict | None]]) -> None:
    """KEY: (video, text, json) as video2dataset writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, (video, text, meta) in samples.items():
            add(archive, f"{key}.mp4", video.read_bytes())
            add(archive, f"{key}.txt", text.encode())
            if meta is not None:
                add(archive, f"{key}.json", json.dumps(meta).encode())


def write_files(folder: Path, samples: dict[str, tuple[Path, str, dict | None]]) -> None:
    folder.mkdir(parents=True)
    for key, (video, text, meta) in samples.items():
        (folder / f"{key}.mp4").write_bytes(video.read_bytes())
        (folder / f"{key}.txt").write_text(text)
        if meta is not None:
            (folder / f"{key}.json").write_text(json.dumps(meta))


def member(path: Path, name: str) -> Member:
    with tarfile.open(path) as archive:
        info = archive.getmember(name)
        return Member(str(path), info.offset_data, info.size)


@pytest.fixture(scope="module")
def shards(videos, tmp_path_factory) -> Path:
    """The same four samples as tar files and as folders of files."""
    root = tmp_path_factory.mktemp("v2d")
    meta = {"url": "example.org/v", "status": "success", "caption": "not this one"}
    train = {
        "000000000_00000": (videos[0], "a ring falls", meta),
        "000000000_00001": (videos[1], "a ring rises", meta),
        "000000003": (videos[2], "", {"caption": " a square ", "url": None}),
    }
    for kind, write in (("tar", write_tar), ("files", write_files)):
        end = ".tar" if kind == "tar" else ""
        write(root / kind / f"00000{end}", train)
        write(root / kind / "test" / f"00001{end}", {"000010001": (videos[3], "a dot", None)})
        (root / kind / "00000_stats.json").write_text('{"count": 3}')
        (root / kind / "00000.parquet").write_bytes(b"PAR1")
    return root


def test_a_member_is_read_as_the_file_it_was_made_of(videos, shards):
    tar = shards / "tar" / "00000.tar"
    for number, name in enumerate(("000000000_00000", "000000000_00001", "000000003")):
        inside = str(member(tar, f"{name}.mp4"))
        for start, end in ((None, None), (0.4, 1.1)):
            loose, packed = (
                read_clip(path, SAMPLING, start=start, end=end) for path in (videos[number], inside)
            )
            assert np.array_equal(loose, packed)
        assert probe(inside) == probe(videos[number])
        times = [[time for time, *_ in frames_of(path)] for path in (videos[number], inside)]
        assert times[0] == times[1]


@pytest.mark.parametrize("format_", ["ts", "avi", "mkv"])
def test_formats_that_are_read_through_are_read_as_members_too(videos, tmp_path, format_):
    os.system(f"ffmpeg -v error -i {videos[0]} -c:v mpeg4 {tmp_path}/a.{format_}")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "before.txt", b"x" * 700)
        archive.add(tmp_path / f"a.{format_}", "a")
        add(archive, "after.txt", b"y" * 70_000)
    inside = str(member(tmp_path / "a.tar", "a"))
    loose = read_clip(tmp_path / f"a.{format_}", SAMPLING)
    assert np.array_equal(loose, read_clip(inside, SAMPLING))


def test_no_byte_of_another_member_is_read(videos, tmp_path):
    content = videos[0].read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "cut.mp4", content[: len(content) // 2])
        add(archive, "rest", content[len(content) // 2 :])
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    errors = []
    for path in (tmp_path / "cut.mp4", str(member(tmp_path / "a.tar", "cut.mp4"))):
        with pytest.raises(VideoError) as error:
            read_clip(path, SAMPLING)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize("change", ["offset", "length", "beyond", "none", "other tar"])
def test_what_is_no_member_is_refused(videos, shards, tmp_path, change):
    tar = shards / "tar" / "00000.tar"
    there = member(tar, "000000000_00001.mp4")
    (tmp_path / "empty.tar").write_bytes(b"\0" * 10240)
    named = {
        "offset": there._replace(offset=there.offset + 512),
        "length": there._replace(length=there.length - 1),
        "beyond": there._replace(offset=tar.stat().st_size + 512),
        "none": there._replace(offset=0),
        "other tar": Member(str(tmp_path / "empty.tar"), 1024, 2048),
    }[change]
    with pytest.raises(VideoError, match="it is not the tar file that was prepared; prepare it"):
        read_clip(str(named), SAMPLING)
    with pytest.raises(VideoError, match="no such file"):
        read_clip(f"{tmp_path}/gone.tar@1024+2048", SAMPLING)


def test_a_size_that_the_header_has_no_room_for_is_taken_from_the_name(tmp_path):
    """Eleven octal digits hold less than 8 GiB; larger sizes stand in another header before it."""
    info = tarfile.TarInfo("large.mp4")
    tar = tmp_path / "a.tar"
    tar.write_bytes(info.tobuf())
    os.truncate(tar, 512 + 2**33 + 1)  # without a byte on the disk
    for length in (2**33, 2**33 + 1):
        Member(str(tar), 512, length).check()
    for length in (2**33 - 1, 2**33 + 2):
        with pytest.raises(VideoError, match="prepare it again"):
            Member(str(tar), 512, length).check()


def test_a_tar_behind_a_link_that_leads_out_is_not_opened(shards, tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    (root / "a.tar").symlink_to(shards / "tar" / "00000.tar")
    inside = member(root / "a.tar", "000000003.mp4")
    with pytest.raises(OutsideError, match="outside of the folder of videos"):
        read_clip(str(inside), SAMPLING, boundary=Boundary(root))
    (entry,) = open_corpus(root, root).rows
    assert isinstance(entry, Rejected) and "outside of the folder of videos" in entry.reason
    assert len(list(open_corpus(root, root, follow_links=True).rows)) == 3


def test_tars_and_folders_give_the_same_rows(shards):
    found = {}
    for kind in ("tar", "files"):
        root = shards / kind
        found[kind] = list(open_corpus(root, root).rows)
        assert all(isinstance(entry, Entry) for entry in found[kind])
    seen = {
        kind: [(e.split, e.row.id, e.row.captions, e.row.group) for e in entries]
        for kind, entries in found.items()
    }
    assert seen["tar"] == seen["files"]
    assert seen["tar"] == [
        ("train", "00000/000000000_00000", ("a ring falls",), "example.org/v"),
        ("train", "00000/000000000_00001", ("a ring rises",), "example.org/v"),
        ("train", "00000/000000003", ("a square",), None),
        ("test", "test/00001/000010001", ("a dot",), None),
    ]
    assert found["files"][3].row.video == "test/00001/000010001.mp4"
    assert found["tar"][3].row.video.startswith("test/00001.tar@")


def test_what_is_no_whole_sample_is_rejected_with_its_reason(videos, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "a.txt", b"a caption alone")
        add(archive, "b.mp4", videos[0].read_bytes())
        add(archive, "c.mp4", videos[0].read_bytes())
        add(archive, "c.txt", b"\xff\xfe")
        add(archive, "d.mp4", videos[0].read_bytes())
        add(archive, "d.json", b"[1")
        add(archive, "e.mp4", videos[0].read_bytes())
        add(archive, "e.txt", b"x" * (2 << 20))
        add(archive, "README", b"no sample")
        for name in ("g.1.mp4", "g.1.txt", "g.2.mp4", "g.2.txt", "h.mp4", "h.webm", "h.txt"):
            add(archive, name, videos[0].read_bytes() if "txt" not in name else b"text")
        add(archive, "f.mp4", videos[0].read_bytes())
        add(archive, "f.txt", b"right")
    (tmp_path / "1.tar.gz").write_bytes(b"")
    os.mkfifo(tmp_path / "2.tar")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    *left_out, right = sorted(open_corpus(tmp_path, tmp_path).rows, key=lambda e: e.where == "0/f")
    assert isinstance(right, Entry) and right.row.captions == ("right",)
    assert {entry.where: entry.reason.partition(":")[0] for entry in left_out} == {
        **{"0/a": "missing video", "0/b": "empty text", "0/c": "bad text", "0/d": "bad JSON"},
        **{"0/g": "several videos or texts", "0/h": "several videos or texts"},
        **{"0/e": "too much text", "1.tar.gz": "compressed tar", "2.tar": "no regular file"},
        "link": "link",
    }


def read(root: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """{where: captions} of the samples in ``root``, and {where: reason} of what is left out."""
    entries = list(open_corpus(root, root).rows)
    rows = {one.where: one.row.captions for one in entries if isinstance(one, Entry)}
    return rows, {one.where: one.reason for one in entries if isinstance(one, Rejected)}


def test_names_that_begin_with_a_dot_are_no_samples(videos, tmp_path):
    """macOS's tar puts ``._a.mp4`` before ``a.mp4``; WebDataset leaves such names out, too."""
    video = videos[0].read_bytes()
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, content in {"a.mp4": video, "a.txt": b"a dog", "a.json": b"{}"}.items():
            add(archive, f"./._{name}", b"\0\5\x16\7")
            add(archive, f"./{name}", content)
    (tmp_path / "files").mkdir()
    for name, content in {"b.mp4": video, "b.txt": b"a cat"}.items():
        (tmp_path / "files" / name).write_bytes(content)
        (tmp_path / "files" / f"._{name}").write_bytes(b"\xff")
    assert read(tmp_path) == ({"0/./a": ("a dog",), "files/b": ("a cat",)}, {})


def test_loose_samples_beside_tar_files_are_read_too(videos, tmp_path):
    write_tar(tmp_path / "0.tar", {"a": (videos[0], "packed", None)})
    (tmp_path / "b.mp4").write_bytes(videos[1].read_bytes())
    (tmp_path / "b.txt").write_text("loose")
    (tmp_path / "README.txt").write_text("about the tar files")
    assert read(tmp_path) == ({"0/a": ("packed",), "b": ("loose",)}, {})
    (tmp_path / "0.tar").rename(tmp_path / "0.TAR")
    rows, left_out = read(tmp_path)
    assert rows == {"b": ("loose",)}
    assert left_out == {"0.TAR": "name of a tar: expected one that ends in .tar: rename it"}


def test_captions_in_json_may_be_several_and_texts_may_begin_with_a_mark(videos, tmp_path):
    metas = {"two": ["one ", " other"], "number": 5, "mixed": ["one", 2], "none": None, "no": []}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, caption in metas.items():
            add(archive, f"{name}.mp4", videos[0].read_bytes())
            add(archive, f"{name}.json", json.dumps({"caption": caption}).encode())
        add(archive, "mark.mp4", videos[0].read_bytes())
        add(archive, "mark.txt", "of Windows' Notepad".encode("utf-8-sig"))
    rows, left_out = read(tmp_path)
    assert rows == {"0/two": ("one", "other"), "0/mark": ("of Windows' Notepad",)}
    bad, empty = "bad caption: expected a text or a list of texts, found", "empty text: no caption"
    reasons = {"0/number": f"{bad} 5", "0/mixed": f"{bad} ['one', 2]"}
    assert {name: left_out[name] for name in reasons} == reasons
    assert all(left_out[name].startswith(empty) for name in ("0/none", "0/no"))


def test_links_inside_a_tar_are_named(videos, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "a.mp4", videos[0].read_bytes())
        add(archive, "a.txt", b"a file")
        for name, kind in (("b", tarfile.LNKTYPE), ("c", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(f"{name}.mp4")
            info.type, info.linkname = kind, "a.mp4"
            archive.addfile(info)
            add(archive, f"{name}.txt", b"a link")
    rows, left_out = read(tmp_path)
    assert rows == {"0/a": ("a file",)}
    for name in "bc":
        what = f"no plain file: {name}.mp4 is a link to a.mp4 in the tar file"
        assert left_out[f"0/{name}"].startswith(what)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda whole, _: whole[: whole.rindex(b"a dog") + 512], "it may be cut off"),
        (lambda whole, other: whole + other, "more stands behind its end"),
    ],
    ids=["cut between members", "two joined by cat"],
)
def test_a_tar_that_does_not_end_where_its_members_do_is_named(videos, tmp_path, change, reason):
    write_tar(tmp_path / "0.tar", {"a": (videos[0], "a dog", None)})
    whole = (tmp_path / "0.tar").read_bytes()
    assert read(tmp_path) == ({"0/a": ("a dog",)}, {})
    (tmp_path / "0.tar").write_bytes(change(whole, whole))
    rows, left_out = read(tmp_path)
    assert rows == {"0/a": ("a dog",)}
    assert left_out["0.tar"].startswith(f"damaged tar: left out from here on: {reason}")


def test_why_video2dataset_has_no_video_is_in_the_reason(tmp_path):
    failed = {"status": "failed_to_download", "error_message": "HTTP Error 404:\n  Not Found"}
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "a.txt", b"a caption")
        add(archive, "a.json", json.dumps(failed).encode())
        add(archive, "b.json", json.dumps({"error_message": None}).encode())
        add(archive, "c.json", json.dumps({"error_message": "no " * 5000}).encode())
    a, b, c = (entry.reason for entry in open_corpus(tmp_path, tmp_path).rows)
    assert a == f"{b}; video2dataset: HTTP Error 404: Not Found" and b.startswith("missing video")
    assert len(c) < 300


@pytest.mark.parametrize("damage", ["cut in a video", "cut in a header", "overwritten"])
def test_a_damaged_tar_keeps_what_stands_before_the_damage(shards, tmp_path, damage):
    whole = (shards / "tar" / "00000.tar").read_bytes()
    third = member(shards / "tar" / "00000.tar", "000000003.mp4")
    broken = {
        "cut in a video": whole[: third.offset + 100],
        "cut in a header": whole[: third.offset - 100],
        "overwritten": whole[: third.offset - 512] + b"?" * 512 + whole[third.offset :],
    }[damage]
    (tmp_path / "0.tar").write_bytes(broken)
    *kept, last = open_corpus(tmp_path, tmp_path).rows
    assert [entry.row.captions[0] for entry in kept] == ["a ring falls", "a ring rises"]
    assert isinstance(last, Rejected) and last.reason.startswith("damaged tar: left out from here")


def test_a_header_that_asks_for_gigabytes_is_damage(videos, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        add(archive, "a.mp4", videos[0].read_bytes())
        add(archive, "a.txt", b"right")
        info = tarfile.TarInfo("long")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 6 << 30
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
    with open(tmp_path / "0.tar", "r+b") as file:
        file.truncate(7 << 30)  # sparse
    kept, last = open_corpus(tmp_path, tmp_path).rows
    assert kept.row.captions == ("right",) and "a header of 6442450944 bytes" in last.reason


def test_a_folder_that_is_none_or_lies_elsewhere_is_named(shards, tmp_path):
    with pytest.raises(UserError, match=r"no folder .*; --annotations names the folder that"):
        open_corpus(tmp_path / "none", tmp_path)
    with pytest.raises(UserError, match="lies outside of --videos"):
        open_corpus(shards / "tar", tmp_path)


@pytest.mark.parametrize("kind", ["tar", "files"])
def test_one_command_prepares_a_collection(shards, tmp_path, kind):
    prepare(shards / kind, tmp_path / "data")
    data = DataDirectory.open(tmp_path / "data")
    assert {split: len(data.manifest(split)) for split in data.splits} == {"train": 3, "test": 1}
    transform = ClipTransform(24, train=False)
    load = ClipLoader(data.video_root, SAMPLING, transform, "center")
    clips = [load(row, None) for split in data.splits for row in data.manifest(split)]
    assert len(clips) == 4 and all(clip.shape == (4, 24, 24, 3) for clip in clips)


def prepare(collection: Path, out: Path, *options: str) -> None:
    run_main(
        "vt_fairseq.cli.prepare",
        *["video2dataset", "--annotations", str(collection), "--videos", str(collection)],
        *["--out", str(out), "--train-vocabulary", "40", *options],
    )


# Writing tar files


def jsonl(folder: Path, videos: list[Path], splits: list[str]) -> list[str]:
    """Options for an annotation file with two clips of the first video and one of each other.

    Copies keep the videos' 64 pixels: of smaller ones x264 makes other bits now and then.
    """
    rows = [
        {"id": f"{number}", "video": video.name, "caption": f"text {number}", "split": split}
        for number, (video, split) in enumerate(zip(videos, splits, strict=True))
    ]
    rows.append({**rows[0], "id": "again", "start": 0.5, "caption": "text again"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *["jsonl", "--annotations", str(folder / "rows.jsonl"), "--videos", str(videos[0].parent)],
        *["--train-vocabulary", "40", "--num-workers", "2", "--transcode", "64"],
    ]


def clips_of(out: Path) -> dict[str, np.ndarray]:
    data = DataDirectory.open(out)
    load = ClipLoader(data.video_root, SAMPLING, ClipTransform(24, train=False), "center")
    return {row.id: load(row, None) for split in data.splits for row in data.manifest(split)}


def test_copies_in_tar_files_are_the_loose_ones(videos, tmp_path):
    options = jsonl(tmp_path, videos, ["train", "train", "train", "valid"])
    run_main("vt_fairseq.cli.prepare", *options, "--out", str(tmp_path / "loose"))
    run_main("vt_fairseq.cli.prepare", *options, "--out", str(tmp_path / "packed"), "--tar", "3")
    packed, loose = clips_of(tmp_path / "packed"), clips_of(tmp_path / "loose")
    assert packed.keys() == loose.keys() == {"0", "1", "2", "3", "again"}
    assert all(np.array_equal(packed[name], loose[name]) for name in loose)
    assert sorted(p.name for p in (tmp_path / "packed" / "videos").iterdir()) == [
        "00000.tar",
        "00001.tar",
    ]
    with tarfile.open(tmp_path / "packed" / "videos" / "00000.tar") as archive:
        names = [f"00000000{n}{end}" for n in range(3) for end in (".mp4", ".txt", ".json")]
        assert archive.getnames() == names
        assert archive.extractfile("000000000.txt").read().decode() == "text 0\ntext again"
        assert json.load(archive.extractfile("000000001.json"))["video"] == videos[1].name


def test_tar_files_that_were_written_are_read_by_the_command_that_reads_them(videos, tmp_path):
    options = jsonl(tmp_path, videos, ["train"] * 4)
    run_main("vt_fairseq.cli.prepare", *options, "--out", str(tmp_path / "packed"), "--tar")
    prepare(tmp_path / "packed" / "videos", tmp_path / "again")
    texts = [row.captions[0] for row in DataDirectory.open(tmp_path / "again").manifest("train")]
    assert texts == ["text 0\ntext again", "text 1", "text 2", "text 3"]


def test_a_run_that_was_stopped_goes_on_and_copies_nothing_twice(videos, tmp_path, monkeypatch):
    options = jsonl(tmp_path, videos, ["train"] * 4)
    out = tmp_path / "packed"
    made = []
    copy = transcode._make

    def stopping(source: Path, *rest) -> None:
        if source == videos[3] and len(made) < 4:
            raise KeyboardInterrupt
        copy(source, *rest)
        made.append(source)

    monkeypatch.setattr(transcode, "_make", stopping)
    monkeypatch.setattr("vt_fairseq.corpora.prepare.CHUNK_ROWS", 2)
    arguments = [*options, "--out", str(out), "--tar", "2"]
    with pytest.raises(SystemExit, match="130"):
        run_main("vt_fairseq.cli.prepare", *arguments)
    assert [path.name for path in (out / "videos").glob("*.tar")] == ["00000.tar"]
    assert not (out / "data.json").exists()
    before = (out / "videos" / "00000.tar").read_bytes()
    made.append(None)
    run_main("vt_fairseq.cli.prepare", *arguments)
    assert sorted(map(str, made)) == sorted(map(str, [*videos, None]))
    assert (out / "videos" / "00000.tar").read_bytes() == before
    run_main("vt_fairseq.cli.prepare", *options, "--out", str(tmp_path / "loose"))
    packed, loose = clips_of(out), clips_of(tmp_path / "loose")
    assert packed.keys() == loose.keys()
    assert all(np.array_equal(packed[name], loose[name]) for name in loose)


def test_copies_in_tar_files_of_another_size_are_made_anew(videos, tmp_path):
    options = jsonl(tmp_path, videos, ["train"] * 4)
    shapes = []
    for size in ("16", "24"):
        arguments = [*options[:-1], size, "--out", str(tmp_path / "data"), "--tar"]
        run_main("vt_fairseq.cli.prepare", *arguments)
        data = DataDirectory.open(tmp_path / "data")
        video = data.video_root / data.manifest("train")[0].video
        shapes.append(read_clip(video, SAMPLING, short_side=None).shape[1])
    assert shapes == [16, 24]


def test_shards_of_a_preparation_have_tar_files_of_their_own(videos, tmp_path):
    options = jsonl(tmp_path, videos, ["train"] * 4)
    vocabulary = options.index("--train-vocabulary")
    options = options[:vocabulary] + options[vocabulary + 2 :]
    for part in ("1/2", "2/2"):
        arguments = ["--out", str(tmp_path / "data"), "--tar", "--shard", part]
        run_main("vt_fairseq.cli.prepare", *options, *arguments)
    run_main(
        "vt_fairseq.cli.prepare",
        *["join", "--out", str(tmp_path / "data"), "--train-vocabulary", "40"],
    )
    assert len(clips_of(tmp_path / "data")) == 5
    found = sorted(path.parent.name for path in (tmp_path / "data" / "videos").rglob("*.tar"))
    assert found == ["1-of-2", "2-of-2"]


def test_tar_files_of_somebody_else_are_not_filled(videos, tmp_path):
    options = jsonl(tmp_path, videos, ["train"] * 4)
    (tmp_path / "data" / "videos").mkdir(parents=True)
    (tmp_path / "data" / "videos" / "x.tar").write_bytes(b"no tar")
    with pytest.raises(SystemExit, match="2"):
        run_main("vt_fairseq.cli.prepare", *options, "--out", str(tmp_path / "data"), "--tar")


def test_tar_goes_with_copies_alone(videos, tmp_path, capsys):
    options = jsonl(tmp_path, videos, ["train"] * 4)[:-2]
    with pytest.raises(SystemExit, match="2"):
        run_main("vt_fairseq.cli.prepare", *options, "--out", str(tmp_path / "data"), "--tar")
    assert "--tar packs the copies that --transcode makes: add --transcode" in (
        capsys.readouterr().err
    )
