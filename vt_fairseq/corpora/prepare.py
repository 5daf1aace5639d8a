"""Annotation rows to a data directory: the part that every corpus shares.

A corpus reader yields ``Entry`` and ``Rejected`` (module ``rows``). ``prepare`` checks each row,
probes each video once, and writes what ``vt_fairseq.data.manifest`` describes. A row with a
mistake goes to ``rejected.jsonl`` with its reason, ``kind: detail``, and does not stop the others.

labels.txt, verbs.txt and nouns.txt list the classes of all splits: the classes are known
beforehand, and a test clip whose class training never shows must be able to get it right.
"""

import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import tqdm

from vt_fairseq.corpora.rows import CLASS_KINDS, DEFAULT_SPLIT, Entry, Rejected, check_row, reject
from vt_fairseq.data.actions import BUILT_IN
from vt_fairseq.data.manifest import FORMAT, DataDirectory, ManifestWriter, atomic_file
from vt_fairseq.data.text import Tokenizer, train_vocabulary
from vt_fairseq.errors import UserError, VideoError

# A tiny vocabulary must be able to spell the prompts, which stand before every clip.
PROMPT_TEXTS = tuple(action.prompt.replace("{question}", "") for action in BUILT_IN.values())
CHUNK_ROWS = 4096  # rows read ahead, so that their videos are probed in parallel
TEXT_CHUNK = 1000  # characters; the sentencepiece trainer drops lines over 4192 bytes


def check_vocabulary_choice(vocabulary: Path | None, train_vocabulary: int | None) -> None:
    """Raise UserError unless exactly one of the two is given."""
    if (vocabulary is None) == (train_vocabulary is None):
        raise UserError(
            "expected exactly one of --vocabulary spiece.model (the one that belongs to the T5 "
            "weights) and --train-vocabulary N (for a model trained from nothing)"
        )


def prepare(
    corpus: str,
    rows: Iterable[Entry | Rejected],
    videos: Path,
    out: Path,
    *,
    vocabulary: Path | None,
    train_vocabulary: int | None,
    probe: bool,
    workers: int,
    progress: bool,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Write the data directory ``out`` from ``rows``, whose videos lie under ``videos``.

    Args:
        vocabulary: a T5 ``spiece.model`` to copy; or
        train_vocabulary: pieces of one to train on the texts of the training split.
        probe: open each distinct video once and reject the rows whose video cannot be read.
        workers: videos probed at a time.
        progress: show a bar on stderr.
        settings: goes into data.json as it is.

    Memory holds one duration a video and a chunk of rows. ``data.json`` is written last and an old
    one removed first, so an interrupted run never looks complete.

    Returns ``{"splits": {name: {"rows", "rejected"}}, "reasons": [(kind, rows), ...]}``, the
    most frequent kind first. Raises UserError when the vocabulary is not given exactly once, when
    ``videos`` does not exist, or when no row is left; and what ``rows`` raises.
    """
    check_vocabulary_choice(vocabulary, train_vocabulary)
    if not videos.is_dir():
        raise UserError(f"no directory of videos at {videos}; --videos names it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names a directory to make")
    tokenizer = None if vocabulary is None else Tokenizer.from_file(vocabulary)
    videos, out = videos.absolute(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        writer = _Writer(out, files)
        for entry in _checked(rows, videos, probe, workers, progress):
            writer.add(entry)
        writer.check_not_empty()
        (out / "data.json").unlink(missing_ok=True)
        writer.close()
    data = {
        "format": FORMAT,
        "corpus": corpus,
        "video_root": str(videos),
        "splits": writer.splits,
        "settings": settings,
    }
    made = DataDirectory(out, corpus, videos, writer.splits, settings)
    model = tokenizer.model_proto if tokenizer else _trained(made, train_vocabulary)
    _write(made.tokenizer_path, model)
    for kind in CLASS_KINDS:
        _write(out / f"{kind}s.txt", "".join(f"{c}\n" for c in writer.classes(kind)).encode())
    _write(out / "data.json", (json.dumps(data, indent=1) + "\n").encode())
    return {"splits": writer.splits, "reasons": writer.reasons.most_common()}


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path) as file:
        file.write(content)


class _Writer:
    """One manifest a split and ``rejected.jsonl``, all of which appear when ``files`` closes."""

    def __init__(self, out: Path, files: contextlib.ExitStack):
        self.splits: dict[str, dict[str, int]] = {}
        self.reasons: Counter[str] = Counter()
        self._out = out
        self._files = files
        self._manifests: dict[str, ManifestWriter] = {}
        self._classes: dict[str, set[str]] = {kind: set() for kind in CLASS_KINDS}
        self._rejected: IO[bytes] = files.enter_context(atomic_file(out / "rejected.jsonl"))
        self._first: Rejected | None = None

    def add(self, entry: Entry | Rejected) -> None:
        counts = self._split(entry.split)
        if isinstance(entry, Rejected):
            counts["rejected"] += 1
            self._reject(entry)
            return
        counts["rows"] += 1
        self._manifests[entry.split].add(entry.row)
        for kind, seen in self._classes.items():
            if (name := getattr(entry.row, kind)) is not None:
                seen.add(name)

    def _split(self, name: str) -> dict[str, int]:
        if name not in self.splits:
            file = self._files.enter_context(atomic_file(self._out / f"{name}.arrow"))
            self._manifests[name] = ManifestWriter(file)
            self.splits[name] = {"rows": 0, "rejected": 0}
        return self.splits[name]

    def _reject(self, entry: Rejected) -> None:
        self._first = self._first or entry
        self.reasons[entry.reason.partition(":")[0]] += 1
        self._rejected.write(json.dumps(vars(entry)).encode() + b"\n")

    def check_not_empty(self) -> None:
        if any(counts["rows"] for counts in self.splits.values()):
            return
        if self._first is None:
            raise UserError("the annotations have no rows; expected one clip a line")
        raise UserError(
            f"every one of {self.reasons.total()} rows was rejected; the first is "
            f"{self._first.where}: {self._first.reason} (id {self._first.id!r}, video "
            f"{self._first.video!r}); nothing was written: correct the annotations or --videos"
        )

    def close(self) -> None:
        for manifest in self._manifests.values():
            manifest.close()

    def classes(self, kind: str) -> list[str]:
        return sorted(self._classes[kind])


# --- checks --------------------------------------------------------------------------------------


def _checked(
    rows: Iterable[Entry | Rejected], videos: Path, probe: bool, workers: int, progress: bool
) -> Iterator[Entry | Rejected]:
    """``rows`` in their order, with what the checks and the videos themselves reject."""
    durations: dict[str, float | str | None] = {}
    rows = (check_row(entry, videos) for entry in rows)
    if not probe:
        yield from rows
        return
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm.tqdm(desc="probing videos", unit="video", total=0, disable=not progress) as bar,
    ):
        try:
            while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
                named = (entry.row.video for entry in chunk if isinstance(entry, Entry))
                new = [video for video in dict.fromkeys(named) if video not in durations]
                bar.total += len(new)
                found = pool.map(_probed, [videos] * len(new), new)
                for video, duration in zip(new, found, strict=True):
                    durations[video] = duration
                    bar.update()
                yield from (_check_video(entry, durations) for entry in chunk)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the videos in the queue
            raise


def _check_video(entry: Entry | Rejected, durations: dict) -> Entry | Rejected:
    if isinstance(entry, Rejected):
        return entry
    found = durations[entry.row.video]
    if isinstance(found, str):
        return reject(entry, found)
    start = entry.row.start or 0.0
    if found is not None and start >= found:
        return reject(entry, f"starts after the end: start {start} s, the video has {found:.3f} s")
    return entry


def _probed(videos: Path, video: str) -> float | str | None:
    """Duration in seconds, None when the file does not say; or the reason to reject it."""
    from vt_fairseq.data.video import probe  # loads FFmpeg, which --skip-probe does without

    path = videos / video
    if not os.path.exists(path):  # unlike Path.exists, False too for a name that is too long
        return "missing video: there is no such file"
    if not path.resolve().is_relative_to(videos.resolve()):
        return "outside of --videos: a link leads out of it; point --videos at the folder itself"
    try:
        return probe(path).duration
    except VideoError as error:
        return f"broken video: {error}"


# --- vocabulary ----------------------------------------------------------------------------------


def _trained(data: DataDirectory, pieces: int) -> bytes:
    if not data.splits.get(DEFAULT_SPLIT, {}).get("rows"):
        raise UserError(
            f"--train-vocabulary needs rows in the split {DEFAULT_SPLIT!r}; "
            f"found the splits {', '.join(data.splits)}: give --vocabulary spiece.model"
        )
    return train_vocabulary(_training_texts(data), pieces)


def _training_texts(data: DataDirectory) -> Iterator[str]:
    for row in data.manifest(DEFAULT_SPLIT):
        yield from PROMPT_TEXTS
        single = (row.label, row.verb, row.noun, row.question, row.context)
        for text in (*row.captions, *row.candidates, *filter(None, single)):
            yield from _short(text)


def _short(text: str) -> Iterator[str]:
    """``text`` in parts of whole words that the trainer accepts."""
    while len(text) > TEXT_CHUNK:
        cut = text.rfind(" ", 0, TEXT_CHUNK) + 1 or TEXT_CHUNK
        yield text[:cut]
        text = text[cut:]
    yield text
