"""Preparation in parts: ``--shard K/N`` writes DATA/shards/K-of-N, ``vt-prepare join`` makes DATA.

A shard has all clips of some of the videos. Shards know nothing of each other, so they can be made
side by side, on any machines that share DATA; one that is whole is not made again.
"""

import functools
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vt_fairseq.corpora.prepare import (
    Probing,
    VocabularyOptions,
    finish,
    nothing_left,
    write_rows,
)
from vt_fairseq.corpora.rows import CLASS_KINDS, Entry, Rejected, Source
from vt_fairseq.data.manifest import DataDirectory, join_manifests
from vt_fairseq.errors import UserError
from vt_fairseq.files.atomic_files import atomic_file, write_file, write_json
from vt_fairseq.files.bounded_files import MAX_DOCUMENT, MAX_OBJECT, parse_json, read_file

FOLDER = "shards"
_NAME = re.compile(r"([1-9]\d*)-of-([1-9]\d*)")


@dataclass(frozen=True)
class Shard:
    """Part ``index``, from 1, of ``count``."""

    index: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.index}-of-{self.count}"

    def keeps(self, video: str) -> bool:
        """Does the video belong to this part? ``video`` is its name without folder and suffix."""
        return zlib.crc32(video.encode(errors="surrogatepass")) % self.count == self.index - 1

    def rows(self, rows: Iterable[Entry | Rejected]) -> Iterator[Entry | Rejected]:
        """Those of ``rows`` whose video belongs to this part."""
        for entry in rows:
            video = entry.row.video if isinstance(entry, Entry) else entry.video
            if self.keeps(_stem(video or entry.where)):
                yield entry


@functools.lru_cache(maxsize=1024)  # the clips of one video mostly follow one another
def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def prepare_shard(
    corpus: str, source: Source, out: Path, shard: Shard, probing: Probing
) -> dict[str, Any]:
    """Write one shard of the data directory ``out``, unless it is there; return its data.json.

    Raise UserError when one is there that was made otherwise, and as ``prepare`` does; a shard
    without any row is right.
    """
    folder = out / FOLDER / shard.name
    if (folder / "data.json").is_file():
        data = _data_json(folder)
        wanted = {"corpus": corpus, "settings": dict(source.settings)}
        wanted["video_root"] = str(source.videos.absolute())
        different = [key for key, value in wanted.items() if data[key] != value]
        if different:
            raise UserError(
                f"{folder} was made with another {different[0]}: {data[different[0]]}, now "
                f"{wanted[different[0]]}; remove {out / FOLDER} or choose another --out"
            )
        return data
    source = replace(source, rows=shard.rows(source.rows))
    data = write_rows(corpus, source, folder, probing, may_be_empty=True)
    write_json(folder / "data.json", data)
    return data


def join(out: Path, vocabulary: VocabularyOptions) -> dict[str, Any]:
    """Make the data directory ``out`` of its shards; return its data.json.

    Everything is copied as a stream. Raise UserError when shards are missing or differ.
    """
    folders = _folders(out)
    shards = [_data_json(folder) for folder in folders]
    data = _merged(shards, folders)
    if not any(counts["rows"] for counts in data["splits"].values()):
        raise nothing_left(data)
    (out / "data.json").unlink(missing_ok=True)
    for split in data["splits"]:
        parts = [f for f, shard in zip(folders, shards, strict=True) if split in shard["splits"]]
        join_manifests(out / f"{split}.arrow", [f / f"{split}.arrow" for f in parts])
    with atomic_file(out / "rejected.jsonl") as joined:
        for folder in folders:
            with open(folder / "rejected.jsonl", "rb") as part:
                shutil.copyfileobj(part, joined)
    for kind in CLASS_KINDS:
        write_file(out / f"{kind}s.txt", _joined_classes(folders, f"{kind}s.txt"))
    return finish(out, data, vocabulary)


def _folders(out: Path) -> list[Path]:
    folders = {
        (int(match[1]), int(match[2])): path
        for path in sorted((out / FOLDER).glob("*"))
        if (match := _NAME.fullmatch(path.name)) and (path / "data.json").is_file()
    }
    counts = sorted({count for _, count in folders})
    if len(counts) != 1:
        what = f"shards of {counts}" if counts else "none"
        raise UserError(
            f"expected all shards of one --shard K/N in {out / FOLDER}, found {what}"
            + (": remove those of the other" if counts else "")
        )
    missing = [k for k in range(1, counts[0] + 1) if (k, counts[0]) not in folders]
    if missing:
        names = ", ".join(f"{k}/{counts[0]}" for k in missing[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        raise UserError(f"{out / FOLDER} is not whole: make --shard {names}{more} first")
    return [folders[key] for key in sorted(folders)]


def _data_json(folder: Path) -> dict[str, Any]:
    DataDirectory.open(folder)
    return parse_json(read_file(folder / "data.json", MAX_OBJECT))


def _merged(shards: list[dict[str, Any]], folders: list[Path]) -> dict[str, Any]:
    first = shards[0]
    for key in ("corpus", "settings", "video_root"):
        for shard, folder in zip(shards, folders, strict=True):
            if shard[key] != first[key]:
                raise UserError(
                    f"{folder} has {key} {shard[key]}, {folders[0]} {first[key]}: make them again "
                    "from the same files"
                )
    splits: dict[str, Counter[str]] = {}
    for shard in shards:
        for split, counts in shard["splits"].items():
            splits.setdefault(split, Counter()).update(counts)
    summed: dict[str, dict[str, int]] = {
        key: dict(sum((Counter(shard.get(key)) for shard in shards), Counter()).most_common())
        for key in ("contexts", "reasons", "without_video")
    }
    texts = {
        key: list(dict.fromkeys(text for shard in shards for text in shard[key]))
        for key in ("notes", "warnings")
    }
    first_rejected = next(filter(None, (shard["first_rejected"] for shard in shards)), None)
    return {**first, "splits": splits, **summed, **texts, "first_rejected": first_rejected}


def _joined_classes(folders: list[Path], name: str) -> bytes:
    lists = [read_file(folder / name, MAX_DOCUMENT) for folder in folders]
    if len(set(lists)) == 1:  # a corpus's own list, in its own order
        return lists[0]
    return b"".join(sorted({line for part in lists for line in part.splitlines(keepends=True)}))
