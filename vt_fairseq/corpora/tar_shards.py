"""Copies of videos in tar files, as video2dataset lays them out: ``KEY.mp4``, ``.txt``, ``.json``.

A tar file appears whole or not at all; until then the copies in it lie beside it, so that a run
that was stopped goes on.
"""

import contextlib
import io
import itertools
import os
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vt_fairseq.corpora.video2dataset import META, TEXT
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.files.bounded_files import MAX_OBJECT, parse_json
from vt_fairseq.video.members import Member, file_of
from vt_fairseq.visible_text import json_text


class TarShards:
    """Tar files below ``root``, in ``folder``, with at most ``samples`` videos each, copies at
    ``short_side`` pixels.

    A context: at its end the last tar file is closed, or given up where there was an error.

    Attributes:
        places: what rows say of a video, by the name of the original.
    """

    def __init__(self, root: Path, folder: str, samples: int, short_side: int):
        self.places: dict[str, str] = {}
        self._root, self._folder, self._samples = root, root / folder, samples
        self._short_side = short_side
        self._known: dict[str, tuple[int, float, str]] = {}
        self._copies: list[Path] = []
        self._number = 0
        self._open: tuple[tarfile.TarFile, contextlib.ExitStack] | None = None
        for path in sorted(self._folder.glob("*.tar")):
            self._number = max(self._number, int(path.stem) + 1 if path.stem.isdecimal() else 0)
            self._read(path)

    def __enter__(self) -> "TarShards":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._open is not None and kind is not None:
            self._open[1].__exit__(kind, error, trace)
        elif self._open is not None:
            self._finish()

    def seconds(self, videos: Iterable[str], root: Path) -> dict[str, float]:
        """How long those of ``videos`` last whose copies are in tar files already."""
        found = {}
        for video in videos:
            modified, seconds, place = self._known.get(video, (0, 0.0, ""))
            if place and modified == _modified(root / video):
                self.places[video], found[video] = place, seconds
        return found

    def add(
        self, video: str, root: Path, copy: Path, seconds: float, rows: Sequence[ClipRow]
    ) -> None:
        """Put a copy into a tar file, with the captions of ``rows``, one per line; ``root`` is the
        folder of the originals.

        A folder of frames stays where it is.
        """
        if not copy.is_file():
            return
        if self._open is None:
            self._begin()
        assert self._open is not None
        archive, _ = self._open
        key = f"{self._number:05}{len(self._copies):04}"
        meta = {"key": key, "status": "success", "video": video, "seconds": seconds}
        meta |= {"modified": _modified(root / video), "short_side": self._short_side}
        texts = list(itertools.chain.from_iterable(row.captions for row in rows))
        with open(copy, "rb") as file:
            offset, length = _add(archive, key + copy.suffix.lower(), file, copy.stat().st_size)
        for suffix, text in ((TEXT, "\n".join(texts)), (META, json_text(meta))):
            content = text.encode(errors="surrogatepass")
            _add(archive, key + suffix, io.BytesIO(content), len(content))
        name = os.path.relpath(self._path, self._root)
        self.places[video] = str(Member(name, offset, length))
        self._copies.append(copy)
        if len(self._copies) == self._samples:
            self._finish()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._number:05}.tar"

    def _begin(self) -> None:
        stack = contextlib.ExitStack()
        file = stack.enter_context(atomic_file(self._path))
        archive = stack.enter_context(tarfile.TarFile(fileobj=file, mode="w"))
        self._open = archive, stack

    def _finish(self) -> None:
        assert self._open is not None
        self._open[1].close()
        for copy in self._copies:
            copy.unlink()
            if self._folder == self._root:  # else other shards use these folders, too
                with contextlib.suppress(OSError):  # there are others in its folder
                    os.removedirs(copy.parent)
        self._open, self._copies, self._number = None, [], self._number + 1

    def _read(self, path: Path) -> None:
        """Remember what a tar file of an earlier run has, where its copies have our size.

        Raises UserError for another's tar file.
        """
        name = os.path.relpath(path, self._root)
        video = None
        try:
            with tarfile.open(path, "r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # the list of all so far
                    if not member.name.endswith(META):
                        if not member.name.endswith(TEXT):
                            video = Member(name, member.offset_data, member.size)
                        continue
                    content = archive.extractfile(member)
                    assert content is not None
                    meta = parse_json(content.read(MAX_OBJECT))
                    found = int(meta["modified"]), float(meta["seconds"]), str(video)
                    if meta.get("short_side", self._short_side) == self._short_side:
                        self._known[str(meta["video"])] = found
        except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no tar file of copies that vt-prepare wrote ({error!s:.100}): remove it"
            ) from error


def _modified(original: Path) -> int:
    """When a file was changed, in nanoseconds; 0 where there is none."""
    try:
        return os.stat(file_of(original)).st_mtime_ns
    except OSError:
        return 0


def _add(archive: tarfile.TarFile, name: str, file: Any, size: int) -> tuple[int, int]:
    """Append a member; where its content begins, and how long it is."""
    info = tarfile.TarInfo(name)
    info.size = size
    archive.addfile(info, file)
    archive.members.clear()  # type: ignore[attr-defined]  # the list of all so far
    return archive.offset - -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, size
