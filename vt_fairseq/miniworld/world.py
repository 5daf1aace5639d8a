"""MiniWorld, the embedded corpus: small real H.264 files with all that the big corpora annotate.

``generate(out)`` writes ``out/videos/*.mp4`` and ``out/annotations.jsonl``, a jsonl manifest with
all splits in one file. Each video holds ``SEGMENTS`` clips of one colored shape each.

=========== ============================================================================
train       seen combinations of (color, shape, action)
pretrain    the clips of ``train`` again, captioned by noisy narration with loose bounds
valid, test seen combinations, in files of their own
novel       the combinations of ``HELD_OUT``, which no other split shows
retrieval   seen combinations, each at most once: its captions are pairwise distinct
=========== ============================================================================

Everything is a function of the seed alone, whatever the number of worker processes.
"""

import functools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np

from vt_fairseq.errors import UserError
from vt_fairseq.miniworld.rendering import SIDE, clip_frames
from vt_fairseq.miniworld.texts import (
    CANDIDATES,
    HELD_OUT,
    QUESTION_KINDS,
    SEEN,
    Combination,
    captions,
    label,
    narration,
    question,
    subtitles,
)

VERSION = 1  # raise it when the same seed gives other files
FPS = 10
SEGMENTS = 5  # clips a video
CLIP_FRAMES = (16, 21)  # [low, high): 1.6 to 2 seconds
LEAD_FRAMES = (2, 5)  # [low, high): frames of background alone before each clip
KEYFRAME_INTERVAL = 12  # frames: most clips start between two keyframes, as in real files


@dataclass(frozen=True)
class MiniWorldSize:
    """Number of videos of each split that has files of its own; times SEGMENTS: clips."""

    train: int
    valid: int
    test: int
    novel: int
    retrieval: int


SIZES = {
    "default": MiniWorldSize(train=600, valid=40, test=60, novel=20, retrieval=24),
    "tiny": MiniWorldSize(train=4, valid=1, test=1, novel=1, retrieval=2),
}


@dataclass(frozen=True)
class Segment:
    """One clip: its frames are [first, first + frames) of the video, after ``lead`` empty ones."""

    combination: Combination
    lead: int
    first: int
    frames: int


@dataclass(frozen=True)
class Video:
    split: str
    index: int
    segments: tuple[Segment, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"

    @property
    def frames(self) -> int:
        return self.segments[-1].first + self.segments[-1].frames


def generate(
    out: Path,
    *,
    size: MiniWorldSize = SIZES["default"],
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Write the corpus under ``out`` and return its counts.

    Videos that are already there are kept, so an interrupted call goes on where it stopped.
    ``progress(done, total)`` is called after each video. With ``workers`` > 1 the processes are
    spawned: a script that calls this needs the usual ``if __name__ == "__main__"``.

    Returns ``{"splits": {name: rows}, "videos": n, "written": n, "bytes": n, "seconds": s}``.
    """
    began = time.monotonic()
    out = Path(out)
    videos = plan(size, seed)
    claim(out, {"corpus": "miniworld", "version": VERSION, "seed": seed, "videos": asdict(size)})
    folder = out / "videos"
    missing = [video for video in videos if not _path(folder, video).exists()]
    write = functools.partial(write_video, folder=folder, seed=seed)
    for done in in_processes(write, missing, workers):
        if progress:
            progress(len(videos) - len(missing) + done, len(videos))
    rows = annotations(videos, seed)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(out / "annotations.jsonl", text)
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["split"]] = counts.get(row["split"], 0) + 1
    return {
        "splits": counts,
        "videos": len(videos),
        "written": len(missing),
        "bytes": sum(_path(folder, video).stat().st_size for video in videos),
        "seconds": round(time.monotonic() - began, 1),
    }


# --- what happens in which video -----------------------------------------------------------------


def _splits() -> list[str]:
    return [field.name for field in fields(MiniWorldSize)]


def _rng(seed: int, purpose: str, split: str, *numbers: int) -> np.random.Generator:
    """A random generator of its own for each purpose, so that no choice moves another one."""
    purposes = ("plan", "pixels", "question", "narration")
    return np.random.default_rng([seed, purposes.index(purpose), _splits().index(split), *numbers])


def plan(size: MiniWorldSize, seed: int) -> list[Video]:
    """The videos of all splits."""
    return [video for split in _splits() for video in plan_split(split, size, seed)]


def plan_split(split: str, size: MiniWorldSize, seed: int) -> list[Video]:
    """The videos of one split: which combination acts when."""
    rng = _rng(seed, "plan", split)
    count = getattr(size, split)
    pool = HELD_OUT if split == "novel" else SEEN
    if split == "retrieval" and count * SEGMENTS > len(pool):
        most = len(pool) // SEGMENTS
        raise UserError(
            f"MiniWorld: the retrieval split shows each of {len(pool)} combinations at most once: "
            f"expected at most {most} videos, found {count}; lower `retrieval`"
        )
    order = _evenly(len(pool), count * SEGMENTS, rng)
    return [
        Video(
            split, v, _plan_video([pool[i] for i in order[v * SEGMENTS : (v + 1) * SEGMENTS]], rng)
        )
        for v in range(count)
    ]


def _evenly(kinds: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` numbers below ``kinds`` in random order, each as often as any other (± 1)."""
    rounds = [rng.permutation(kinds) for _ in range(-(-count // kinds))]
    return rng.permutation(np.concatenate([*rounds, []])[:count].astype(int)).tolist()


def _plan_video(combinations: list[Combination], rng: np.random.Generator) -> tuple[Segment, ...]:
    segments, end = [], 0
    for combination in combinations:
        lead, frames = int(rng.integers(*LEAD_FRAMES)), int(rng.integers(*CLIP_FRAMES))
        segments.append(Segment(combination, lead, end + lead, frames))
        end += lead + frames
    return tuple(segments)


# --- annotations ---------------------------------------------------------------------------------


def annotations(videos: list[Video], seed: int) -> list[dict]:
    """All rows of the jsonl manifest; ``video`` is relative to ``out/videos``."""
    rows = []
    for split in _splits():
        clips = _clips(video for video in videos if video.split == split)
        rng = _rng(seed, "question", split)
        answers = _evenly(CANDIDATES, len(clips), rng)
        kinds = _evenly(QUESTION_KINDS, len(clips), rng)
        for (video, i), answer, kind in zip(clips, answers, kinds, strict=True):
            rows.append(_row(video, i) | _question_fields(video, i, answer, kind, rng))
    train = _clips(video for video in videos if video.split == "train")
    return rows + [_pretrain_row(video, i, seed) for video, i in train]


def _clips(videos: Iterable[Video]) -> list[tuple[Video, int]]:
    return [(video, i) for video in videos for i in range(len(video.segments))]


def _row(video: Video, index: int) -> dict:
    segment = video.segments[index]
    return {
        "id": f"{video.name}-{index}",
        "video": f"{video.name}.mp4",
        "start": segment.first / FPS,
        "end": (segment.first + segment.frames) / FPS,
        "caption": captions(segment.combination),
        "label": label(segment.combination),
        "verb": segment.combination.action,
        "noun": segment.combination.noun,
        "group": video.name,
        "split": video.split,
    }


def _question_fields(
    video: Video, index: int, answer: int, kind: int, rng: np.random.Generator
) -> dict:
    text, right, wrong = question(video.segments[index].combination, kind)
    chosen = rng.choice(len(wrong), size=CANDIDATES - 1, replace=False)
    candidates = [wrong[i] for i in chosen]
    candidates.insert(answer, right)
    return {
        "question": text,
        "candidates": candidates,
        "answer": answer,
        "context": subtitles(rng),
    }


def _pretrain_row(video: Video, index: int, seed: int) -> dict:
    rng = _rng(seed, "narration", video.split, video.index, index)
    row = _row(video, index)
    # One narrator in five is still, or already, busy with another clip of the video.
    told = (index + 1) % len(video.segments) if rng.random() < 0.2 else index
    early, late = rng.integers(-2, 3, size=2)  # speech starts and ends some frames off
    first, last = round(row["start"] * FPS) + int(early), round(row["end"] * FPS) + int(late)
    return row | {
        "id": f"pretrain-{row['id']}",
        "start": max(first, 0) / FPS,
        "end": min(last, video.frames) / FPS,
        "caption": [narration(video.segments[told].combination, rng)],
        "split": "pretrain",
    }


# --- files ---------------------------------------------------------------------------------------


def _path(folder: Path, video: Video) -> Path:
    return folder / f"{video.name}.mp4"


def claim(out: Path, settings: dict) -> None:
    """Make ``out`` the folder of these settings, or refuse: its files must not mix with others."""
    file = out / "settings.json"
    if not file.exists():
        if any((out / name).exists() for name in ("videos", "annotations", "annotations.jsonl")):
            raise UserError(
                f"{out}: expected an empty folder or a MiniWorld, found files without "
                "settings.json; choose another folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(settings, indent=1) + "\n")
    try:
        found = json.loads(file.read_text())
    except ValueError:
        found = "something that is not JSON"
    if found != settings:
        raise UserError(
            f"{file}: expected {settings}, found {found}; remove {out} or choose another folder"
        )
    (out / "videos").mkdir(exist_ok=True)


def in_processes(write: Callable[[Any], None], items: Sequence[Any], workers: int) -> Iterator[int]:
    """Call ``write`` for each item in ``workers`` processes; yields how many are done."""
    if workers <= 1 or len(items) < 2:
        for done, item in enumerate(items, 1):
            write(item)
            yield done
        return
    # Spawned, not forked: a fork of a process that has run torch threads can hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(write, items, chunksize=4), 1):
            yield done


def video_frames(video: Video, seed: int) -> np.ndarray:
    """All frames of a video before encoding: uint8 (F, H, W, 3)."""
    rng = _rng(seed, "pixels", video.split, video.index)
    return np.concatenate(
        [clip_frames(*s.combination, frames=s.frames, lead=s.lead, rng=rng) for s in video.segments]
    )


def write_video(video: Video, folder: Path, seed: int) -> None:
    """Encode one video as ``folder/NAME.mp4``."""
    encode(video, _path(folder, video), seed)


def encode(video: Video, path: Path, seed: int) -> None:
    """Encode one video; a file under its final name is always complete."""
    part = path.with_suffix(".part")
    with av.open(str(part), "w", format="mp4") as container:
        # Without cpu-independent x264 is faster but gives other bytes from one run to the next.
        options = {"crf": "18", "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = KEYFRAME_INTERVAL
        stream.thread_count = 1  # the processes are the parallelism; one thread is reproducible
        for image in video_frames(video, seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    os.replace(part, path)


def write_atomically(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
