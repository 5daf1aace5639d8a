"""Ten clips of a segment: each spread over all of it, or each of a fixed length.

    python benchmarks/epic_clips.py FOLDER [--seeds 1,2,3]

The paper averages over "10 uniformly sampled clips" of 32 frames (C.2) and does not say how long
they are. On MiniWorld, whose segments have 16 to 20 frames at 10 a second, clips have 8 frames:
spread over the whole segment, the k-th of ten at the k-th of ten offsets; or consecutive, 0.8 s of
it, as 32 frames at 24 a second are 1.3 s of a segment of EPIC-Kitchens. For each seed one video
network learns verbs and nouns from either, and each is measured with one clip and with ten; that of
whole segments also with clips of the fixed length, a rate that it was not trained at. The updates
are few, so that nothing is at its ceiling. What is done in ``FOLDER`` is not done again. Writes
results/epic_clips.json.
"""

import argparse
import json
import sys
from pathlib import Path

import measuring
import torch
from text_noise import PLUGIN, TRAIN, VIDEO, run, summary

UPDATES = "300"
CLIPS = {
    "whole": ["--frame-sampling", "uniform", "--max-seconds", "0"],
    "fixed": ["--frame-sampling", "consecutive", "--frames-per-second", "10"],
}
WINDOWS = ("1", "10")
TESTS = (("whole", "whole"), ("fixed", "fixed"), ("whole", "fixed"))  # clips in training, at test
METRICS = ("verb_top1", "noun_top1", "action_top1")


def train(folder: Path, seed: int, clips: str) -> Path:
    """The checkpoint of a video network that learns from such clips."""
    checkpoint = folder / f"{clips}-{seed}" / "checkpoint_last.pt"
    start = ["fairseq-train", folder / "data", *PLUGIN, *TRAIN, *VIDEO, *CLIPS[clips]]
    start += ["--seed", str(seed), "--save-dir", checkpoint.parent]
    run(checkpoint, *start, "--total-num-update", UPDATES, "--max-update", UPDATES)
    return checkpoint


def measure(folder: Path, checkpoint: Path, clips: str, windows: str) -> dict[str, float]:
    """Per cent of each metric with so many such clips at test."""
    model = checkpoint.with_name(f"test-{clips}.pt")
    if not model.exists():  # vt-score tests a model as it was trained
        state = torch.load(checkpoint, weights_only=True)
        sampling = dict(zip(CLIPS[clips][::2], CLIPS[clips][1::2], strict=True))
        task = state["cfg"]["task"]
        task["frame_sampling"] = sampling["--frame-sampling"]
        task["frames_per_second"] = float(sampling.get("--frames-per-second", 16))
        task["max_seconds"] = 0.0
        torch.save(state, model)
    out = checkpoint.with_name(f"{clips}-{windows}")
    score = ["vt-score", "classify", folder / "data", "--split", "test", "--path", model]
    score += ["--targets", "verb,noun", "--windows", windows, "--batch-size", "32"]
    run(out / "metrics.json", *score, "--device", "cpu", "--out", out)
    return json.loads((out / "metrics.json").read_text())


def over_seeds(ones: list[dict[str, float]]) -> dict[str, dict]:
    """The summary of each metric."""
    return {metric: summary([one[metric] for one in ones]) for metric in METRICS}


def main() -> int:
    """Train, measure, print, write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    args = parser.parse_args()
    import vt_fairseq.plugin  # noqa: F401  (once, for all forks)

    prepare = ["vt-prepare", "miniworld", "--out", args.folder / "data"]
    run(args.folder / "data" / "data.json", *prepare, "--train-vocabulary", "300")
    found: dict[str, list[dict[str, float]]] = {}
    for seed in map(int, args.seeds.split(",")):  # all of the first seed come first
        for trained, tested in TESTS:
            checkpoint = train(args.folder, seed, trained)
            for windows in WINDOWS:
                name = f"trained on {trained}, {windows} {tested} at test"
                metrics = measure(args.folder, checkpoint, tested, windows)
                found.setdefault(name, []).append(metrics)
    measured = {name: over_seeds(ones) for name, ones in found.items()}
    for trained, tested in TESTS[1:]:  # by the same seeds
        ten_whole = found["trained on whole, 10 whole at test"]
        others = found[f"trained on {trained}, 10 {tested} at test"]
        gains = [
            {metric: one[metric] - other[metric] for metric in METRICS}
            for one, other in zip(ten_whole, others, strict=True)
        ]
        name = f"gain of 10 whole over 10 {tested} at test, of {trained} in training"
        measured[name] = over_seeds(gains)
    return measuring.write_result("epic_clips", measuring.machine("ve-fairseq"), measured)


if __name__ == "__main__":
    sys.exit(main())
