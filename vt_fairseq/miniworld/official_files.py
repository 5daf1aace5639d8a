"""The annotation files of the six corpora, written about a MiniWorld instead of the real videos.

One function per corpus: from a ``World`` to the text of each file by its official name, with the
official columns, keys and quirks.
"""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from vt_fairseq.miniworld.rendering import ACTIONS, COLORS, SHAPES
from vt_fairseq.miniworld.texts import ALL, label

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
Annotation = dict[str, Any]


@dataclass(frozen=True)
class World:
    """MiniWorld's rows of each split, with ``name`` and ``seconds`` of their video besides.

    ``name`` is what the corpus would call the video, without folder and suffix.
    """

    rows: dict[str, list[Annotation]]

    def of(self, *splits: str) -> list[Annotation]:
        """The rows of some splits, in order."""
        return [row for split in splits for row in self.rows.get(split, [])]

    def videos(self, *splits: str) -> dict[str, list[Annotation]]:
        """The same by their video's ``name``; without ``splits`` those of all."""
        videos: dict[str, list[Annotation]] = {}
        for row in self.of(*splits or self.rows):
            videos.setdefault(row["name"], []).append(row)
        return videos


def _csv(header: str, rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([header.split(","), *rows])
    return file.getvalue()


def _jsonl(records: Iterable[Annotation]) -> str:
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


# --- HowTo100M ------------------------------------------------------------------------------------

_TASKS = tuple(label(combination) for combination in ALL)


def howto100m(world: World) -> dict[str, str]:
    """Narrations by video, and the one activity of each video."""
    spoken = world.videos("pretrain")
    captions = {
        name: {
            "text": [row["caption"][0] for row in rows],
            "start": [row["start"] for row in rows],
            "end": [row["end"] for row in rows],
        }
        for name, rows in spoken.items()
    }
    videos = [
        (name, "Toys", "Shapes", rank, _TASKS.index(rows[0]["label"]))
        for rank, (name, rows) in enumerate(spoken.items(), 1)
    ]
    return {
        "raw_caption.json": json.dumps(captions, allow_nan=False),
        "HowTo100M_v1.csv": _csv("video_id,category_1,category_2,rank,task_id", videos),
        "task_ids.csv": "".join(f"{number}\t{task}\n" for number, task in enumerate(_TASKS)),
    }


# --- EPIC-Kitchens-55 -----------------------------------------------------------------------------

_CLASSES = {
    "verb": ACTIONS,
    "noun": ("Nothing", *(f"{shape}:{color}" for shape in SHAPES for color in COLORS)),
}
_SEGMENT = "uid,participant_id,video_id,"
_TIMES = "start_timestamp,stop_timestamp,start_frame,stop_frame"
_LABELS = "verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"


def epic_kitchens(world: World) -> dict[str, str]:
    """Labeled segments, the classes by number, and the times of both test sets."""
    segments = list(enumerate(world.of("train", "valid", "test", "novel")))
    labeled = (
        [*_epic_video(uid, row), row["caption"][0], *_epic_times(row), *_epic_labels(row)]
        for uid, row in segments
        if row["split"] in ("train", "valid")
    )
    files = {
        "EPIC_train_action_labels.csv": _csv(f"{_SEGMENT}narration,{_TIMES},{_LABELS}", labeled)
    }
    for kind, keys in _CLASSES.items():
        classes = ([number, key, [key]] for number, key in enumerate(keys))
        files[f"EPIC_{kind}_classes.csv"] = _csv(f"{kind}_id,class_key,{kind}s", classes)
    for name, split in (("s1", "test"), ("s2", "novel")):
        test = ((uid, row) for uid, row in segments if row["split"] == split)
        times = ([*_epic_video(uid, row), *_epic_times(row)] for uid, row in test)
        files[f"EPIC_test_{name}_timestamps.csv"] = _csv(_SEGMENT + _TIMES, times)
    return files


def _epic_video(uid: int, row: Annotation) -> list[Any]:
    return [uid, row["name"].partition("_")[0], row["name"]]


def _epic_times(row: Annotation) -> list[Any]:
    times = (row["start"], row["end"])
    return [*map(_timestamp, times), *(round(t * EPIC_FRAMES_PER_SECOND) + 1 for t in times)]


def _timestamp(seconds: float) -> str:
    """00:00:03.37"""
    minutes, hundredths = divmod(round(seconds * 100), 6000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}"


def _epic_labels(row: Annotation) -> list[Any]:
    verb, noun = row["verb"], ":".join(reversed(row["noun"].split()))
    noun_class = _CLASSES["noun"].index(noun)
    return [verb, _CLASSES["verb"].index(verb), noun, noun_class, [noun], [noun_class]]


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
    world: World, names: Iterable[str], record: Callable[[Annotation, int], Annotation]
) -> dict[str, str]:
    counter = itertools.count()
    files = {
        f"{name}.jsonl": _jsonl(record(row, next(counter)) for row in world.of(split))
        for split, name in zip(SHOW_SPLITS, names, strict=True)
    }
    subtitles = (
        {"vid_name": name, "sub": [line for row in rows for line in _subtitles(row)]}
        for name, rows in world.videos(*SHOW_SPLITS).items()
    )
    return files | {"tvqa_preprocessed_subtitles.jsonl": _jsonl(subtitles)}


def _subtitles(row: Annotation) -> Iterator[Annotation]:
    """Two lines, each for half of the time."""
    first, second = row["context"].split(" . ")
    middle = round((row["start"] + row["end"]) / 2, 2)
    yield {"text": f"{first} .", "start": row["start"], "end": middle}
    yield {"text": second, "start": middle, "end": row["end"]}


def _tvqa_question(row: Annotation, number: int) -> Annotation:
    record = {f"a{k}": text for k, text in enumerate(row["candidates"])} | {
        "q": row["question"],
        "qid": number,
        "show_name": SHOWS[show_prefix(row["name"])],
        "ts": f"{row['start']}-{row['end']}",
        "vid_name": row["name"],
    }
    return record if row["split"] == "test" else record | {"answer_idx": row["answer"]}


def _tvc_moment(row: Annotation, number: int) -> Annotation:
    record = {
        "vid_name": row["name"],
        "duration": row["seconds"],
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
    database = {
        name: {
            "duration": rows[0]["seconds"],
            "subset": subset,
            "recipe_type": RECIPE_TYPE,
            "annotations": [
                {"segment": [row["start"], row["end"]], "id": k, "sentence": row["caption"][0]}
                for k, row in enumerate(rows)
            ],
            "video_url": f"https://www.youtube.com/watch?v={name}",
        }
        for split, subset in (("train", "training"), ("retrieval", "validation"))
        for name, rows in world.videos(split).items()
    }
    clips = (
        (row["end"], row["start"], RECIPE_TYPE, row["caption"][0], row["name"])
        for row in world.of("retrieval")
    )
    return {
        "youcookii_annotations_trainval.json": json.dumps({"database": database}, allow_nan=False),
        "validation_youcook.csv": _csv("end,start,task,text,video_id", clips),
    }


# --- MSR-VTT --------------------------------------------------------------------------------------


def msrvtt(world: World) -> dict[str, str]:
    """Captions of whole videos; the 1k-A list of text and video; the lists of training videos."""
    gallery = (
        (f"ret{k}", row["name"].replace("video", "msr"), row["name"], row["caption"][0])
        for k, row in enumerate(world.of("retrieval"))
    )
    seven = [[row["name"]] for row in world.of("train", "valid")]
    nine = [[row["name"]] for row in world.of("train", "valid", "test")]
    return {
        "train_val_videodatainfo.json": _videodatainfo(world.of("train", "valid")),
        "test_videodatainfo.json": _videodatainfo(world.of("test", "retrieval")),
        "MSRVTT_JSFUSION_test.csv": _csv("key,vid_key,video_id,sentence", gallery),
        "MSRVTT_train.7k.csv": _csv("video_id", seven),
        "MSRVTT_train.9k.csv": _csv("video_id", nine),
    }


def _videodatainfo(rows: list[Annotation]) -> str:
    """Sentences unsorted, as there; the times are those of the clip within its source."""
    splits = {"valid": "validate", "retrieval": "test"}
    videos = [
        {
            "category": 9,
            "url": f"https://www.youtube.com/watch?v={row['name']}",
            "video_id": row["name"],
            "start time": 100.0,
            "end time": 100.0 + row["seconds"],
            "split": splits.get(row["split"], row["split"]),
            "id": int(row["name"].removeprefix("video")),
        }
        for row in rows
    ]
    texts = [(row, text) for k in range(3) for row in rows for text in row["caption"][k : k + 1]]
    sentences = [
        {"caption": text, "video_id": row["name"], "sen_id": number}
        for number, (row, text) in enumerate(texts)
    ]
    info = {"contributor": "MiniWorld", "version": "2.0"}
    return json.dumps({"info": info, "videos": videos, "sentences": sentences}, allow_nan=False)
