"""The data of the ablations: MiniWorld's clips with the splits and texts that the parts need.

    python examples/ablations/world.py ANNOTATIONS OUT

reads the rows that ``vt-prepare miniworld`` wrote and writes those for ``vt-prepare jsonl``.

========== =========================================================================================
pretrain   MiniWorld's noisy narrations and descriptions, as they are
train      fine-tuning: few clips with captions, verbs and nouns
ask        the same clips with questions: about the video, and about the talk in the subtitles
test       clips of held-out videos, with descriptions, verbs, nouns, and questions about the video
talk       the same clips with questions about the talk: without subtitles there is no answer
still      the same clips, of which only the middle frame is there
retrieval  held-out clips, pairwise different, with a narration that nothing disturbs
========== =========================================================================================
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

FINETUNING_VIDEOS = 100  # of 600; five clips each
FRAME_SECONDS = 0.1  # of MiniWorld's videos


def rows_of_the_comparison(rows: list[dict]) -> Iterator[dict]:
    """The rows of all splits."""
    turns = [turn for row in rows if "context" in row for turn in spoken(row)]
    names, lines = (sorted({turn[i] for turn in turns}) for i in range(2))
    for index, row in enumerate(rows):
        split = row["split"]
        few = split == "train" and int(row["group"].split("-")[1]) < FINETUNING_VIDEOS
        if few or split in ("pretrain", "test", "valid"):
            yield row
        if few:
            yield row | {"split": "ask"}
        if few or split == "test":
            talk = row | talk_question(row, index, names, lines)
            yield talk | {"id": f"talk-{row['id']}", "split": "ask" if few else "talk"}
        if split == "test":
            yield still(row)
        if split == "retrieval":
            yield row | {"caption": [narration(row)]}


def spoken(row: dict) -> list[list[str]]:
    """Speaker and line of each turn of the subtitles."""
    return [turn.split(" : ") for turn in row["context"].split(" . ")]


def talk_question(row: dict, index: int, names: list[str], lines: list[str]) -> dict:
    """Half of the questions ask for one of the two speakers, half for one of the two lines."""
    said = spoken(row)
    kind = index % 2
    right = said[index // 2 % 2][kind]
    heard = {turn[kind] for turn in said}
    wrong = [text for text in (names, lines)[kind] if text not in heard]
    start = index % len(wrong)
    candidates = (wrong[start:] + wrong[:start])[:4]
    answer = index % (len(candidates) + 1)
    candidates.insert(answer, right)
    return {
        "question": ("who talks ?", "what is said ?")[kind],
        "candidates": candidates,
        "answer": answer,
    }


def still(row: dict) -> dict:
    """The row of the one frame in the middle: what shows no motion."""
    first = round((row["start"] + row["end"]) / 2 / FRAME_SECONDS)
    times = {"start": first * FRAME_SECONDS, "end": (first + 1) * FRAME_SECONDS}
    return row | times | {"id": f"still-{row['id']}", "split": "still"}


def narration(row: dict) -> str:
    """One of the forms of MiniWorld's narrations, without fillers and with all of its words."""
    noun, doing = row["label"].rsplit(" ", 1)
    return f"now the {noun} is {doing}"


def main() -> None:
    """Read, write."""
    source, out = map(Path, sys.argv[1:])
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    text = "".join(json.dumps(row) + "\n" for row in rows_of_the_comparison(rows))
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
