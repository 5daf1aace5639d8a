"""HowTo100M: narrations from every layout they come in, streamed; activities; widened clips."""

import json
import resource
from pathlib import Path

import pytest

from tests.corpora import rejected, rows
from vt_fairseq.corpora import files
from vt_fairseq.corpora.howto100m import open_corpus, read_tasks, widened
from vt_fairseq.corpora.rows import Entry, Rejected, check_row
from vt_fairseq.errors import UserError

NARRATIONS = {
    "nVbIUDjzWY4": {
        "text": ["ride the bike", "turn left"], "start": [1.5, 10.0], "end": [7.0, 12.0],
    },
    "-kjnR3-ZVts": {"text": ["pour  it"], "start": [0.5], "end": [1.5]},
}  # fmt: skip
TABLE = (
    "video_id,category_1,category_2,rank,task_id\n"
    "nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907\n"
    "-kjnR3-ZVts,Food and Entertaining,Drinks,6,25938\n"
)
TASKS = {52907: "Ride a Motorcycle", 25938: "Make Tea, Hot"}


def write(folder: Path, layout: str = "raw_caption.json") -> Path:
    (folder / "HowTo100M_v1.csv").write_text(TABLE)
    lines = (f"{number}\t{name}\n" for number, name in TASKS.items())
    (folder / "task_ids.csv").write_text("".join(lines))
    if layout.endswith(".json"):
        (folder / layout).write_text(json.dumps(NARRATIONS))
        return folder
    (folder / layout).mkdir()
    for name, columns in NARRATIONS.items():
        clips = (f"{s},{e},{t}\n" for t, s, e in zip(*columns.values(), strict=True))
        (folder / layout / f"{name}.csv").write_text("start,end,text\n" + "".join(clips))
    return folder


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["raw_caption.json", "caption.json", "howto100m_captions"])
def test_narrations_become_captions_and_activities_labels(tmp_path, layout):
    source = open_corpus(write(tmp_path, layout), tmp_path)
    found = {row.id: row for row in rows(source)["train"]}
    assert set(found) == {"nVbIUDjzWY4_0", "nVbIUDjzWY4_1", "-kjnR3-ZVts_0"}
    row = found["nVbIUDjzWY4_0"]
    assert (row.video, row.start, row.end) == ("nVbIUDjzWY4.mp4", 1.5, 7.0)
    assert (row.captions, row.label) == (("ride the bike",), "Ride a Motorcycle")
    row = found["-kjnR3-ZVts_0"]
    assert (row.start, row.end) == (0.0, 4.0)
    assert (row.captions, row.label) == (("pour it",), "Make Tea, Hot")
    warned = [note for note in source.notes if "stop words" in note]
    assert bool(warned) == (layout == "caption.json")
    assert source.notes[-1].startswith("2 videos have narrations, about 1,220,000 are published; 0")


def test_the_unprocessed_narrations_are_preferred(tmp_path):
    folder = write(tmp_path)
    (folder / "caption.json").write_text("{}")
    assert open_corpus(folder, tmp_path).settings["narrations"] == "raw_caption.json"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (10.0, 14.0, (10.0, 14.0)),
        (10.0, 30.0, (10.0, 30.0)),
        (10.0, 12.0, (9.0, 13.0)),
        (10.0, 10.0, (8.0, 12.0)),
        (0.5, 1.5, (0.0, 4.0)),
        (3.0, 2.0, (3.0, 2.0)),  # left for the common checks to reject
    ],
)
def test_short_clips_are_widened_on_both_sides(start, end, expected):
    assert widened(start, end) == pytest.approx(expected)


def test_a_video_without_a_task_has_no_label_and_is_counted(tmp_path):
    folder = write(tmp_path)
    (folder / "HowTo100M_v1.csv").write_text(TABLE.rsplit("\n", 2)[0] + "\n")
    source = open_corpus(folder, tmp_path)
    labels = {row.label for row in rows(source)["train"]}
    assert labels == {"Ride a Motorcycle", None}
    assert source.notes[-1].endswith("1 of them have no activity")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1], "bad narration: expected an object, found [1]"),
        ({"text": ["a"], "start": [1]}, "bad narration: expected lists text, start, end"),
        ({"text": ["a"], "start": [1], "end": [1, 2]}, "bad narration: expected lists text"),
        ({"text": ["a"], "start": ["soon"], "end": [9]}, "bad times: 'soon' to 9"),
        ({"text": ["a"], "start": [float("nan")], "end": [9]}, "bad times: nan to 9"),
        ({"text": ["a"], "start": [1], "end": [None]}, "bad times: 1 to None"),
        ({"text": [float("nan")], "start": [1], "end": [9]}, "empty text: nan"),
        ({"text": [" "], "start": [1], "end": [9]}, "empty text: ' '"),
    ],
)
def test_a_damaged_narration_is_rejected_with_its_video_and_the_others_go_on(
    tmp_path, value, reason
):
    folder = write(tmp_path)
    content = json.loads((folder / "raw_caption.json").read_text())
    (folder / "raw_caption.json").write_text(json.dumps({"broken_____": value} | content))
    [found] = rejected(open_corpus(folder, tmp_path))
    assert found.reason.startswith(reason)
    assert (found.where, found.video) == ("raw_caption.json broken_____", "broken_____")
    assert sum(1 for _ in open_corpus(folder, tmp_path).rows) == 4


def test_a_damaged_csv_of_one_video_is_rejected(tmp_path):
    folder = write(tmp_path, "howto100m_captions")
    (folder / "howto100m_captions" / "broken.csv").write_text("begin,end,text\n1,2,x\n")
    [found] = rejected(open_corpus(folder, tmp_path))
    assert found.id == "broken" and "no column start" in found.reason


def test_a_video_that_comes_twice_is_rejected_the_second_time(tmp_path):
    folder = write(tmp_path)
    one = '"v": {"text": ["a"], "start": [1], "end": [9]}'
    (folder / "raw_caption.json").write_text(f"{{{one}, {one}}}")
    [found] = rejected(open_corpus(folder, tmp_path))
    assert found.reason == "duplicate id: the video is also in raw_caption.json v"


def test_text_with_half_a_character_is_rejected_and_not_a_crash(tmp_path):
    folder = write(tmp_path)
    (folder / "raw_caption.json").write_text(
        '{"\\ud83d": {"text": ["a"], "start": [1], "end": [9]},'
        ' "v": {"text": ["\\ud83d", "\\ud83d\\ude00"], "start": [1, 2], "end": [9, 9]}}'
    )
    found = [check_row(entry, tmp_path) for entry in open_corpus(folder, tmp_path).rows]
    assert [type(entry) for entry in found] == [Rejected, Rejected, Entry]
    assert all(entry.reason.startswith("bad text: it has half a char") for entry in found[:2])
    assert found[2].row.captions == ("😀",)


# --- activities ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "52907\tRide a Motorcycle\n25938\tMake Tea, Hot\n",
        "52907,Ride a Motorcycle\n25938,Make Tea, Hot\n",
        '52907,Ride a Motorcycle\n25938,"Make Tea, Hot"\n',
        "52907;Ride a Motorcycle\r\n25938;Make Tea, Hot\r\n",
        "task_id,task\n52907,Ride a Motorcycle\n25938,Make Tea, Hot\n",
        "\ufefftask_id\ttask\n52907\tRide a Motorcycle\n25938\tMake Tea, Hot",
        "52907\tRide-a-Motorcycle\n25938\tMake Tea, Hot\n",
    ],
)
def test_the_task_list_is_read_whatever_its_delimiter_and_header(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content.encode())
    assert read_tasks(tmp_path / "t.csv") == TASKS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"t.csv has no tasks"),
        ("52907\n", r"t.csv line 1: expected a task's number and name, found \['52907'\]"),
        ("1\ta\nx\tb\n", r"t.csv line 2: expected a whole number as the task's number"),
        (b"\xff\xfe\x00", r"t.csv is not csv as published"),
    ],
)
def test_a_wrong_task_list_is_refused(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_tasks(path)


# --- streaming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_stream_gives_what_the_whole_file_gives_wherever_it_is_cut(
    tmp_path, monkeypatch, chunk, indent
):
    monkeypatch.setattr(files, "CHUNK", chunk)
    content = {"a": {"text": ['q"}{', "é\\"], "start": [1.25, -2e3]}, "b": [], "": 12345, "d": "x"}
    (tmp_path / "x.json").write_text(json.dumps(content, indent=indent), encoding="utf-8")
    assert list(files.json_items(tmp_path / "x.json")) == list(content.items())


def test_an_empty_object_has_no_items(tmp_path):
    (tmp_path / "x.json").write_text(" { } \n")
    assert list(files.json_items(tmp_path / "x.json")) == []


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"a": 1', '{"a": 1,', '{"a" 1}', '{"a": 1; "b": 2}', "{1: 2}", "PK\x03"]
)
def test_a_file_that_is_cut_off_or_no_object_is_refused_with_the_place(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x.json is damaged or cut off near character \d+"):
        list(files.json_items(tmp_path / "x.json"))


def test_damage_is_found_without_reading_on_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 100)
    monkeypatch.setattr(files, "MAX_VALUE", 1000)
    good = ", ".join(f'"{i}": {i}' for i in range(100))
    (tmp_path / "x.json").write_text(f'{{{good}, "bad": oops, {good}' + " " * 100_000 + "}")
    items = files.json_items(tmp_path / "x.json")
    assert [value for _, value in zip(range(100), items, strict=False)]
    with pytest.raises(UserError, match=r"near character 9\d\d"):
        next(items)


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "x.json"
    with open(path, "w") as file:
        file.write("{")
        for i in range(3000):
            value = {"text": ["some words that are said"] * 500, "start": [1.0] * 500}
            file.write(("," if i else "") + f'"{i}": ' + json.dumps(value))
        file.write("}")
    assert path.stat().st_size > 40e6
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in files.json_items(path)) == 3000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 40 * 1024  # KiB; the file as Python objects takes hundreds of MiB
