"""What 136 million clips cost: preparation and the data side of a training process, measured.

    python benchmarks/manifest_memory.py [ROWS]

Makes annotation files in HowTo100M's layout with ROWS narrated clips (5,000,000) and the full
table of 1.22 million videos and 23,611 tasks, prepares them in two shards, joins these, and opens
shard and whole as a training process does. Each step is a process of its own; memory is its peak
resident set. Writes results/manifest_memory.json.
"""

import json
import random
import resource
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import measuring

HOWTO100M = {"clips": 136_000_000, "videos": 1_220_000, "tasks": 23_611}
CLIPS_PER_VIDEO = HOWTO100M["clips"] // HOWTO100M["videos"]
SHARDS = 2
BATCHES, BATCH_SIZE, PROCESSES = 4000, 8, 128
SPEECH = (
    "so now we are going to take the and put it in here then you just want to mix this with a "
    "little bit of water until it looks like that okay next cut some more pieces hold on"
)
WORDS = SPEECH.split()
LETTERS = string.ascii_letters + string.digits + "-_"


def video_names(count: int) -> Iterator[str]:
    """Names like YouTube's: 11 letters, digits, dashes."""
    rng = random.Random(0)
    return ("".join(rng.choices(LETTERS, k=11)) for _ in range(count))


def write_annotations(folder: Path, rows: int) -> None:
    """The three official files; narrations of the first videos only, until there are ROWS."""
    rng = random.Random(1)
    with open(folder / "task_ids.csv", "w") as file:
        for task in range(HOWTO100M["tasks"]):
            file.write(f"{task}\t{' '.join(rng.choices(WORDS, k=5)).title()} {task}\n")
    with open(folder / "HowTo100M_v1.csv", "w") as file:
        file.write("video_id,category_1,category_2,rank,task_id\n")
        for i, name in enumerate(video_names(HOWTO100M["videos"])):
            file.write(f"{name},Food and Entertaining,Drinks,{i % 200},{i % HOWTO100M['tasks']}\n")
    videos = -(-rows // CLIPS_PER_VIDEO)
    with open(folder / "raw_caption.json", "w") as file:
        for i, name in enumerate(video_names(videos)):
            clips = min(CLIPS_PER_VIDEO, rows - i * CLIPS_PER_VIDEO)
            start = [round(k * 3.3 + rng.random(), 2) for k in range(clips)]
            narration = {
                "text": [" ".join(rng.choices(WORDS, k=rng.randint(4, 10))) for _ in start],
                "start": start,
                "end": [round(s + rng.uniform(1, 6), 2) for s in start],
            }
            file.write(("," if i else "{") + json.dumps(name) + ":" + json.dumps(narration))
        file.write("}")


def prepare(folder: Path) -> dict[str, dict[str, float]]:
    """All shards and the join."""
    out = ["--out", folder / "data"]
    (folder / "videos").mkdir(exist_ok=True)
    vocabulary = folder / "spiece.model"
    if not vocabulary.exists():
        from vt_fairseq.data.tokenizer import train_vocabulary

        vocabulary.write_bytes(train_vocabulary([" ".join(WORDS)] * 10, 60))
    command = [sys.executable, "-m", "vt_fairseq.cli.prepare"]
    found = {}
    for k in range(1, SHARDS + 1):
        found[f"shard {k}/{SHARDS}"] = measuring.process(
            *[*command, "howto100m", "--annotations", folder, "--videos", folder / "videos"],
            *[*out, "--skip-probe", "--shard", f"{k}/{SHARDS}"],
        )
    found["join"] = measuring.process(*command, "join", *out, "--vocabulary", vocabulary)
    return found


def probing_memory() -> float:
    """MB that opening all videos adds: their names, listed, and their durations."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    listed = frozenset(f"{name}.mp4" for name in video_names(HOWTO100M["videos"]))
    durations = {f"{name}.mp4": random.random() for name in video_names(HOWTO100M["videos"])}
    assert listed == durations.keys()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> dict[str, float]:
    """This process's memory in MB: its own, and pages of files, which the system can take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
    return {"own_mb": round(kib["RssAnon:"] / 1024), "mapped_mb": round(kib["RssFile:"] / 1024)}


def train(data: Path) -> dict[str, float]:
    """Open ``data`` as one of 128 training processes and read batches, without the pictures."""
    import numpy as np

    from vt_fairseq.data.dataset import VideoTextDataset
    from vt_fairseq.data.epoch_iterator import ReusedBatchIterator
    from vt_fairseq.data.manifest import Manifest
    from vt_fairseq.data.prompts import BUILT_IN
    from vt_fairseq.data.text import TextOptions
    from vt_fairseq.data.text_noise import TextNoise
    from vt_fairseq.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(data.parent / "spiece.model")
    noise = TextNoise("shuffled-masked", "batch", dropout=0.5, mask_id=tokenizer.mask)
    frames = np.zeros((1, 4, 4, 3), np.uint8)
    before, began = memory(), time.monotonic()
    dataset = VideoTextDataset(
        rows=Manifest(data),
        load_frames=lambda row, rng: frames,
        num_video_tokens=1,
        prompts=[BUILT_IN["caption"], BUILT_IN["classify"]],
        reuse_batch=True,
        text=TextOptions(tokenizer, noise),
        seed=1,
        train=True,
    )
    batches = ReusedBatchIterator(
        dataset=dataset,
        collate_fn=dataset.collater,
        batches=dataset.batch_by_size(dataset.ordered_indices(), max_sentences=BATCH_SIZE),
        uses=2,
        group=1,
        num_shards=PROCESSES,
    )
    running = batches.next_epoch_itr()
    next(running)
    started, most = time.monotonic() - began, memory()
    count = min(BATCHES, len(running) // 2 - 1)
    for _ in range(2 * count):
        next(running)
        most = {key: max(value, most[key]) for key, value in memory().items()}
    state = batches.state_dict()
    seconds = time.monotonic() - began - started
    began = time.monotonic()
    batches.load_state_dict(state)
    next(batches.next_epoch_itr())
    return {
        "rows": len(dataset),
        "batches": count,
        "first_batch_seconds": round(started, 3),
        "resume_seconds": round(time.monotonic() - began, 3),
        "ms_per_batch": round(1000 * seconds / count, 2),
        "own_mb_before": before["own_mb"],
        "own_mb_added": most["own_mb"] - before["own_mb"],
        "mapped_mb_added": most["mapped_mb"] - before["mapped_mb"],
    }


def trained(data: Path) -> dict[str, float]:
    """``train`` in a process of its own."""
    command = [sys.executable, __file__, "--train", str(data)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure, print and write down."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_annotations(folder, rows)
        measured = prepare(folder)
        cpu = sum(step["cpu_seconds"] for step in measured.values())
        data = folder / "data"
        part = data / "shards" / f"1-of-{SHARDS}"
        (part / "spiece.model").write_bytes((data / "spiece.model").read_bytes())
        measured["shard"] = trained(part / "train.arrow")
        measured["whole"] = trained(data / "train.arrow")
        bytes_per_row = (data / "train.arrow").stat().st_size / rows
    measured["probing"] = {"adds_mb": probing_memory()}
    measured["howto100m"] = {
        "bytes_per_row": round(bytes_per_row, 1),
        "manifest_gb": round(bytes_per_row * HOWTO100M["clips"] / 1e9, 1),
        "preparation_cpu_hours": round(cpu * HOWTO100M["clips"] / rows / 3600, 2),
    }
    return measuring.write_result("manifest_memory", measuring.machine(), measured)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        print(json.dumps(train(Path(sys.argv[2]))))
    else:
        sys.exit(main())
