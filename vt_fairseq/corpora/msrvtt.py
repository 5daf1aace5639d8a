"""MSR-VTT (Xu et al. 2016): captioning, and the retrieval splits in use on it.

=================== ===========================================================================
train, valid, test  the official split, every video with its 20 captions
retrieval           1k-A (JSFusion): 1,000 videos of test with one caption each, in its order
train_7k, train_9k  the training lists that go with 1k-A, with all captions of the videos
=================== ===========================================================================

The files are the clips: "start time" and "end time" are those of the YouTube video and of no use.
"""

from collections.abc import Iterator
from pathlib import Path

from vt_fairseq.corpora.files import (
    VideoFinder,
    csv_records,
    expect,
    find_file,
    find_files,
    get,
    json_document,
    none_of,
    text,
)
from vt_fairseq.corpora.rows import Entry, Rejected, Source, reject, unique
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError

PUBLISHED = {"train": 6_513, "valid": 497, "test": 2_990}
PUBLISHED_LISTS = {"retrieval": 1_000, "train_7k": 7_010, "train_9k": 9_000}
PUBLISHED_AT = "ms-multimedia-challenge.com (2017) and with the code of most retrieval papers"
INFO_FILES = (
    *("videodatainfo_2017.json", "MSRVTT_data.json"),
    *("train_val_videodatainfo.json", "test_videodatainfo.json"),
)
TEST_CAPTIONS_FILE = "msrvtt_caption_test.json"
RETRIEVAL_FILES = ("MSRVTT_JSFUSION_test.csv", "msrvtt_test.csv")
TRAIN_LISTS = {"train_7k": "MSRVTT_train.7k.csv", "train_9k": "MSRVTT_train.9k.csv"}
SPLITS = {"train": "train", "validate": "valid", "val": "valid", "test": "test"}
CAPTIONS = 20


Splits = dict[str, str]
"""Video id -> split, in the order of the info files."""
Captions = dict[str, list[str]]
"""Video id -> its captions."""


def open_corpus(annotations: Path, videos: Path) -> Source:
    """The corpus in its official files; raise UserError for a missing or wrong one."""
    splits, captions = read_captions(annotations)
    retrieval = find_file(annotations, *RETRIEVAL_FILES)
    lists = {split: read_list(path) for split, path in find_files(annotations, TRAIN_LISTS).items()}
    there = {"retrieval", *lists} if retrieval else set(lists)
    return Source(
        rows=unique(_rows(splits, captions, retrieval, lists, VideoFinder(videos))),
        videos=videos,
        published=PUBLISHED | {s: n for s, n in PUBLISHED_LISTS.items() if s in there},
        published_at=PUBLISHED_AT,
        notes=_caption_counts(splits, captions),
        warnings=_overlaps(splits, lists),
    )


def read_captions(annotations: Path) -> tuple[Splits, Captions]:
    """Splits and captions of all info files in the directory; at least one must be there.

    A video has the captions of the first file that has any for it.
    """
    splits: Splits = {}
    captions: Captions = {}
    for path in (annotations / name for name in INFO_FILES):
        if path.is_file():
            _read_info(path, splits, captions)
    path = annotations / TEST_CAPTIONS_FILE
    if path.is_file() and "test" not in splits.values():
        _read_test_captions(path, splits, captions)
    if not splits:
        raise none_of((*INFO_FILES, TEST_CAPTIONS_FILE), annotations, PUBLISHED_AT)
    return splits, captions


def _read_info(path: Path, splits: Splits, captions: Captions) -> None:
    document = expect(json_document(path), dict, path.name, "the file")
    for index, video in enumerate(get(document, "videos", list, path.name)):
        where = f"{path.name} videos[{index}]"
        split = get(expect(video, dict, where, "the video"), "split", str, where)
        if split not in SPLITS:
            raise UserError(f"{where}: expected split {', '.join(SPLITS)}, found {split!r}")
        splits[text(video, "video_id", where)] = SPLITS[split]
    known = set(captions)  # the files of 2016 and 2017 have the same videos
    # Not sorted by video in the official file.
    for index, sentence in enumerate(get(document, "sentences", list, path.name)):
        where = f"{path.name} sentences[{index}]"
        name = text(expect(sentence, dict, where, "the sentence"), "video_id", where)
        caption = " ".join(get(sentence, "caption", str, where).split())
        if caption and name not in known:
            captions.setdefault(name, []).append(caption)


def _read_test_captions(path: Path, splits: Splits, captions: Captions) -> None:
    """The test set alone, as ``[{"video": "video7010.mp4", "caption": [20 texts]}, ...]``."""
    for index, video in enumerate(expect(json_document(path), list, path.name, "the file")):
        where = f"{path.name} item {index}"
        name = text(expect(video, dict, where, "the item"), "video", where).removesuffix(".mp4")
        splits[name] = "test"
        texts = (expect(c, str, where, "a caption") for c in get(video, "caption", list, where))
        captions[name] = [" ".join(caption.split()) for caption in texts if caption.strip()]


def read_list(path: Path) -> list[tuple[str, str]]:
    """(where, video id) of a training list."""
    return [
        (where, text(record, "video_id", where))
        for where, record in csv_records(path, ["video_id"])
    ]


def _rows(
    splits: Splits,
    captions: Captions,
    retrieval: Path | None,
    lists: dict[str, list[tuple[str, str]]],
    videos: VideoFinder,
) -> Iterator[Entry | Rejected]:
    named = [(split, name, f"video {name}") for name, split in splits.items()]
    named += [(split, name, where) for split, listed in lists.items() for where, name in listed]
    for split, name, where in named:
        row = ClipRow(name, _video(videos, name), captions=tuple(captions.get(name, ())))
        entry = Entry(split, row, where)
        missing = "no caption: the info files have none for it"
        yield entry if row.captions else reject(entry, missing)
    if retrieval is not None:
        for where, record in csv_records(retrieval, ("key", "vid_key", "video_id", "sentence")):
            name = text(record, "video_id", where)
            sentence = text(record, "sentence", where)
            row = ClipRow(name, _video(videos, name), captions=(sentence,))
            yield Entry("retrieval", row, where)


def _video(videos: VideoFinder, name: str) -> str:
    return videos.find(name, f"TrainValVideo/{name}", f"TestVideo/{name}", f"all/{name}")


def _caption_counts(splits: Splits, captions: Captions) -> list[str]:
    other = sum(len(captions.get(name, ())) not in (0, CAPTIONS) for name in splits)
    return [f"{other:,} videos have another number of captions than {CAPTIONS}"] if other else []


def _overlaps(splits: Splits, lists: dict[str, list[tuple[str, str]]]) -> list[str]:
    """A warning per training list that holds videos of the official test set."""
    shared = {
        split: sum(splits.get(name) == "test" for _, name in listed)
        for split, listed in lists.items()
    }
    return [
        f"{split}: {count:,} of its videos are in the official test set; a model that "
        "is trained on it must not be scored on the split test, only on retrieval"
        for split, count in shared.items()
        if count
    ]
