"""MiniWorld in the official file layouts of the six corpora.

``write("tvqa", out)`` makes ``out/annotations`` and ``out/videos`` with the names, columns and
quirks of the files that the corpus's own authors distribute, so that a reader and a recipe can be
run from end to end by somebody who has none of them. What a corpus has no place for is left out.

=============  ====================================================================================
howto100m      one activity a video, the noisy narrations as subtitles
epic-kitchens  valid: kitchens P26 to P31; test: S1; the combinations never seen together: S2
tvqa, tvc      also ``out/frames``: 3 frames a second as jpg
youcook2       the retrieval split is the validation set, and HowTo100M's list of clips
msrvtt         one clip a video; the retrieval split is the 1k-A list, a part of the test set
=============  ====================================================================================
"""

import base64
import functools
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vt_fairseq.miniworld.official_files import (
    RECIPE_TYPE,
    SHOW_SPLITS,
    SHOWS,
    Row,
    World,
    epic_kitchens,
    howto100m,
    msrvtt,
    show_prefix,
    tvc,
    tvqa,
    youcook2,
)
from vt_fairseq.miniworld.rendering import SIDE
from vt_fairseq.miniworld.world import (
    FPS,
    SIZES,
    VERSION,
    MiniWorldSize,
    Segment,
    Video,
    annotations,
    claim,
    encode,
    in_processes,
    plan,
    video_frames,
    write_atomically,
)

FRAMES_PER_SECOND = 3  # of a folder of frames
_S2_KITCHENS = (9, 11, 18, 32)
_SEEN_KITCHENS = tuple(n for n in range(1, 26) if n not in _S2_KITCHENS)


@dataclass(frozen=True)
class Layout:
    """How one corpus is laid out.

    Attributes:
        splits: MiniWorld's splits that it has a place for.
        name: its name of a video, from the video and its number over all splits.
        files: the annotation files' texts by name.
        cut: one of MiniWorld's videos as the videos that the corpus would have.
        place: where a video lies, from itself and its name: as the official scripts do it.
        frames: where the folder of a video's frames lies, where there are frames.
    """

    splits: tuple[str, ...]
    name: Callable[[Video, int], str]
    files: Callable[[World], dict[str, str]]
    cut: Callable[[Video], list[Video]] = lambda video: [video]
    place: Callable[[Video, str], str] = lambda _video, name: f"{name}.mp4"
    frames: Callable[[str], str] | None = None


def write(
    corpus: str,
    out: Path,
    *,
    size: MiniWorldSize = SIZES["default"],
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> World:
    """Write a MiniWorld under ``out`` as the files of ``corpus``, a key of LAYOUTS.

    Videos that are already there are kept. Returns what went in. Raises UserError when ``out``
    holds something else.
    """
    layout, out = LAYOUTS[corpus], Path(out)
    settings = {"corpus": f"miniworld as {corpus}", "version": VERSION, "seed": seed}
    claim(out, settings | {"videos": asdict(size)})
    videos = _videos(layout, size, seed)
    world = _world(layout, videos, seed)
    jobs = [job for video in videos if not (job := _job(layout, out, video, world.ids)).done()]
    for done in in_processes(functools.partial(_write_video, seed=seed), jobs, workers):
        if progress:
            progress(len(videos) - len(jobs) + done, len(videos))
    (out / "annotations").mkdir(exist_ok=True)
    for name, text in layout.files(world).items():
        write_atomically(out / "annotations" / name, text)
    return world


def annotation_files(corpus: str, size: MiniWorldSize, seed: int = 0) -> dict[str, str]:
    """Name -> text of the annotation files that ``write`` would write, without any video."""
    layout = LAYOUTS[corpus]
    return layout.files(_world(layout, _videos(layout, size, seed), seed))


def _videos(layout: Layout, size: MiniWorldSize, seed: int) -> list[Video]:
    planned = (video for video in plan(size, seed) if video.split in layout.splits)
    return [cut for video in planned for cut in layout.cut(video)]


def _world(layout: Layout, videos: list[Video], seed: int) -> World:
    rows: dict[str, list[Row]] = {}
    for row in annotations(videos, seed):
        if row["split"] in layout.splits:
            rows.setdefault(row["split"], []).append(row)
    return World(
        ids={video.name: layout.name(video, number) for number, video in enumerate(videos)},
        seconds={video.name: video.frames / FPS for video in videos},
        rows=rows,
    )


# --- videos ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One video to write, and its frames where the corpus has them."""

    video: Video
    file: Path
    frames: Path | None

    def done(self) -> bool:
        return self.file.exists() and (self.frames is None or self.frames.exists())


def _job(layout: Layout, out: Path, video: Video, ids: dict[str, str]) -> _Job:
    name = ids[video.name]
    frames = layout.frames and out / "frames" / layout.frames(name)
    return _Job(video, out / "videos" / layout.place(video, name), frames)


def _write_video(job: _Job, seed: int) -> None:
    job.file.parent.mkdir(parents=True, exist_ok=True)
    encode(job.video, job.file, seed)
    if job.frames:
        _write_frames(video_frames(job.video, seed), job.frames)


def _write_frames(images: np.ndarray, folder: Path) -> None:
    """The frames shown at 0, 1/3, 2/3 ... s; a folder under its final name is complete."""
    part = folder.with_name(f"{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    shown = range(len(images) * FRAMES_PER_SECOND // FPS)
    for number in shown:
        image = images[number * FPS // FRAMES_PER_SECOND]
        (part / f"{number + 1:05d}.jpg").write_bytes(_jpeg(image))
    part.replace(folder)


def _jpeg(image: np.ndarray) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = SIDE, SIDE, "yuvj420p"
    encoder.time_base = Fraction(1, FRAMES_PER_SECOND)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def _one_activity(video: Video) -> list[Video]:
    """The same video with its first clip's act in all clips."""
    first = video.segments[0].combination
    return [replace(video, segments=tuple(replace(s, combination=first) for s in video.segments))]


def _one_clip_each(video: Video) -> list[Video]:
    """Each clip as a video of its own, from the background before it on."""
    clips = len(video.segments)
    return [
        Video(video.split, video.index * clips + i, (_moved_to_the_start(segment),))
        for i, segment in enumerate(video.segments)
    ]


def _moved_to_the_start(segment: Segment) -> Segment:
    return replace(segment, first=segment.lead)


# --- names ---------------------------------------------------------------------------------------


def _youtube_id(video: Video, _number: int) -> str:
    """Eleven characters, of which the first, as one in 64 of YouTube's, may be a dash."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(video.name.encode()).digest()).decode()
    return digest[:11] if video.index else f"-{digest[:10]}"


def _kitchen(video: Video, _number: int) -> str:
    """P01_01 and so on: another kitchen for every next video of a split."""
    kitchens, first = {
        "train": (_SEEN_KITCHENS, 1),
        "test": (_SEEN_KITCHENS, 51),
        "valid": (range(26, 32), 1),
        "novel": (_S2_KITCHENS, 1),
    }[video.split]
    number, kitchen = divmod(video.index, len(kitchens))
    return f"P{kitchens[kitchen]:02d}_{number + first:02d}"


def _kitchen_file(video: Video, name: str) -> str:
    part = "train" if video.split in ("train", "valid") else "test"
    return f"{part}/{name.partition('_')[0]}/{name}.MP4"


def _recipe_file(video: Video, name: str) -> str:
    return f"{'training' if video.split == 'train' else 'validation'}/{RECIPE_TYPE}/{name}.mp4"


def _msrvtt_file(video: Video, name: str) -> str:
    return f"{'TrainVal' if video.split in ('train', 'valid') else 'Test'}Video/{name}.mp4"


def _show_clip(video: Video, _number: int) -> str:
    episode, show = divmod(video.index, len(SHOWS))
    season = ("train", "valid", "test").index(video.split) + 1
    return f"{tuple(SHOWS)[show]}s{season:02d}e{episode + 1:02d}_seg02_clip_{show:02d}"


def _frames_folder(clip: str) -> str:
    return f"{show_prefix(clip).rstrip('_') or 'bbt'}_frames/{clip}"


LAYOUTS = {
    "howto100m": Layout(("train", "pretrain"), _youtube_id, howto100m, cut=_one_activity),
    "epic-kitchens": Layout(
        ("train", "valid", "test", "novel"), _kitchen, epic_kitchens, place=_kitchen_file
    ),
    "tvqa": Layout(SHOW_SPLITS, _show_clip, tvqa, frames=_frames_folder),
    "tvc": Layout(SHOW_SPLITS, _show_clip, tvc, frames=_frames_folder),
    "youcook2": Layout(("train", "retrieval"), _youtube_id, youcook2, place=_recipe_file),
    "msrvtt": Layout(
        ("train", "valid", "test", "retrieval"),
        lambda _video, number: f"video{number}",
        msrvtt,
        cut=_one_clip_each,
        place=_msrvtt_file,
    ),
}
