"""The annotation files of the six corpora, written about a MiniWorld instead of the real videos.

One function a corpus: from a ``World`` to the text of each file by its official name, with the
official columns, keys and quirks.
"""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vt_fairseq.miniworld.rendering import ACTIONS, COLORS, SHAPES, SIDE
from vt_fairseq.miniworld.texts import ALL, label
from vt_fairseq.miniworld.world import FPS

SHOWS = {  # by the prefix of the names of their clips; The Big Bang Theory's have none
    "": "The Big Bang Theory",
    "friends_": "Friends",
    "castle_": "Castle",
    "house_": "House M.D.",
    "grey_": "Grey's Anatomy",
    "met_": "How I Met You Mother",
}
RECIPE_TYPE = "101"  # of every video of YouCook2
SHOW_SPLITS = ("train", "valid", "test")
EPIC_FRAMES_PER_SECOND = 60  # of the frame numbers in EPIC-Kitchens' files
Row = dict[str, Any]


@dataclass(frozen=True)
class World:
    """What the annotation files are about.

    Attributes:
        ids: the corpus's name of each video, by MiniWorld's.
        seconds: length of each video, by MiniWorld's name.
        rows: MiniWorld's own rows of each split.
    """

    ids: dict[str, str]
    seconds: dict[str, float]
    rows: dict[str, list[Row]]

    def of(self, *splits: str) -> list[Row]:
        """The rows of some splits, in order."""
        return [row for split in splits for row in self.rows.get(split, [])]

    def grouped(self, *splits: str) -> dict[str, list[Row]]:
        """The same, by MiniWorld's name of their video."""
        groups: dict[str, list[Row]] = {}
        for row in self.of(*splits):
            groups.setdefault(row["group"], []).append(row)
        return groups


def _csv(header: str, rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([header.split(","), *rows])
    return file.getvalue()


def _jsonl(records: Iterable[Row]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# --- HowTo100M ------------------------------------------------------------------------------------

_TASKS = tuple(label(combination) for combination in ALL)


def howto100m(world: World) -> dict[str, str]:
    """Narrations by video, and the one activity of each video."""
    spoken = {world.ids[name]: rows for name, rows in world.grouped("pretrain").items()}
    captions = {
        video: {
            "text": [row["caption"][0] for row in rows],
            "start": [row["start"] for row in rows],
            "end": [row["end"] for row in rows],
        }
        for video, rows in spoken.items()
    }
    videos = [
        (video, "Toys", "Shapes", rank, _TASKS.index(rows[0]["label"]))
        for rank, (video, rows) in enumerate(spoken.items(), 1)
    ]
    return {
        "raw_caption.json": json.dumps(captions),
        "HowTo100M_v1.csv": _csv("video_id,category_1,category_2,rank,task_id", videos),
        "task_ids.csv": "".join(f"{number}\t{task}\n" for number, task in enumerate(_TASKS)),
    }


# --- EPIC-Kitchens-55 -----------------------------------------------------------------------------

_VERBS = tuple(ACTIONS)
_NOUNS = ("Nothing", *(f"{shape}:{color}" for shape in SHAPES for color in COLORS))
_SEGMENT = "uid,participant_id,video_id,"
_TIMES = "start_timestamp,stop_timestamp,start_frame,stop_frame"


def epic_kitchens(world: World) -> dict[str, str]:
    """Labeled segments, the classes by number, and the times of both test sets."""
    train = world.of("train", "valid")
    test = {"s1": world.of("test"), "s2": world.of("novel")}
    uids = {row["id"]: uid for uid, row in enumerate([*train, *test["s1"], *test["s2"]])}
    labeled = (
        [*_segment(world, uids, row), row["caption"][0], *_times(row), *_classes(row)]
        for row in train
    )
    columns = "verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    info = (
        (world.ids[name], f"{SIDE}x{SIDE}", seconds, FPS) for name, seconds in world.seconds.items()
    )
    return {
        "EPIC_train_action_labels.csv": _csv(f"{_SEGMENT}narration,{_TIMES},{columns}", labeled),
        "EPIC_verb_classes.csv": _csv("verb_id,class_key,verbs", _class_list(_VERBS)),
        "EPIC_noun_classes.csv": _csv("noun_id,class_key,nouns", _class_list(_NOUNS)),
        "EPIC_video_info.csv": _csv("video,resolution,duration,fps", info),
        **_many_shot(train),
        **{
            f"EPIC_test_{name}_timestamps.csv": _csv(
                _SEGMENT + _TIMES, ([*_segment(world, uids, row), *_times(row)] for row in rows)
            )
            for name, rows in test.items()
        },
    }


def _segment(world: World, uids: dict[str, int], row: Row) -> list[Any]:
    video = world.ids[row["group"]]
    return [uids[row["id"]], video.partition("_")[0], video]


def _times(row: Row) -> list[Any]:
    times = (row["start"], row["end"])
    return [*map(_timestamp, times), *(round(t * EPIC_FRAMES_PER_SECOND) + 1 for t in times)]


def _timestamp(seconds: float) -> str:
    """00:00:03.37"""
    hundredths = round(seconds * 100)
    minutes, hundredths = divmod(hundredths, 6000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}"


def _noun_key(row: Row) -> str:
    color, shape = row["noun"].split()
    return f"{shape}:{color}"


def _classes(row: Row) -> list[Any]:
    noun = _noun_key(row)
    verb_class, noun_class = _VERBS.index(row["verb"]), _NOUNS.index(noun)
    return [row["verb"], verb_class, noun, noun_class, [noun], [noun_class]]


def _class_list(keys: Iterable[str]) -> Iterator[list[Any]]:
    return ([number, key, [key]] for number, key in enumerate(keys))


def _many_shot(train: list[Row]) -> dict[str, str]:
    """The classes that occur often; here every one that occurs."""
    pairs = Counter((row["verb"], _noun_key(row)) for row in train)
    verbs, nouns = ({pair[k]: None for pair in pairs} for k in (0, 1))
    actions = ([(_VERBS.index(v), _NOUNS.index(n)), n, _NOUNS.index(n), v, _VERBS.index(v)]
               for v, n in pairs)  # fmt: skip
    return {
        "EPIC_many_shot_verbs.csv": _csv("verb_class,verb", ((_VERBS.index(v), v) for v in verbs)),
        "EPIC_many_shot_nouns.csv": _csv("noun_class,noun", ((_NOUNS.index(n), n) for n in nouns)),
        "EPIC_many_shot_actions.csv": _csv("action_class,noun,noun_class,verb,verb_class", actions),
    }


# --- TVQA and TVC ---------------------------------------------------------------------------------


def show_prefix(clip: str) -> str:
    """The key of SHOWS that a clip's name begins with."""
    return next(prefix for prefix in reversed(SHOWS) if clip.startswith(prefix))


def tvqa(world: World) -> dict[str, str]:
    """Questions with the times they are about; the test questions have no answer."""
    names = ("tvqa_train", "tvqa_val", "tvqa_test_public")
    return _show_files(world, names, _tvqa_question)


def tvc(world: World) -> dict[str, str]:
    """Moments with descriptions; the test moments have none."""
    names = ("tvc_train_release", "tvc_val_release", "tvc_test_public_release")
    return _show_files(world, names, _tvc_moment)


def _show_files(
    world: World, names: Iterable[str], record: Callable[[World, Row, int], Row]
) -> dict[str, str]:
    numbers = itertools.count()
    files = {
        f"{name}.jsonl": _jsonl(record(world, row, next(numbers)) for row in world.of(split))
        for split, name in zip(SHOW_SPLITS, names, strict=True)
    }
    return files | {"tvqa_preprocessed_subtitles.jsonl": _subtitles(world)}


def _subtitles(world: World) -> str:
    """Two lines a clip, each for half of its time."""
    return _jsonl(
        {"vid_name": world.ids[name], "sub": [line for row in rows for line in _lines(row)]}
        for name, rows in world.grouped(*SHOW_SPLITS).items()
    )


def _lines(row: Row) -> Iterator[Row]:
    first, second = row["context"].split(" . ")
    middle = round((row["start"] + row["end"]) / 2, 2)
    yield {"text": f"{first} .", "start": row["start"], "end": middle}
    yield {"text": second, "start": middle, "end": row["end"]}


def _tvqa_question(world: World, row: Row, number: int) -> Row:
    clip = world.ids[row["group"]]
    record = {f"a{k}": text for k, text in enumerate(row["candidates"])} | {
        "q": row["question"],
        "qid": number,
        "show_name": SHOWS[show_prefix(clip)],
        "ts": f"{row['start']}-{row['end']}",
        "vid_name": clip,
    }
    return record if row["split"] == "test" else record | {"answer_idx": row["answer"]}


def _tvc_moment(world: World, row: Row, number: int) -> Row:
    record = {
        "vid_name": world.ids[row["group"]],
        "duration": world.seconds[row["group"]],
        "ts": [row["start"], row["end"]],
        "clip_id": number,
    }
    if row["split"] == "test":
        return record
    descriptions = [
        {"desc": text, "type": "v", "from_retrieval": k == 0, "desc_id": 10 * number + k}
        for k, text in enumerate(row["caption"])
    ]
    return record | {"descs": descriptions}


# --- YouCook2 -------------------------------------------------------------------------------------


def youcook2(world: World) -> dict[str, str]:
    """Both subsets in one file, and HowTo100M's list of the validation clips."""
    database = {}
    for split, subset in (("train", "training"), ("retrieval", "validation")):
        for name, rows in world.grouped(split).items():
            database[world.ids[name]] = {
                "duration": world.seconds[name],
                "subset": subset,
                "recipe_type": RECIPE_TYPE,
                "annotations": [
                    {"segment": [row["start"], row["end"]], "id": k, "sentence": row["caption"][0]}
                    for k, row in enumerate(rows)
                ],
                "video_url": f"https://www.youtube.com/watch?v={world.ids[name]}",
            }
    clips = (
        (row["end"], row["start"], RECIPE_TYPE, row["caption"][0], world.ids[row["group"]])
        for row in world.of("retrieval")
    )
    return {
        "youcookii_annotations_trainval.json": json.dumps({"database": database}),
        "validation_youcook.csv": _csv("end,start,task,text,video_id", clips),
    }


# --- MSR-VTT --------------------------------------------------------------------------------------


def msrvtt(world: World) -> dict[str, str]:
    """Captions of whole videos; the 1k-A list of text and video; the lists of training videos."""

    def videos(*splits: str) -> list[list[str]]:
        return [[world.ids[row["group"]]] for row in world.of(*splits)]

    gallery = (
        (f"ret{k}", video.replace("video", "msr"), video, row["caption"][0])
        for k, row in enumerate(world.of("retrieval"))
        for video in [world.ids[row["group"]]]
    )
    train = {"train": world.of("train"), "validate": world.of("valid")}
    return {
        "train_val_videodatainfo.json": _videodatainfo(world, train),
        "test_videodatainfo.json": _videodatainfo(world, {"test": world.of("test", "retrieval")}),
        "MSRVTT_JSFUSION_test.csv": _csv("key,vid_key,video_id,sentence", gallery),
        "MSRVTT_train.7k.csv": _csv("video_id", videos("train", "valid")),
        "MSRVTT_train.9k.csv": _csv("video_id", videos("train", "valid", "test")),
    }


def _videodatainfo(world: World, splits: dict[str, list[Row]]) -> str:
    """Sentences unsorted, as there; the times are those of the clip within its source."""
    videos = [
        {
            "category": 9,
            "url": f"https://www.youtube.com/watch?v={world.ids[row['group']]}",
            "video_id": world.ids[row["group"]],
            "start time": 100.0,
            "end time": 100.0 + world.seconds[row["group"]],
            "split": split,
            "id": int(world.ids[row["group"]].removeprefix("video")),
        }
        for split, rows in splits.items()
        for row in rows
    ]
    rows = [row for of_split in splits.values() for row in of_split]
    texts = [(row, text) for k in range(3) for row in rows for text in row["caption"][k : k + 1]]
    sentences = [
        {"caption": text, "video_id": world.ids[row["group"]], "sen_id": number}
        for number, (row, text) in enumerate(texts)
    ]
    info = {"contributor": "MiniWorld", "version": "2.0"}
    return json.dumps({"info": info, "videos": videos, "sentences": sentences})
