"""What a library costs and gives, against ``vt-caption`` on the same videos.

    VT_TEST_DATA=DIR python benchmarks/library.py [--rounds 3] [--segments 10000]

DIR/t5 holds T5's vocabulary, DIR/video/clips real clips; the quickstart has run before
(``bash examples/quickstart.sh``): its model is the trained one. The others have random weights,
which cost as much. CPU time, one thread, in turn:

- a query over stored segments (states are made up) against ``vt-caption --rank`` over a few real
  clips, both per segment: the quickstart's model over all of them, t5-small and t5-large over
  fewer;
- indexing against captioning alone.

Then how far the scores of real clips lie from those of ``--rank``, which of the ten best the
shortlist has, the seconds in which a library of many segments opens, and the most memory of a
process that searches it, against one that searches a quarter. Writes results/library.json.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import measuring
import numpy as np
import torch
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf, open_dict

import vt_fairseq.plugin  # noqa: F401  (registers the architectures)
from vt_fairseq import VideoTranslate
from vt_fairseq.cli.inputs import find_videos
from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.inference.loading import Loaded
from vt_fairseq.library.library import Library
from vt_fairseq.library.segment_model import fingerprint, to_bytes
from vt_fairseq.library.store import NewSegment, Store
from vt_fairseq.models.architectures import architecture
from vt_fairseq.task import VideoTranslateTask, VideoTranslateTaskConfig
from vt_fairseq.video.decoding import probe

QUICKSTART = measuring.ROOT / "quickstart"
QUERY = "a man opens a door"
CHEAPER, AS_CHEAP, EQUAL, OPENS, AS_SMALL = 50, 1.05, 1e-4, 1.0, 1.03
TOP, SHORTLISTS, QUERIES = 10, (50, 100, 200), 30
SPLITS = ("valid", "test", "novel", "retrieval")  # of MiniWorld
VIDEOS = 64  # of MiniWorld
CLIPS = 1  # real ones, where each costs many seconds
STORED = {"small": 256, "large": 32}  # segments that T5 of these sizes are asked about
OPENED = 100_000  # segments of the quickstart's model
MANY = 20_000  # segments of t5-large's width
PER_VIDEO = 500
SOURCE = 12  # encoder states of a segment without context
# T5-large's width, and little else: what is measured is how the states are read.
WIDE = "d_model=1024,num_heads=1,d_kv=64,d_ff=64,num_layers=1,num_decoder_layers=1"


def random_model(
    vocabulary: Path, arch: str, dtype: torch.dtype = torch.float32, **changes: str
) -> VideoTranslate:
    """A model with random weights, the same ones each time."""
    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        cfg.model = replace(architecture(arch), _name=arch, **changes)
        cfg.task = VideoTranslateTaskConfig()
    task = VideoTranslateTask(cfg.task, None, Tokenizer.from_file(vocabulary), {})
    torch.manual_seed(0)
    model = task.build_model(cfg.model)
    own = fingerprint(model.state_dict(), task)
    model.eval().fold()
    path = Path(os.path.abspath(f"{arch}.pt"))
    device = torch.device("cpu")
    return VideoTranslate(Loaded(model.to(dtype), task, device, task.cfg, path, own))


def make_up(vt: VideoTranslate, path: Path, segments: int) -> Path:
    """A library of so many segments, PER_VIDEO of each video, whose states are noise."""
    with closing(vt.create_library(path)) as library:
        model = library._model
    rng = np.random.default_rng(0)

    def noise(tokens: int) -> list[bytes]:
        values = rng.standard_normal((256, tokens, model.width), dtype=np.float32)
        return [to_bytes(one.to(model.torch_dtype)) for one in torch.from_numpy(values)]

    video, encoded = noise(model.num_tokens), noise(max(SOURCE, model.states_without_context))

    def segment(file: int, k: int) -> NewSegment:
        times, caption = (5.0 * k, 5.0 * k + 5.0), f"a man opens door {k}"
        states = {"video": video[k % 256], "encoded": encoded[(file + k) % 256]}
        return NewSegment(file, *times, "", caption, -9.0, **states)

    with closing(Store(path, writable=True)) as store:
        run = store.begin_run("made up")
        for first in range(0, segments, PER_VIDEO):
            numbers = range(min(PER_VIDEO, segments - first))
            with store.transaction():
                file = store.add_file(f"/videos/{first:09}.mp4", 1, 1, bytes(32), 5.0 * PER_VIDEO)
                store.add_segments(run, (segment(file, k) for k in numbers))
        store.end_run(run)
    return path


def query(
    name: str, vt: VideoTranslate, videos: Sequence[str], path: Path, segments: int, rounds: int
) -> dict[str, dict]:
    """How many times the CPU time per clip of ``--rank`` is that per stored segment."""
    with vt.library(make_up(vt, path, segments)) as library:
        ways: dict[str, Callable[[], object]] = {
            "rank": lambda: vt.rank(QUERY, videos),
            "search": lambda: library.search([QUERY], top=TOP),
        }
        spent = measuring.in_turn(ways, rounds)
    rank = [seconds / len(videos) for seconds in spent["rank"]]
    search = [seconds / segments for seconds in spent["search"]]
    found = measuring.judged(measuring.ratio(rank, search), at_least=CHEAPER)
    about = {
        "clips": len(videos),
        "stored segments": segments,
        "CPU ms per clip, rank": round(1e3 * min(rank), 2),
        "CPU ms per segment, search": round(1e3 * min(search), 3),
    }
    return {f"query, {name}: --rank per clip against search per segment": found | about}


def indexing(
    name: str, vt: VideoTranslate, videos: Sequence[str], folder: Path, rounds: int
) -> dict[str, dict]:
    """CPU time of indexing into a new library, divided by that of captioning alone.

    As ``vt-caption`` does it, which asks for each video's duration first, too.
    """
    folder.mkdir()
    paths = (folder / f"{number}.vtlib" for number in count())
    ways: dict[str, Callable[[], object]] = {
        "index": lambda: vt.index(next(paths), videos).close(),
        "caption": lambda: [list(map(probe, videos)), vt.caption(videos)],
    }
    spent = measuring.in_turn(ways, rounds)
    found = measuring.judged(measuring.ratio(spent["index"], spent["caption"]), at_most=AS_CHEAP)
    about = {
        f"CPU ms per video, {n}": round(1e3 * min(s) / len(videos), 2) for n, s in spent.items()
    }
    return {f"{name}: indexing against captioning": {**found, "videos": len(videos), **about}}


def real_clips(vt: VideoTranslate, videos: list[str], path: Path) -> dict[str, dict]:
    """Whole clips: what they take, and how far their scores lie from those of ``--rank``."""
    began = time.perf_counter()
    with vt.index(path, videos) as library:
        spent = time.perf_counter() - began
        segments = [one for one in library.captions() if one.error is None]
        (results,) = library.search([QUERY], top=len(segments))
        found = {one.segment.id: one.score for one in results}
        expected = vt.score([one.path for one in segments], [QUERY])
        seconds = min(timed(lambda: library.search([QUERY])) for _ in range(5))
    apart = [abs(found[one.id] - score) for one, (score,) in zip(segments, expected, strict=True)]
    return {
        "real clips: largest difference from --rank": measuring.judged(
            plain(max(apart)), at_most=EQUAL
        ),
        "real clips": {
            "videos": len(videos),
            "segments": len(segments),
            "seconds to index": round(spent, 1),
            "kB per segment": kilobytes(path, len(segments)),
            "ms of a query": round(1e3 * seconds, 1),
        },
    }


def world(vt: VideoTranslate, path: Path) -> dict[str, dict]:
    """MiniWorld's clips: time, size, and which of the ten best a shortlist has."""
    data = DataDirectory.open(QUICKSTART / "data")
    rows = [row for split in SPLITS for row in data.manifest(split)]
    videos = [str(data.video_root / row.video) for row in rows]
    times = {"start": [row.start for row in rows], "end": [row.end for row in rows]}
    began = time.perf_counter()
    with vt.index(path, videos, **times) as library:
        spent = time.perf_counter() - began
        queries = sorted({row.captions[0] for row in rows if row.captions})
        queries = random.Random(0).sample(queries, min(QUERIES, len(queries)))
        found = {
            "videos": len(library.videos()),
            "segments": len(library),
            "seconds to index": round(spent, 1),
            "kB per segment": kilobytes(path, len(library)),
            "queries": len(queries),
            "ms of a query, exact": milliseconds(library, queries, None),
        }
        exact = ids(library, queries, None)
        for most in SHORTLISTS:
            shared = [
                len(a & b) / TOP for a, b in zip(exact, ids(library, queries, most), strict=True)
            ]
            found[f"recall@{TOP} of a shortlist of {most}"] = round(statistics.mean(shared), 3)
            found[f"ms of a query, shortlist of {most}"] = milliseconds(library, queries, most)
    return {"MiniWorld": found}


def ids(library: Library, queries: Sequence[str], shortlist: int | None) -> list[set[int]]:
    """The best segments for each query."""
    found = library.search(queries, top=TOP, shortlist=shortlist)
    return [{one.segment.id for one in best} for best in found]


def milliseconds(library: Library, queries: Sequence[str], shortlist: int | None) -> float:
    """Of one query alone, the median of some."""
    some = queries[:9]
    spent = [timed(lambda q=q: library.search([q], shortlist=shortlist)) for q in some]
    return round(1e3 * statistics.median(spent), 1)


def many(vocabulary: Path, folder: Path) -> dict[str, dict]:
    """A library of MANY segments of t5-large's width in half precision."""
    vt = wide(vocabulary)
    few, all_ = (make_up(vt, folder / f"{n}.vtlib", n) for n in (MANY // 4, MANY))
    script = [sys.executable, __file__, "--search"]
    quarter, whole = (measuring.process(*script, path)["peak_mb"] for path in (few, all_))
    kb = kilobytes(all_, MANY)
    return {
        f"memory of a query over {MANY:,} segments against a quarter of them": measuring.judged(
            measuring.ratio([whole], [quarter]), at_most=AS_SMALL
        )
        | {f"peak MB, {MANY // 4:,} segments": quarter, f"peak MB, {MANY:,} segments": whole},
        "a million segments of t5-large in half precision, planned": {
            "kB per segment, encoder's states": SOURCE * 1024 * 2 / 1024,
            "kB per segment in the file": kb,
            "GB of the file": round(kb * 1024 * 1e6 / 1e9, 1),
        },
    }


def opening(vt: VideoTranslate, path: Path) -> dict[str, dict]:
    """A library of OPENED segments: opened and counted, when the system has it in memory."""
    make_up(vt, path, OPENED)
    seconds = [timed(lambda: len_of(vt, path)) for _ in range(5)]
    found = {"ratio": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
    what = f"seconds to open a library of {OPENED:,} segments"
    return {what: measuring.judged(found, at_most=OPENS)}


def wide(vocabulary: Path) -> VideoTranslate:
    """T5-large's width in half precision, next to no layers."""
    return random_model(
        vocabulary, "video_translate_tiny", torch.bfloat16, t5_dims=WIDE, video_network="34"
    )


def len_of(vt: VideoTranslate, path: Path) -> int:
    """How many segments it has, after opening it."""
    with vt.library(path) as library:
        return len(library)


def timed(function: Callable[[], object]) -> float:
    """Seconds by the clock."""
    return measuring.cpu_seconds(function, time.perf_counter)


def plain(value: float) -> dict[str, float]:
    """One number as ``measuring.ratio`` gives them."""
    return {"ratio": value, "least": value, "most": value}


def kilobytes(path: Path, segments: int) -> float:
    """Of the file, per segment."""
    return round(path.stat().st_size / 1024 / segments, 1)


def parts(
    args: argparse.Namespace, trained: VideoTranslate, real: Path, folder: Path
) -> Iterator[dict[str, dict]]:
    """All that is measured, one after the other."""
    vocabulary, clips = real / "t5" / "spiece.model", real / "video" / "clips"
    yield world(trained, folder / "world.vtlib")
    yield real_clips(trained, find_videos([str(clips)]), folder / "real.vtlib")
    own = find_videos([str(QUICKSTART / "data" / "world" / "videos")])[:VIDEOS]
    name, path = "quickstart's model", folder / "tiny.vtlib"
    yield indexing(name, trained, own, folder / "tiny", 2 * args.rounds)
    yield query(name, trained, own, path, args.segments, args.rounds)
    yield many(vocabulary, folder)  # before the large models: a child starts with our peak
    some = find_videos([str(clips / "panda70m")])[:CLIPS]
    for size, segments in STORED.items():
        name, path = f"t5-{size}", folder / f"{size}.vtlib"
        vt = random_model(vocabulary, f"video_translate_t5_{size}")
        yield query(name, vt, some, path, segments, args.rounds)
        if size == "small":
            yield indexing(name, vt, some, folder / size, args.rounds)
        del vt
    yield opening(trained, folder / "opened.vtlib")


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)  # a library of MANY
    args = parser.parse_args()
    real = Path(os.environ.get("VT_TEST_DATA", ""))
    vocabulary = real / "t5" / "spiece.model"
    checkpoint = QUICKSTART / "checkpoints" / "checkpoint_last.pt"
    if not vocabulary.exists() or not checkpoint.exists():
        parser.error("expected VT_TEST_DATA, and a quickstart that has run")
    torch.set_num_threads(1)
    if args.search:
        with wide(vocabulary).library(args.search) as library:
            library.search(["door"])
        return 0
    trained = VideoTranslate.from_pretrained(checkpoint, device="cpu")
    with tempfile.TemporaryDirectory() as name:
        measured: dict[str, dict] = {}
        for part in parts(args, trained, real, Path(name)):
            print(part, flush=True)
            measured |= part
    return measuring.write_result("library", measuring.machine("av"), measured)


if __name__ == "__main__":
    sys.exit(main())
