"""MiniWorld, the embedded corpus: small real H.264 files with all that the big corpora annotate.

``generate`` writes ``out/videos/*.mp4`` and ``out/annotations.jsonl``, a jsonl manifest with
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

import contextlib
import functools
import json
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import tqdm

from vt_fairseq.errors import UserError
from vt_fairseq.files.atomic_files import atomic_folder, write_file, write_json
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
from vt_fairseq.video.containers import local_url
from vt_fairseq.video.images import encode_jpeg

VERSION = 1  # raise it when the same seed gives other files
FPS = 10
FOLDER_FPS = 3  # frames per second of a folder of frames
SEGMENTS = 5  # clips per video
CLIP_FRAMES = (16, 21)  # [low, high): 1.6 to 2 seconds
LEAD_FRAMES = (2, 5)  # [low, high): frames of background alone before each clip
KEYFRAME_INTERVAL = 12  # frames: most clips start between two keyframes, as in real files


Size = Mapping[str, int]
"""Number of videos of each split that has files of its own; times SEGMENTS: clips.

Of ``retrieval`` at most 26, so that no combination comes twice.
"""
SIZES: dict[str, Size] = {
    "default": {"train": 600, "valid": 40, "test": 60, "novel": 20, "retrieval": 24},
    "tiny": {"train": 4, "valid": 1, "test": 1, "novel": 1, "retrieval": 2},
}
SPLITS = tuple(SIZES["default"])


@dataclass(frozen=True)
class PlannedClip:
    """One clip: its frames are [first, first + frames) of the video, after ``lead`` empty ones."""

    combination: Combination
    lead: int
    first: int
    frames: int


@dataclass(frozen=True)
class PlannedVideo:
    """What one video shows; ``index`` counts the videos of its split from 0."""

    split: str
    index: int
    clips: tuple[PlannedClip, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"

    @property
    def frames(self) -> int:
        return self.clips[-1].first + self.clips[-1].frames


def generate(out: Path, size: Size, seed: int, workers: int = 1) -> int:
    """Write the corpus under ``out``; return how many videos were not there yet.

    Videos that are already there are kept, so an interrupted call goes on where it stopped. With
    ``workers`` > 1 the processes are spawned: a script that calls this needs the usual
    ``if __name__ == "__main__"``. Raises UserError when ``out`` holds something else.
    """
    videos = plan_videos(size, seed)
    prepare_output_folder(out, "miniworld", size, seed)
    files = [VideoFiles(video, out / "videos" / f"{video.name}.mp4") for video in videos]
    written = write_videos(files, seed, workers)
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in annotations(videos, seed))
    write_file(out / "annotations.jsonl", text.encode())
    return written


# --- what happens in which video -----------------------------------------------------------------


def _rng(seed: int, purpose: str, split: str, *indices: int) -> np.random.Generator:
    """A random generator of its own for each purpose, so that no choice moves another one."""
    purposes = ("plan", "pixels", "question", "narration")
    return np.random.default_rng([seed, purposes.index(purpose), SPLITS.index(split), *indices])


def plan_videos(size: Size, seed: int) -> list[PlannedVideo]:
    """The videos of all splits: which combination acts when."""
    return [video for split in SPLITS for video in _plan_split(split, size[split], seed)]


def _plan_split(split: str, count: int, seed: int) -> list[PlannedVideo]:
    rng = _rng(seed, "plan", split)
    pool = HELD_OUT if split == "novel" else SEEN
    order = _evenly(len(pool), count * SEGMENTS, rng)
    return [
        PlannedVideo(
            split, v, _plan_clips([pool[i] for i in order[v * SEGMENTS :][:SEGMENTS]], rng)
        )
        for v in range(count)
    ]


def _evenly(kinds: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` numbers below ``kinds`` in random order, each as often as any other (± 1)."""
    rounds = [rng.permutation(kinds) for _ in range(-(-count // kinds))]
    return rng.permutation(np.concatenate([*rounds, []])[:count].astype(int)).tolist()


def _plan_clips(
    combinations: Iterable[Combination], rng: np.random.Generator
) -> tuple[PlannedClip, ...]:
    clips, end = [], 0
    for combination in combinations:
        lead, frames = int(rng.integers(*LEAD_FRAMES)), int(rng.integers(*CLIP_FRAMES))
        clips.append(PlannedClip(combination, lead, end + lead, frames))
        end += lead + frames
    return tuple(clips)


# --- annotations ---------------------------------------------------------------------------------


def annotations(videos: list[PlannedVideo], seed: int) -> list[dict[str, Any]]:
    """All rows of the jsonl manifest; ``video`` is relative to ``out/videos``."""
    rows = []
    for split in SPLITS:
        clips = _clips(videos, split)
        rng = _rng(seed, "question", split)
        answers = _evenly(CANDIDATES, len(clips), rng)
        kinds = _evenly(QUESTION_KINDS, len(clips), rng)
        for (video, i), answer, kind in zip(clips, answers, kinds, strict=True):
            asked = _question_fields(video.clips[i].combination, answer, kind, rng)
            rows.append(_row(video, i) | asked)
    return rows + [_pretrain_row(video, i, seed) for video, i in _clips(videos, "train")]


def _clips(videos: list[PlannedVideo], split: str) -> list[tuple[PlannedVideo, int]]:
    return [(video, i) for video in videos if video.split == split for i in range(len(video.clips))]


def _row(video: PlannedVideo, index: int) -> dict[str, Any]:
    clip = video.clips[index]
    return {
        "id": f"{video.name}-{index}",
        "video": f"{video.name}.mp4",
        "start": clip.first / FPS,
        "end": (clip.first + clip.frames) / FPS,
        "caption": captions(clip.combination),
        "label": label(clip.combination),
        "verb": clip.combination.action,
        "noun": clip.combination.noun,
        "group": video.name,
        "split": video.split,
    }


def _question_fields(
    combination: Combination, answer: int, kind: int, rng: np.random.Generator
) -> dict[str, Any]:
    text, correct, wrong = question(combination, kind)
    chosen = rng.choice(len(wrong), size=CANDIDATES - 1, replace=False)
    candidates = [wrong[i] for i in chosen]
    candidates.insert(answer, correct)
    context = subtitles(rng)
    return {"question": text, "candidates": candidates, "answer": answer, "context": context}


def _pretrain_row(video: PlannedVideo, index: int, seed: int) -> dict[str, Any]:
    rng = _rng(seed, "narration", video.split, video.index, index)
    row = _row(video, index)
    # One narrator in five is still, or already, busy with another clip of the video.
    narrated = (index + 1) % len(video.clips) if rng.random() < 0.2 else index
    early, late = rng.integers(-2, 3, size=2)  # speech starts and ends some frames off
    first, last = round(row["start"] * FPS) + int(early), round(row["end"] * FPS) + int(late)
    return row | {
        "id": f"pretrain-{row['id']}",
        "start": max(first, 0) / FPS,
        "end": min(last, video.frames) / FPS,
        "caption": [narration(video.clips[narrated].combination, rng)],
        "split": "pretrain",
    }


# --- files ---------------------------------------------------------------------------------------


def prepare_output_folder(out: Path, corpus: str, size: Size, seed: int) -> None:
    """Make ``out`` the folder of this world; raise UserError where it holds something else."""
    settings = {"corpus": corpus, "version": VERSION, "seed": seed, "videos": dict(size)}
    file = out / "settings.json"
    if not file.exists():
        if any((out / name).exists() for name in ("videos", "annotations", "annotations.jsonl")):
            raise UserError(
                f"{out}: expected an empty folder or a MiniWorld, found files without "
                "settings.json; choose another folder"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
    try:
        there = json.loads(file.read_text())
    except ValueError:
        there = "something that is not JSON"
    if there != settings:
        raise UserError(
            f"{file}: expected {settings}, found {there}; remove {out} or choose another folder"
        )


@dataclass(frozen=True)
class VideoFiles:
    """Where one video is written, and its folder of frames if there is to be one."""

    video: PlannedVideo
    file: Path
    frames: Path | None = None

    def exist(self) -> bool:
        return self.file.exists() and (self.frames is None or self.frames.exists())

    def write(self, seed: int) -> None:
        """Encode the video; a file or folder under its final name is complete."""
        images = video_frames(self.video, seed)
        _encode(images, self.file)
        if self.frames is not None:
            _write_frames(images, self.frames)


def write_videos(files: list[VideoFiles], seed: int, workers: int) -> int:
    """Write those of ``files`` that do not exist, in ``workers`` processes; return their number.

    A terminal shows a bar.
    """
    missing = [file for file in files if not file.exist()]
    write = functools.partial(VideoFiles.write, seed=seed)
    pool = None
    if workers > 1 and len(missing) > 1:
        # Spawned, not forked: a fork of a process that has run torch threads can hang.
        pool = multiprocessing.get_context("spawn").Pool(workers)
    with pool or contextlib.nullcontext():
        written = pool.imap_unordered(write, missing, chunksize=4) if pool else map(write, missing)
        for _ in tqdm.tqdm(written, "making videos", len(missing), unit="video", disable=None):
            pass
    return len(missing)


def video_frames(video: PlannedVideo, seed: int) -> np.ndarray:
    """All frames of a video before encoding: uint8 (F, H, W, 3)."""
    rng = _rng(seed, "pixels", video.split, video.index)
    return np.concatenate(
        [clip_frames(*c.combination, frames=c.frames, lead=c.lead, rng=rng) for c in video.clips]
    )


def _encode(images: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with av.open(local_url(part), "w", format="mp4") as container:
        # Without cpu-independent x264 is faster but gives other bytes from one run to the next.
        options = {"crf": "18", "preset": "veryfast", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.gop_size = KEYFRAME_INTERVAL
        stream.thread_count = 1  # the processes are the parallelism; one thread is reproducible
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    os.replace(part, path)


def _write_frames(images: np.ndarray, folder: Path) -> None:
    """The frames shown at 0, 1/3, 2/3 ... s, as 00001.jpg and so on."""
    with atomic_folder(folder) as partial:
        for number in range(len(images) * FOLDER_FPS // FPS):
            image = images[number * FPS // FOLDER_FPS]
            (partial / f"{number + 1:05d}.jpg").write_bytes(encode_jpeg(image))
