"""The manifest of one training: which clips it learns from, and which it is measured on.

    python examples/gestures/splits.py CLIPS --train train --test valid --out FOLDER

``CLIPS`` is a folder with ``clips.jsonl``; ``--train`` names splits of it, ``--test`` one of its
splits or another folder like it, all of whose clips are tested. Writes ``FOLDER/clips.jsonl``, with
the splits train and valid, and ``FOLDER/root``, a text file that names the folder below which
all videos lie in.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

MANIFEST = "clips.jsonl"
Row = dict[str, Any]


def read(folder: Path) -> list[Row]:
    """Rows of a folder, with whole paths of their videos; ends the script where there are none."""
    path, rows = folder / MANIFEST, []
    if not path.is_file():
        raise SystemExit(f"error: no file {path}, one row per clip")
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = {"split": "train"} | json.loads(line)
        except (ValueError, TypeError):  # no JSON, or no object
            row = {}
        if not all(isinstance(row.get(key), str) for key in ("id", "video", "split")):
            raise SystemExit(f"error: {path} line {number}: expected an object with id and video")
        rows.append(row | {"video": str((folder / row["video"]).absolute())})
    return rows


def divided(clips: Path, train: list[str], test: str) -> list[Row]:
    """Rows to train on, then rows to test; ends the script where there are none of either."""
    rows = read(clips)
    splits = {row["split"] for row in rows}
    learned = [row | {"split": "train"} for row in rows if row["split"] in train]
    if test in splits:
        tested = [row for row in rows if row["split"] == test]
    elif (Path(test) / MANIFEST).is_file():
        tested = read(Path(test))
    else:
        raise SystemExit(f"error: {test}: neither a split of {clips} nor a folder with {MANIFEST}")
    if not set(train) <= splits or not learned or not tested:
        raise SystemExit(f"error: {clips} has the splits {', '.join(sorted(splits))}")
    if common := {row["video"] for row in learned} & {row["video"] for row in tested}:
        raise SystemExit(f"error: {len(common)} videos are learned and tested: {min(common)}")
    return learned + [row | {"split": "valid"} for row in tested]


def main() -> None:
    """Read, divide, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clips", type=Path, help=f"folder with {MANIFEST} and its videos")
    parser.add_argument("--train", default="train", help="splits to train on, with commas")
    parser.add_argument("--test", default="valid", help="split, or another folder")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = divided(args.clips, args.train.split(","), args.test)
    root = os.path.commonpath([os.path.dirname(row["video"]) for row in rows])
    for number, row in enumerate(rows):
        row["video"] = os.path.relpath(row["video"], root)
        row["id"] = f"{number:04d}_{row['id']}"  # of two folders they may be equal
    text = "".join(json.dumps(row) + "\n" for row in rows)
    made = args.out / MANIFEST
    if made.is_file() and made.read_text(encoding="utf-8") != text:
        raise SystemExit(
            f"error: {args.out} was made of other clips or splits: remove it, or name another OUT"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    made.write_text(text, encoding="utf-8")
    (args.out / "root").write_text(root, encoding="utf-8")


if __name__ == "__main__":
    main()
