"""What video2dataset and other writers of WebDataset leave: a video and its text by one key.

A folder of tar files (``00000.tar``), or of folders of files, in which ``KEY.mp4``, ``KEY.txt`` and
``KEY.json`` belong together. Videos stay where they are: rows name members of the tar files.
Samples in a folder ``train``, ``valid`` or ``test`` are of that split, all others for training.
Names that begin with a dot are no samples, as for WebDataset: macOS puts one beside each file.
"""

import io
import itertools
import os
import tarfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vt_fairseq.corpora.rows import DEFAULT_SPLIT, OTHER_NAMES, Entry, Rejected, Source, unique
from vt_fairseq.data.manifest import MAX_ROW_BYTES, ClipRow
from vt_fairseq.errors import FOLLOW_LINKS, UserError, VideoError
from vt_fairseq.files.bounded_files import MAX_OBJECT, parse_json
from vt_fairseq.video.boundary import Boundary
from vt_fairseq.video.members import Member, file_of, member_of
from vt_fairseq.video.names import VIDEO_SUFFIXES

SPLITS = {**{name: name for name in (DEFAULT_SPLIT, "valid", "test")}, **OTHER_NAMES}
LONGEST_ERROR = 200  # characters of what video2dataset says of a video
TEXT, META = ".txt", ".json"
STATISTICS = ("_stats.json", ".parquet")
TAR = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_PADDING = 1 << 20  # bytes of zeros behind the last member; GNU tar and Python write up to 10240


class Part(NamedTuple):
    """One file of a sample, in a tar file or by itself.

    Attributes:
        stem: of the sample: the folder or tar file, and the name up to its first dot.
        suffix: the last of the name, in lower case.
        video: what a row says: the file, or the member of a tar file, relative to the videos.
        problem: why it cannot be read where it lies, or empty.
    """

    stem: str
    suffix: str
    video: str
    problem: str = ""


def open_corpus(annotations: Path, videos: Path, follow_links: bool = False) -> Source:
    """The samples in and below ``annotations``, which is ``videos`` or lies in it."""
    if not annotations.is_dir():
        raise UserError(
            f"no folder {annotations}; --annotations names the folder that video2dataset wrote"
        )
    if not annotations.resolve().is_relative_to(videos.resolve()):
        raise UserError(f"--annotations {annotations} lies outside of --videos {videos}")
    boundary = None if follow_links else Boundary(videos, FOLLOW_LINKS)
    return Source(unique(rows(annotations, videos, boundary)), videos)


def rows(folder: Path, videos: Path, boundary: Boundary | None) -> Iterator[Entry | Rejected]:
    """Every sample, in the order of the shards' names and of the files in them.

    What is no sample, what no link may lead to, and what follows damage in a tar file, is yielded
    as Rejected.
    """
    for directory, folders, files in os.walk(folder):
        folders.sort()
        within = os.path.relpath(directory, folder).split(os.sep)
        split = next(
            (SPLITS[name.lower()] for name in within if name.lower() in SPLITS), DEFAULT_SPLIT
        )
        place = os.path.relpath(os.path.abspath(directory), os.path.abspath(videos))
        for name in (one for one in folders if os.path.islink(os.path.join(directory, one))):
            reason = "link: folders behind links are not looked into; name that folder itself"
            yield Rejected(None, os.path.normpath(os.path.join(place, name)), split, reason, name)
        names = [os.path.normpath(os.path.join(place, name)) for name in sorted(files)]
        tars = [name for name in names if name.lower().endswith((TAR, *COMPRESSED))]
        for name in tars:
            parts = _in_tar(videos, name, split, boundary)
            yield from _samples(parts, split, videos, boundary)
        others = (name for name in names if name not in tars and not name.endswith(STATISTICS))
        loose = [part for name in others if (part := _part(name, name))]
        if tars:  # beside them a text alone is about the tar files
            filmed = {part.stem for part in loose if part.suffix in VIDEO_SUFFIXES}
            loose = [part for part in loose if part.stem in filmed]
        yield from _samples(loose, split, videos, boundary)


def _part(name: str, video: str, problem: str = "") -> Part | None:
    """The file of that name; None for one that begins with a dot."""
    folder, base = os.path.split(name)
    if base.startswith("."):
        return None
    stem = os.path.join(folder, base.partition(".")[0])
    return Part(stem, os.path.splitext(base)[1].lower(), video, problem)


def _in_tar(
    videos: Path, name: str, split: str, boundary: Boundary | None
) -> Iterator[Part | Rejected]:
    """The members that are files, or links to files."""
    path = videos / name
    try:
        if name.endswith(COMPRESSED):
            raise ValueError("compressed tar: its videos cannot be read where they lie: unpack it")
        if not name.endswith(TAR):
            raise ValueError("name of a tar: expected one that ends in .tar: rename it")
        _check(path, boundary)
        size = path.stat().st_size
        with _Headers(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # the list of all so far
                stored = member.isreg() and not member.issparse()
                if stored and member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                if stored or member.issparse() or member.issym() or member.islnk():
                    key = os.path.join(os.path.splitext(name)[0], member.name.lstrip("/"))
                    problem = "" if stored else _how_stored(member)
                    video = str(Member(name, member.offset_data, member.size))
                    if part := _part(key, video, problem):
                        yield part
            _check_end(file, archive.offset, size)
    except VideoError as error:
        yield Rejected(None, name, split, str(error), name)
    except (tarfile.TarError, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        kind = "damaged tar: left out from here on: " if name.endswith(TAR) else ""
        yield Rejected(None, name, split, f"{kind}{text}", name)


def _how_stored(member: tarfile.TarInfo) -> str:
    kind = "sparse" if member.issparse() else f"a link to {member.linkname}"
    return f"no plain file: {member.name} is {kind} in the tar file: make it anew from plain files"


def _check_end(file: io.FileIO, offset: int, size: int) -> None:
    """Raise ReadError unless the tar file has nothing but zeros from ``offset`` on."""
    file.seek(min(offset, size))
    block = file.read(tarfile.BLOCKSIZE)
    if any(block):
        raise tarfile.ReadError("no member begins where one should")
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it may be cut off: it does not end in zeros, as tar files do")
    if any(file.read(MAX_PADDING)):
        raise tarfile.ReadError("more stands behind its end: are these tar files joined by cat?")


class _Headers(io.FileIO):
    """A tar file of which only headers are read; long names and PAX headers are bounded."""

    def read(self, size: int | None = -1) -> bytes:
        """At most MAX_OBJECT bytes, of which a hostile header may ask for more."""
        if size is None or not 0 <= size <= MAX_OBJECT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _check(path: Path, boundary: Boundary | None) -> None:
    """Raise VideoError where ``path`` is no regular file, or a link leads out with it."""
    if boundary is not None:
        boundary.check(path)
    if not os.path.isfile(file_of(path)):
        raise VideoError("no regular file: expected one, found a pipe, a device or nothing")


def _samples(
    parts: Iterable[Part | Rejected], split: str, videos: Path, boundary: Boundary | None
) -> Iterator[Entry | Rejected]:
    for stem, group in itertools.groupby(parts, lambda one: getattr(one, "stem", None)):
        if stem is None:
            yield from (one for one in group if isinstance(one, Rejected))
            continue
        files = [one for one in group if isinstance(one, Part)]
        found = {one.suffix: one.video for one in files}
        video = next((name for kind, name in found.items() if kind in VIDEO_SUFFIXES), None)
        if video is None and not {TEXT, META} & found.keys():
            continue  # a README, a table: no sample
        try:
            if video is None:
                said = _said(_content(found.get(META), videos, boundary))
                raise ValueError(f"missing video: the sample has text alone{said}")
            used = {TEXT, META, *VIDEO_SUFFIXES}
            if problem := next((one.problem for one in files if one.suffix in used), ""):
                raise ValueError(problem)
            if len(found) < len(files) or sum(kind in VIDEO_SUFFIXES for kind in found) > 1:
                raise ValueError(
                    f"several videos or texts: {len(files)} files have this key, which ends at the "
                    "first dot of a name"
                )
            text, meta = (_content(found.get(kind), videos, boundary) for kind in (TEXT, META))
            yield Entry(split, _row(stem, video, text, _meta(meta)), stem)
        except (ValueError, VideoError) as error:  # UnicodeDecodeError is a ValueError
            kind = "bad text: " if isinstance(error, UnicodeDecodeError) else ""
            yield Rejected(stem, video, split, f"{kind}{error}", stem)


def _row(stem: str, video: str, text: bytes, meta: dict[str, Any]) -> ClipRow:
    """The row; ValueError, as ``kind: detail``, where there is no caption."""
    caption = text.decode("utf-8-sig").strip() or meta.get("caption") or ()
    texts = [caption] if isinstance(caption, str) else caption
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"bad caption: expected a text or a list of texts, found {caption!r:.60}")
    captions = tuple(one.strip() for one in texts if one.strip())
    if not captions:
        raise ValueError("empty text: no caption stands beside the video, in .txt or .json")
    url = meta.get("url")  # clips of one video share it
    group = url if isinstance(url, str) and url.strip() else None
    return ClipRow(stem, video, captions=captions, group=group)


def _content(video: str | None, videos: Path, boundary: Boundary | None) -> bytes:
    """The bytes of a small file or member; ValueError for one that is too large to be a text."""
    if video is None:
        return b""
    path = videos / video
    _check(path, boundary)
    member = member_of(video)
    offset, length = member[1:] if member else (0, path.stat().st_size)
    if length > MAX_ROW_BYTES:
        raise ValueError(f"too much text: {length:,} bytes, at most {MAX_ROW_BYTES:,} are read")
    with open(file_of(path), "rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def _said(meta: bytes) -> str:
    """What video2dataset noted of a video that it could not fetch."""
    error = _meta(meta).get("error_message")
    if not isinstance(error, str) or not error.strip():
        return ""
    return f"; video2dataset: {textwrap.shorten(error, LONGEST_ERROR, placeholder=' ...')}"


def _meta(content: bytes) -> dict[str, Any]:
    try:
        meta = parse_json(content or b"{}")
    except ValueError as error:
        raise ValueError(f"bad JSON: {error}") from error
    if not isinstance(meta, dict):
        raise ValueError(f"bad JSON: expected an object, found a {type(meta).__name__}")
    return meta
