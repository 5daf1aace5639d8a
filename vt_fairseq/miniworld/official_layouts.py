"""MiniWorld in the official file layouts of the six corpora.

``write("tvqa", out)`` makes ``out/annotations`` and ``out/videos`` with the names, columns and
quirks of the files that the corpus's own authors distribute, so that a reader and a recipe can be
run from end to end by somebody who has none of them. What a corpus has no place for is left out.

=============  ====================================================================================
howto100m      one activity per video, the noisy narrations as subtitles
epic-kitchens  valid: kitchens P26 to P31; test: S1; the combinations never seen together: S2
tvqa, tvc      also ``out/frames``: 3 frames per second as jpg
youcook2       the retrieval split is the validation set, and HowTo100M's list of clips
msrvtt         one clip per video; the retrieval split is the 1k-A list, a part of the test set
=============  ====================================================================================
"""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vt_fairseq.files.atomic_files import write_file
from vt_fairseq.miniworld.official_files import (
    RECIPE_TYPE,
    SHOW_SPLITS,
    SHOWS,
    Annotation,
    World,
    epic_kitchens,
    howto100m,
    msrvtt,
    show_prefix,
    tvc,
    tvqa,
    youcook2,
)
from vt_fairseq.miniworld.world import (
    FPS,
    PlannedVideo,
    Size,
    VideoFiles,
    annotations,
    plan_videos,
    prepare_output_folder,
    write_videos,
)

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
        path: where a video lies, from itself and its name, as the official scripts lay it out.
        frames: where the folder of a video's frames lies, where there are frames.
    """

    splits: tuple[str, ...]
    name: Callable[[PlannedVideo, int], str]
    files: Callable[[World], dict[str, str]]
    cut: Callable[[PlannedVideo], list[PlannedVideo]] = lambda video: [video]
    path: Callable[[PlannedVideo, str], str] = lambda _video, name: f"{name}.mp4"
    frames: Callable[[str], str] | None = None


def write(corpus: str, out: Path, size: Size, seed: int = 0, workers: int = 1) -> World:
    """Write a MiniWorld under ``out`` as the files of ``corpus``, a key of LAYOUTS.

    Videos that are already there are kept. Returns what went in. Raises UserError when ``out``
    holds something else.
    """
    layout = LAYOUTS[corpus]
    prepare_output_folder(out, f"miniworld as {corpus}", size, seed)
    videos = _named_videos(layout, size, seed)
    world = _world(layout, videos, seed)
    files = [
        VideoFiles(
            video,
            out / "videos" / layout.path(video, name),
            out / "frames" / layout.frames(name) if layout.frames else None,
        )
        for name, video in videos.items()
    ]
    write_videos(files, seed, workers)
    (out / "annotations").mkdir(exist_ok=True)
    for name, text in layout.files(world).items():
        write_file(out / "annotations" / name, text.encode())
    return world


def annotation_files(corpus: str, size: Size, seed: int = 0) -> dict[str, str]:
    """Name -> text of the annotation files that ``write`` would write, without any video."""
    layout = LAYOUTS[corpus]
    return layout.files(_world(layout, _named_videos(layout, size, seed), seed))


def _named_videos(layout: Layout, size: Size, seed: int) -> dict[str, PlannedVideo]:
    planned = (video for video in plan_videos(size, seed) if video.split in layout.splits)
    videos = [cut for video in planned for cut in layout.cut(video)]
    return {layout.name(video, number): video for number, video in enumerate(videos)}


def _world(layout: Layout, videos: dict[str, PlannedVideo], seed: int) -> World:
    of_video = {
        video.name: {"name": name, "seconds": video.frames / FPS} for name, video in videos.items()
    }
    rows: dict[str, list[Annotation]] = {}
    for row in annotations(list(videos.values()), seed):
        if row["split"] in layout.splits:
            rows.setdefault(row["split"], []).append(row | of_video[row["group"]])
    return World(rows)


# --- videos ---------------------------------------------------------------------------------------


def _one_activity(video: PlannedVideo) -> list[PlannedVideo]:
    """The same video with its first clip's act in all clips."""
    first = video.clips[0].combination
    return [replace(video, clips=tuple(replace(c, combination=first) for c in video.clips))]


def _one_clip_each(video: PlannedVideo) -> list[PlannedVideo]:
    """Each clip as a video of its own, from the background before it on."""
    count = len(video.clips)
    return [
        PlannedVideo(video.split, video.index * count + i, (replace(clip, first=clip.lead),))
        for i, clip in enumerate(video.clips)
    ]


# --- names ---------------------------------------------------------------------------------------


def _youtube_id(video: PlannedVideo, _number: int) -> str:
    """Eleven characters, of which the first, as one in 64 of YouTube's, may be a dash."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(video.name.encode()).digest()).decode()
    return digest[:11] if video.index else f"-{digest[:10]}"


def _kitchen(video: PlannedVideo, _number: int) -> str:
    """P01_01 and so on: another kitchen for each further video of a split."""
    kitchens, first = {
        "train": (_SEEN_KITCHENS, 1),
        "test": (_SEEN_KITCHENS, 51),
        "valid": (range(26, 32), 1),
        "novel": (_S2_KITCHENS, 1),
    }[video.split]
    number, kitchen = divmod(video.index, len(kitchens))
    return f"P{kitchens[kitchen]:02d}_{number + first:02d}"


def _kitchen_file(video: PlannedVideo, name: str) -> str:
    part = "train" if video.split in ("train", "valid") else "test"
    return f"{part}/{name.partition('_')[0]}/{name}.MP4"


def _recipe_file(video: PlannedVideo, name: str) -> str:
    return f"{'training' if video.split == 'train' else 'validation'}/{RECIPE_TYPE}/{name}.mp4"


def _msrvtt_file(video: PlannedVideo, name: str) -> str:
    return f"{'TrainVal' if video.split in ('train', 'valid') else 'Test'}Video/{name}.mp4"


def _show_clip(video: PlannedVideo, _number: int) -> str:
    episode, show = divmod(video.index, len(SHOWS))
    season = SHOW_SPLITS.index(video.split) + 1
    return f"{tuple(SHOWS)[show]}s{season:02d}e{episode + 1:02d}_seg02_clip_{show:02d}"


def _frames_folder(clip: str) -> str:
    return f"{show_prefix(clip).rstrip('_') or 'bbt'}_frames/{clip}"


LAYOUTS = {
    "howto100m": Layout(("train", "pretrain"), _youtube_id, howto100m, cut=_one_activity),
    "epic-kitchens": Layout(
        ("train", "valid", "test", "novel"), _kitchen, epic_kitchens, path=_kitchen_file
    ),
    "tvqa": Layout(SHOW_SPLITS, _show_clip, tvqa, frames=_frames_folder),
    "tvc": Layout(SHOW_SPLITS, _show_clip, tvc, frames=_frames_folder),
    "youcook2": Layout(("train", "retrieval"), _youtube_id, youcook2, path=_recipe_file),
    "msrvtt": Layout(
        ("train", "valid", "test", "retrieval"),
        lambda _video, number: f"video{number}",
        msrvtt,
        cut=_one_clip_each,
        path=_msrvtt_file,
    ),
}
