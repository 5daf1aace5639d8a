"""How large is a report, and how long does it take? Four results of 10,000 rows each.

    python benchmarks/report.py [--rows 10000] [--folder DIR]

Makes 20 videos (640x360, 10 s, H.264 with a key frame every 10 s), a split of so many parts of
them, the files that ``fairseq-generate`` and ``vt-score`` would write for it (captions, questions,
144 classes, retrieval of every clip by every caption: 1 GB), and a log of 100,000 updates; then
runs ``vt-report`` and ``vt-report --clips 2000``. Prints what it measured and writes it to
results/report.json.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import measuring
import numpy as np

from vt_fairseq.data.manifest import ClipRow, write_manifest
from vt_fairseq.data.root_signatures import sign

VIDEOS, SECONDS, RATE = 20, 10, 25
WIDTH, HEIGHT = 640, 360
CLASSES = 144
WORDS = ("a", "the", "person", "cuts", "opens", "tomato", "door", "water", "into", "pan", "slowly")
BOUNDS = {"seconds": 30.0, "megabytes": 20.0}


def write_video(path: Path, rng: np.random.Generator) -> None:
    """A moving picture with enough detail that its JPEGs are as large as real ones."""
    coarse = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    picture = coarse.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": str(RATE * SECONDS)}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(RATE * SECONDS):
            moved = np.roll(picture, (index, 2 * index), axis=(0, 1))
            frame = av.VideoFrame.from_ndarray(moved, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def text(draw: random.Random, words: int) -> str:
    """So many words at random."""
    return " ".join(draw.choices(WORDS, k=words))


def clip_rows(count: int, draw: random.Random) -> Iterator[ClipRow]:
    """Parts of the videos with captions, a label, a question and subtitles."""
    for number in range(count):
        start = draw.uniform(0, SECONDS - 3)
        yield ClipRow(
            id=f"c{number:05d}",
            video=f"{number % VIDEOS:02d}.mp4",
            start=round(start, 2),
            end=round(start + 3, 2),
            captions=tuple(text(draw, 10) for _ in range(3)),
            label=f"class {draw.randrange(CLASSES)}",
            question=text(draw, 12),
            candidates=tuple(text(draw, 8) for _ in range(5)),
            answer=draw.randrange(5),
            context=text(draw, 60),
        )


def write_data(folder: Path, count: int) -> list[ClipRow]:
    """A data directory with the split ``test``; its rows."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range(VIDEOS):
        write_video(videos / f"{number:02d}.mp4", rng)
    rows = list(clip_rows(count, random.Random(1)))
    (folder / "data").mkdir()
    write_manifest(folder / "data" / "test.arrow", rows)
    known: dict[str, Any] = {"format": 1, "corpus": "jsonl", "settings": {}}
    known |= {"video_root": str(videos), "video_root_signature": sign(videos)}
    known["splits"] = {"test": {"rows": count, "rejected": 0}}
    (folder / "data" / "data.json").write_text(json.dumps(known))
    return rows


def write_lines(path: Path, records: Iterator[dict]) -> None:
    """A jsonl file."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write_results(folder: Path, rows: list[ClipRow]) -> None:
    """Captions, questions, classes and retrieval, mostly wrong."""
    draw, rng = random.Random(2), np.random.default_rng(2)
    for kind in ("vqa", "classify", "retrieval"):
        (folder / kind).mkdir()
        settings = json.dumps({"kind": kind, "split": "test"})
        (folder / kind / "settings.json").write_text(settings)
    said = ({"id": r.id, "prediction": text(draw, 10), "score": -1.25} for r in rows)
    write_lines(folder / "captions" / "predictions.jsonl", said)
    right = ({"id": r.id, "references": list(r.captions)} for r in rows)
    write_lines(folder / "captions" / "references.jsonl", right)
    chosen = ({"id": r.id, "prediction": draw.randrange(5), "scores": noise(rng, 5)} for r in rows)
    write_lines(folder / "vqa" / "predictions.jsonl", chosen)
    scores = [noise(rng, CLASSES) for _ in rows]
    best = (np.argsort(-np.array(s))[:5] for s in scores)
    rankings = ([f"class {k}" for k in five] for five in best)
    classes = ({"id": r.id, "prediction": f[0], "ranking": f} for r, f in zip(rows, rankings))  # noqa: B905
    write_lines(folder / "classify" / "predictions.jsonl", classes)
    ranks = ({"id": r.id, "scores": s, "ranks": {"label": 1 + draw.randrange(CLASSES)}}
             for r, s in zip(rows, scores, strict=True))  # fmt: skip
    write_lines(folder / "classify" / "scores.jsonl", ranks)
    ids = np.array([r.id for r in rows])
    ranked = ({"id": r.id, "ranking": ids[rng.permutation(len(ids))].tolist()} for r in rows)
    write_lines(folder / "retrieval" / "predictions.jsonl", ranked)


def noise(rng: np.random.Generator, count: int) -> list[float]:
    """Scores at random."""
    return rng.normal(-8, 2, count).tolist()


def write_log(path: Path) -> None:
    """100,000 updates, a line every 50, as ``--log-format simple`` prints them."""
    line = ("2026-01-01 00:00:00 | INFO | train_inner | epoch 001: {n:6d} / 100000 "
            "loss={loss:.4f}, accuracy=50.0, ups=2, bsz=32, num_updates={n}, lr=0.001, gnorm=1.5, "
            "loss_scale=128, train_wall=24, wall={wall}\n")  # fmt: skip
    numbers = range(50, 100_001, 50)
    lines = (line.format(n=n, loss=2 + 6 / (1 + n / 5000), wall=n // 2) for n in numbers)
    path.write_text("".join(lines))


def measure(folder: Path, *options: str) -> dict[str, float]:
    """Run ``vt-report``: its seconds and memory, and what is in the file that it writes."""
    out = folder / "report.html"
    command = [sys.executable, "-m", "vt_fairseq.cli.report", folder, "--out", out, *options]
    return {
        **measuring.process(*command),
        "megabytes": round(out.stat().st_size / 1e6, 2),
        "rows_with_text": out.read_bytes().count(b'"outcome":'),
    }


def main() -> int:
    """Make the folders, measure, print and write down; 1 past the bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where to make 1.2 GB of files (default: /tmp)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_results(folder, write_data(folder, args.rows))
        write_log(folder / "train.log")
        found = {
            "vt-report": measure(folder),
            "vt-report --clips 2000": measure(folder, "--clips", "2000"),
        }
    measuring.write_result("report", measuring.machine(), found)
    return int(any(n[key] >= BOUNDS[key] for n in found.values() for key in BOUNDS))


if __name__ == "__main__":
    sys.exit(main())
