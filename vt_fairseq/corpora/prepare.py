"""From annotation rows to a data directory: the part that every corpus shares.

A corpus reader yields ``Entry`` and ``Rejected`` (module ``rows``). ``prepare`` checks each row,
opens each video once, and writes what ``vt_fairseq.data.manifest`` describes. A row with a
mistake goes to ``rejected.jsonl`` with its reason, ``kind: detail``, and does not stop the others.

labels.txt, verbs.txt and nouns.txt list the classes of all splits: the classes are known
beforehand, and a test clip whose class training never shows must be able to get it right.
"""

import contextlib
import difflib
import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import tqdm

from vt_fairseq.corpora.rows import (
    CLASS_KINDS,
    DEFAULT_SPLIT,
    OTHER_NAMES,
    Entry,
    Rejected,
    Source,
    check_row,
    copy_name,
    reject,
)
from vt_fairseq.corpora.tar_shards import TarShards
from vt_fairseq.data.manifest import FORMAT, ClipRow, Manifest, ManifestWriter, texts_of
from vt_fairseq.data.prompts import BUILT_IN
from vt_fairseq.data.root_signatures import sign
from vt_fairseq.data.text_lengths import TextLengths
from vt_fairseq.data.tokenizer import Tokenizer, check_size, train_vocabulary
from vt_fairseq.data.unknown_text import UnknownText
from vt_fairseq.errors import FOLLOW_LINKS, RunFailure, UserError, VideoError, naming
from vt_fairseq.files.atomic_files import atomic_file, write_file, write_json
from vt_fairseq.video.members import file_of, member_of
from vt_fairseq.video.names import similar_file
from vt_fairseq.visible_text import json_text

MISSING_VIDEO, BROKEN_VIDEO = "missing video", "broken video"  # reasons to reject a row
# A tiny vocabulary must be able to spell the prompts, which stand before every clip.
PROMPT_TEXTS = tuple(prompt.fixed_text for prompt in BUILT_IN.values())
CHUNK_ROWS = 4096  # rows read ahead, so that their videos are probed in parallel
MAX_CLASSES = 1_000_000  # HowTo100M has 23,611; more would not fit into memory
VOCABULARY_ROWS = 200_000  # a vocabulary is trained on so many, evenly spread; they are in memory
SPELLED_ROWS = 50_000  # of each split so many are looked at for text that cannot be spelled
TRAINED_SPLITS = (DEFAULT_SPLIT, "valid")
LEAST_EQUAL = 10  # rows; fewer may have equal texts by chance
CLOSE = 0.78  # difflib's ratio: "trian" is close to train, "pretrain" is not
TEXT_CHUNK = 1000  # characters; the sentencepiece trainer drops lines over 4192 bytes


@dataclass(frozen=True)
class Probing:
    """How the rows' videos are checked and copied.

    Attributes:
        probe: open each distinct video once and reject the rows whose video cannot be read.
        workers: videos probed at a time.
        copies: folder for copies of the videos at the training size, which the rows then name.
        short_side: pixels of the copies' short side.
        follow_links: open videos and frames that links outside of the folder of videos lead to.
        tar: copies in a tar file; 0 for loose ones.
        tar_folder: below the copies, where these tar files lie.
    """

    probe: bool = True
    workers: int = 1
    copies: Path | None = None
    short_side: int = 128
    follow_links: bool = False
    tar: int = 0
    tar_folder: str = ""

    def __post_init__(self) -> None:
        if self.copies is not None and not self.probe:
            raise UserError("--transcode opens every video: leave --skip-probe out")
        if self.tar and self.copies is None:
            raise UserError("--tar packs the copies that --transcode makes: add --transcode")


@dataclass(frozen=True)
class VocabularyOptions:
    """Where the sentencepiece model comes from; UserError unless exactly one of the two is given.

    Attributes:
        file: a T5 ``spiece.model`` to copy.
        pieces: at most so many has one that is trained on the texts of the training split.
    """

    file: Path | None = None
    pieces: int | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.pieces is None):
            raise UserError(
                "expected exactly one of --vocabulary spiece.model (the one that belongs to the "
                "T5 weights) and --train-vocabulary N (for a model trained from nothing)"
            )
        if self.file is not None:
            Tokenizer.from_file(self.file)


def prepare(
    corpus: str, source: Source, out: Path, vocabulary: VocabularyOptions, probing: Probing
) -> dict[str, Any]:
    """Write the data directory ``out`` from the rows of ``source``.

    Memory holds one duration per video and a chunk of rows. ``data.json`` is written last and an
    old one removed first, so an interrupted run never looks complete.

    Returns the content of ``data.json``. Raises UserError when there is no directory of videos or
    when no row is left, and what the rows raise.
    """
    return finish(out, write_rows(corpus, source, out, probing), vocabulary)


def finish(out: Path, data: dict[str, Any], vocabulary: VocabularyOptions) -> dict[str, Any]:
    """Add the vocabulary and data.json to ``out``, and to ``data`` what the counts show."""
    if vocabulary.file is not None:
        model = Tokenizer.from_file(vocabulary.file).model_proto
    else:
        model = _trained_vocabulary(out, data["splits"], vocabulary.pieces or 0)
    write_file(out / "spiece.model", model)
    data["notes"] += count_notes(data)
    data["warnings"] += [*context_warnings(data), *misnamed_splits(data["splits"])]
    tokenizer, data["unknown_text"], data["caption_tokens"] = Tokenizer(model), {}, {}
    for split in data["splits"]:
        rows = Manifest(out / f"{split}.arrow")
        captions = (text for row in rows.spread(SPELLED_ROWS) for text in row.captions)
        if (lengths := TextLengths.of(tokenizer, captions)) is not None:
            data["caption_tokens"][split] = lengths.counted(BUILT_IN["caption"].max_target_tokens)
        data["warnings"] += equal_targets(rows.spread(SPELLED_ROWS), split)
        counts = UnknownText.of_split(tokenizer, rows, SPELLED_ROWS)
        data["unknown_text"][split] = counts.counted()
        data["warnings"] += filter(None, [counts.warning(f"of the split {split}")])
    write_json(out / "data.json", data)
    return data


def write_rows(
    corpus: str, source: Source, out: Path, probing: Probing, may_be_empty: bool = False
) -> dict[str, Any]:
    """Write the manifests, ``rejected.jsonl`` and the class lists; return what data.json needs.

    An old ``data.json`` is removed before anything else changes. Raises as ``prepare`` does.
    """
    if not source.videos.is_dir():
        raise UserError(f"no directory of videos at {source.videos}; --videos names it")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names a directory to make")
    videos, out = source.videos.absolute(), out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        writer = _Writer(out, files)
        for entry in _checked(source.rows, videos, probing):
            writer.add(entry)
        if not (may_be_empty or any(counts["rows"] for counts in writer.splits.values())):
            raise nothing_left(writer.counts())
        (out / "data.json").unlink(missing_ok=True)
        writer.close()
    for kind in CLASS_KINDS:
        names = source.classes.get(kind) or sorted(writer.classes[kind])
        write_file(out / f"{kind}s.txt", "".join(f"{name}\n" for name in names).encode())
    root = videos if probing.copies is None else probing.copies.absolute()
    signature, unsigned = _signed(root)
    return {
        "format": FORMAT,
        "corpus": corpus,
        "video_root": str(root),
        "video_root_signature": signature,
        **writer.counts(),
        "published": dict(source.published),
        "published_at": source.published_at,
        "tolerance": source.tolerance,
        "context_wanted": source.context,
        "settings": dict(source.settings),
        "notes": list(source.notes),
        "warnings": [*source.warnings, *unsigned],
    }


def _signed(root: Path) -> tuple[str | None, list[str]]:
    """The signature of ``root``; where the user has no place for a key None, and a warning."""
    try:
        return sign(root), []
    except OSError as error:
        return None, [
            f"the folder of the videos could not be signed ({error}): commands that open them will "
            f"ask for --video-root {root}, unless it lies in the data directory"
        ]


class _Writer:
    """A manifest per split and ``rejected.jsonl``, all of which appear when ``files`` closes."""

    def __init__(self, out: Path, files: contextlib.ExitStack):
        self.splits: dict[str, dict[str, int]] = {}
        self.classes: dict[str, set[str]] = {kind: set() for kind in CLASS_KINDS}
        self._reasons: Counter[str] = Counter()
        self._contexts: Counter[str] = Counter()
        self._without_video: Counter[str] = Counter()
        self._out = out
        self._files = files
        self._manifests: dict[str, ManifestWriter] = {}
        self._rejected: IO[bytes] = files.enter_context(atomic_file(out / "rejected.jsonl"))
        self._first_rejected: Rejected | None = None

    def add(self, entry: Entry | Rejected) -> None:
        if entry.split not in self.splits:
            file = self._files.enter_context(atomic_file(self._out / f"{entry.split}.arrow"))
            self._manifests[entry.split] = ManifestWriter(file)
            self.splits[entry.split] = {"rows": 0, "rejected": 0}
        if isinstance(entry, Rejected):
            self.splits[entry.split]["rejected"] += 1
            self._first_rejected = self._first_rejected or entry
            kind = entry.reason.partition(":")[0]
            self._reasons[kind] += 1
            self._without_video[entry.split] += kind in (MISSING_VIDEO, BROKEN_VIDEO)
            self._rejected.write(json_text(vars(entry)).encode() + b"\n")
            return
        self.splits[entry.split]["rows"] += 1
        self._contexts[entry.split] += entry.row.context is not None
        self._manifests[entry.split].add(entry.row)
        for kind, names in self.classes.items():
            if (name := getattr(entry.row, kind)) is not None:
                names.add(name)
            if len(names) > MAX_CLASSES:
                raise UserError(
                    f"{entry.where}: more than {MAX_CLASSES:,} different values of {kind!r}; "
                    "that field is for classes, free text belongs into caption"
                )

    def counts(self) -> dict[str, Any]:
        """Rows, contexts and rows without a video per split, rejected rows per reason, and the
        first of those."""
        first = self._first_rejected
        return {
            "splits": self.splits,
            "contexts": dict(+self._contexts),
            "without_video": dict(+self._without_video),
            "reasons": dict(self._reasons.most_common()),
            "first_rejected": vars(first) if first else None,
        }

    def close(self) -> None:
        for manifest in self._manifests.values():
            manifest.close()


def nothing_left(counts: dict[str, Any]) -> UserError:
    """The error for annotations no row of which can be used."""
    first = counts["first_rejected"]
    if first is None:
        return UserError("the annotations have no rows; expected one clip per line")
    return UserError(
        f"every one of {sum(counts['reasons'].values())} rows was rejected; the first is "
        f"{first['where']}: {first['reason']} (id {first['id']!r}, video {first['video']!r}); "
        "nothing was written: correct the annotations or --videos"
    )


def check_splits(data: dict[str, Any]) -> None:
    """Raise RunFailure where a split has no row left, for lack of videos that can be read."""
    empty = [
        f"{split} ({number:,} rows)"
        for split, number in data["without_video"].items()
        if not data["splits"][split]["rows"]
    ]
    if empty:
        raise RunFailure(
            f"no row is left of {', '.join(empty)}: videos are missing or broken, for the reasons "
            "in rejected.jsonl; the other splits can be used. Correct --videos, or leave those "
            "rows out of the annotations"
        )


# --- what the user should know -------------------------------------------------------------------


def count_notes(data: dict[str, Any]) -> list[str]:
    """Differences between the rows that were found, those published and those left."""
    notes = []
    for split, expected in data["published"].items():
        counts = data["splits"].get(split)
        if counts is None:
            notes.append(
                f"{split}: the annotations have none of its {expected:,} published rows; they are "
                f"at {data['published_at']}"
            )
            continue
        found = counts["rows"] + counts["rejected"]
        if abs(found - expected) > expected * data["tolerance"]:
            what = "more than" if found > expected else "fewer than"
            notes.append(
                f"{split}: the annotations have {found:,} rows, {what} the {expected:,} of the "
                "published files; they are another release, or incomplete"
            )
        if counts["rejected"]:
            notes.append(
                f"{split}: {counts['rejected']:,} of {found:,} rows are left out; what is "
                f"measured on it is measured on {counts['rows']:,}, published results on "
                f"{expected:,}"
            )
    return notes


def context_warnings(data: dict[str, Any]) -> list[str]:
    """One for every split most of whose rows lack the context that others have."""
    warnings = []
    for split, counts in data["splits"].items():
        having = data["contexts"].get(split, 0)
        if having * 2 < counts["rows"] and (having or data["context_wanted"]):
            warnings.append(
                f"{split}: only {having:,} of {counts['rows']:,} rows have a context (subtitles); "
                "results with context would mostly be results without: check the subtitle files"
            )
    return warnings


def misnamed_splits(splits: Iterable[str]) -> list[str]:
    """Splits whose names are most likely those of the splits that training takes, misspelled."""
    warnings = []
    for split in splits:
        name = split.lower()
        meant = OTHER_NAMES.get(name) or next(
            iter(difflib.get_close_matches(name, TRAINED_SPLITS, 1, CLOSE)), None
        )
        if meant is None or split == meant or (meant in splits and name != meant):
            continue
        also = ", beside which there is one" if meant in splits else ""
        warnings.append(
            f"split {split!r}: did you mean {meant!r}{also}? Training takes --train-subset train "
            "and --valid-subset valid unless it is told otherwise"
        )
    return warnings


def equal_targets(rows: Iterable[ClipRow], split: str) -> list[str]:
    """Fields of a split's rows that have one and the same content wherever they have any."""
    first: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    equal = {"captions", *CLASS_KINDS}
    for row in rows:
        for field in list(equal):
            if value := getattr(row, field):
                counts[field] += 1
                if first.setdefault(field, value) != value:
                    equal.remove(field)
    return [
        f"{split}: {field.removesuffix('s')} is {shown(first[field])!r:.80} in all "
        f"{counts[field]:,} rows that were looked at and have one: there is nothing to learn or to "
        "measure in it"
        for field in sorted(equal)
        if counts[field] >= LEAST_EQUAL
    ]


def shown(value: str | tuple[str, ...]) -> str:
    """A text, or the first of several."""
    return value if isinstance(value, str) else value[0]


# --- checks --------------------------------------------------------------------------------------


def _checked(
    rows: Iterable[Entry | Rejected], videos: Path, probing: Probing
) -> Iterator[Entry | Rejected]:
    """``rows`` in their order, with what the checks and the videos themselves reject."""
    rows = (check_row(entry, videos) for entry in rows)
    if not probing.probe:
        yield from tqdm.tqdm(rows, desc="reading", unit="row", unit_scale=True, disable=None)
        return
    durations: dict[str, float | str | None] = {}
    probe = functools.partial(_probed, videos, probing)
    what = "copying videos" if probing.copies else "probing videos"
    packed = None
    if probing.copies is not None and probing.tar:
        packed = TarShards(probing.copies, probing.tar_folder, probing.tar, probing.short_side)
    with (
        packed or contextlib.nullcontext(),
        ThreadPoolExecutor(probing.workers) as pool,
        tqdm.tqdm(desc=what, unit="video", total=0, disable=None) as bar,
    ):
        try:
            while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
                named = (entry.row.video for entry in chunk if isinstance(entry, Entry))
                new = [video for video in dict.fromkeys(named) if video not in durations]
                if packed:
                    durations |= packed.seconds(new, videos)
                    new = [video for video in new if video not in durations]
                bar.total += len(new)
                for video, duration in zip(new, pool.map(probe, new), strict=True):
                    durations[video] = duration
                    bar.update()
                if packed:
                    _pack(packed, chunk, {v: durations[v] for v in new}, videos, probing)
                for entry in chunk:
                    if isinstance(entry, Entry):
                        place = packed.places.get(entry.row.video) if packed else None
                        probed = durations[entry.row.video]
                        entry = _with_video(entry, probed, videos, probing, place)
                    yield entry
                if packed is None:  # of members of tar files, one per row, nothing is remembered
                    for video in filter(member_of, new):
                        del durations[video]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the videos in the queue
            raise


def _pack(
    packed: TarShards,
    chunk: list[Entry | Rejected],
    new: dict[str, float | str | None],
    videos: Path,
    probing: Probing,
) -> None:
    """Put the copies of ``new`` videos, by their durations, into tar files."""
    assert probing.copies is not None
    rows: dict[str, list[ClipRow]] = {video: [] for video in new}
    for entry in chunk:
        if isinstance(entry, Entry) and entry.row.video in rows:
            rows[entry.row.video].append(entry.row)
    for video, seconds in new.items():
        if isinstance(seconds, float):
            copy = probing.copies / copy_name(video, videos)
            packed.add(video, videos, copy, seconds, rows[video])


def _with_video(
    entry: Entry,
    probed: float | str | None,
    videos: Path,
    probing: Probing,
    place: str | None = None,
) -> Entry | Rejected:
    """``entry`` after ``_probed``: with the copy's name where there is one, or rejected."""
    if isinstance(probed, str):
        return reject(entry, probed)
    start = entry.row.start or 0.0
    if probed is not None and start >= probed:
        return reject(entry, f"starts after the end: start {start} s, the video has {probed:.3f} s")
    if probing.copies is None:
        return entry
    name = place or copy_name(entry.row.video, videos)
    return replace(entry, row=replace(entry.row, video=name))


def _probed(videos: Path, probing: Probing, video: str) -> float | str | None:
    """Duration in seconds, None when the file does not say; or the reason to reject it.

    With ``probing.copies`` it is the copy's, which is made unless it is there.
    """
    # Loads FFmpeg, which --skip-probe does without.
    from vt_fairseq.corpora.transcode import transcode
    from vt_fairseq.video.boundary import Boundary, OutsideError
    from vt_fairseq.video.decoding import probe

    path = videos / video
    boundary = None if probing.follow_links else Boundary(videos, FOLLOW_LINKS)
    # Unlike Path.exists, False too for a name that is too long.
    if not os.path.exists(file_of(path)):
        beside = similar_file(path, boundary)
        return f"{MISSING_VIDEO}: there is no such file{f', but {beside}' if beside else ''}"
    try:
        if probing.copies is None:
            return probe(path, boundary)
        target = probing.copies / copy_name(video, videos)
        return transcode(path, target, probing.short_side, boundary)
    except OutsideError as error:
        return str(error)
    except VideoError as error:
        return f"{BROKEN_VIDEO}: {error}"


# --- vocabulary ----------------------------------------------------------------------------------


def check_vocabulary(source: Source, pieces: int) -> None:
    """Raise UserError where no vocabulary of so many pieces can be trained on ``source``'s texts.

    It reads at most VOCABULARY_ROWS rows for training and opens no video: better to know before
    all of them have been copied.
    """
    splits: dict[str, dict[str, int]] = {}
    texts: list[str] = []
    for entry in (check_row(one, source.videos) for one in source.rows):
        if isinstance(entry, Entry):
            counts = splits.setdefault(entry.split, {"rows": 0})
            counts["rows"] += 1
            if entry.split == DEFAULT_SPLIT:
                texts += texts_of(entry.row)
                if counts["rows"] == VOCABULARY_ROWS:
                    break
    if splits:
        _require_training_rows(splits)
        with naming("--train-vocabulary"):
            check_size([*PROMPT_TEXTS, *texts], pieces)


def _require_training_rows(splits: dict[str, dict[str, int]]) -> None:
    if not splits.get(DEFAULT_SPLIT, {}).get("rows"):
        hints = "".join(f" ({hint})" for hint in misnamed_splits(splits))
        raise UserError(
            f"--train-vocabulary needs rows in the split {DEFAULT_SPLIT!r}; "
            f"found the splits {', '.join(splits)}{hints}: give --vocabulary spiece.model"
        )


def _trained_vocabulary(out: Path, splits: dict[str, dict[str, int]], pieces: int) -> bytes:
    _require_training_rows(splits)
    rows = Manifest(out / f"{DEFAULT_SPLIT}.arrow").spread(VOCABULARY_ROWS)
    with naming("--train-vocabulary"):
        return train_vocabulary(_training_texts(rows), pieces)


def _training_texts(rows: Iterable[ClipRow]) -> Iterator[str]:
    for row in rows:
        yield from PROMPT_TEXTS
        for text in texts_of(row):
            yield from _short(text)


def _short(text: str) -> Iterator[str]:
    """``text`` in parts of whole words that the trainer accepts."""
    while len(text) > TEXT_CHUNK:
        cut = text.rfind(" ", 0, TEXT_CHUNK) + 1 or TEXT_CHUNK
        yield text[:cut]
        text = text[cut:]
    yield text
