"""How often training leaves the text out, and what stands in its place at test.

    python benchmarks/text_noise.py FOLDER [--seeds 1,2,3]

The paper (4.1) shows the encoder the target's text, shuffled and masked, and does not say what it
sees at test, where there is none. On MiniWorld, for each seed: one video network that has learnt to
classify, and from it one training of the whole model for each ``--text-dropout`` (the share of the
examples whose text is left out). Each is measured twice, with no text at test and with eight masks:
BLEU-4 of captions, accuracy of classes, R@1 of retrieval; also what one value gains over another,
paired by seed. The updates are fewer than the quickstart's, so that nothing is at its ceiling. What
is done in ``FOLDER`` is not done again. Writes results/text_noise.json.
"""

import argparse
import importlib.metadata
import json
import logging
import multiprocessing
import os
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import measuring
import torch

DROPOUTS, TEST_TEXTS = ("0", "0.2", "0.5", "0.8"), ("none", "mask")
VIDEO_UPDATES, UPDATES = 500, 250
COMPARED = (("0.2", "0"), ("0.5", "0"), ("0.8", "0"), ("0.5", "0.2"), ("0.8", "0.5"))
METRICS = {"caption": "bleu4", "classify": "accuracy", "retrieval": "r1"}
SPLITS = {"caption": "test", "classify": "test", "retrieval": "retrieval"}
PLUGIN = ["--user-dir", str(measuring.ROOT / "user_dir"), "--task", "video_translate", "--cpu"]
# The quickstart's, but for the updates, the seeds and the text.
TRAIN = shlex.split(
    "--arch video_translate_tiny --no-context --num-frames 8 --frame-size 32 --no-flip "
    "--crop-scales 1,0.9 --cache-clips 0.5 --num-workers 0 --optimizer adam --clip-norm 1 "
    "--lr-scheduler polynomial_decay --no-epoch-checkpoints --disable-validation "
    "--log-format json --log-interval 50 --adam-betas '(0.9,0.98)'"
)
VIDEO = (
    "--criterion video_translate_classification --heads verb,noun --heads-on video --lr 3e-3 "
    "--head-lr-scale 1 --batch-size 16 --warmup-updates 20 "
    f"--total-num-update {VIDEO_UPDATES} --max-update {VIDEO_UPDATES}"
).split()
WHOLE = (
    "--criterion video_translate --actions caption,classify --lr 2e-3 --video-lr-scale 0.3 "
    f"--batch-size 32 --warmup-updates 60 --total-num-update {UPDATES} --max-update {UPDATES}"
).split()


def run(done: Path, *command: str | Path) -> None:
    """A command as a fork of this process, unless ``done`` exists; its log lies beside it."""
    if done.exists():
        return
    words = list(map(str, command))
    done.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=called, args=(words, done.with_name(f"{done.stem}.log"))
    )
    process.start()
    process.join()
    if process.exitcode or not done.exists():
        raise SystemExit(f"{shlex.join(words)} failed; see {done.with_name(f'{done.stem}.log')}")


def called(words: list[str], log: Path) -> None:
    """The console script of that name, as pip has installed it."""
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    sys.argv = words
    (script,) = importlib.metadata.entry_points(group="console_scripts", name=words[0])
    sys.exit(script.load()())


def train(folder: Path, seed: int, dropout: str) -> Path:
    """The checkpoint of a model, for which the video network of its seed is trained first."""
    data = folder / "data"
    start = ["fairseq-train", data, *PLUGIN, *TRAIN, "--seed", str(seed), "--save-dir"]
    video = folder / f"video-{seed}" / "checkpoint_last.pt"
    run(video, *start, video.parent, *VIDEO)
    whole = folder / f"whole-{seed}-{dropout}" / "checkpoint_last.pt"
    noise = ["--text-dropout", dropout, "--finetune-from-model", video]
    run(whole, *start, whole.parent, *WHOLE, *noise)
    return whole


def measure(folder: Path, checkpoint: Path, test_text: str) -> dict[str, float]:
    """Per cent of each metric with that text at test."""
    model = checkpoint.with_name(f"test-{test_text}.pt")
    if not model.exists():  # vt-score tests a model as it was trained
        state = torch.load(checkpoint, weights_only=True)
        state["cfg"]["task"]["test_text"] = test_text
        torch.save(state, model)
    data, found = folder / "data", {}
    for kind, split in SPLITS.items():
        out = checkpoint.with_name(f"{kind}-{test_text}")
        own = ["--path", model, "--batch-size", "32"]
        if kind == "caption":
            generate = ["fairseq-generate", data, *PLUGIN, "--gen-subset", split, *own]
            generate += ["--action", "caption", "--beam", "1", "--max-len-b", "24"]
            run(out / "predictions.jsonl", *generate, "--results-path", out)
            files = [f"--{name}={out}/{name}.jsonl" for name in ("predictions", "references")]
            metrics = out / "metrics.json"
            run(metrics, "vt-evaluate", "captions", *files, "--coco=off", f"--out={metrics}")
        else:
            score = ["vt-score", kind, data, "--split", split, "--device", "cpu", *own]
            run(out / "metrics.json", *score, "--out", out)
        found[kind] = json.loads((out / "metrics.json").read_text())[METRICS[kind]]
    return found


def summary(values: list[float], digits: int = 1) -> dict[str, Any]:
    """Mean over the seeds, and half of the 95 % interval of the mean (Student's t)."""
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values))
    mean, seeds = round(statistics.mean(values), digits), [round(v, digits) for v in values]
    found: dict[str, Any] = {"mean": mean, "seeds": seeds}
    if t is not None:
        found["interval"] = round(t * statistics.stdev(values) / len(values) ** 0.5, digits)
    return found


def main() -> int:
    """Train, measure, print, write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="1,2,3")
    args = parser.parse_args()
    import vt_fairseq.plugin  # noqa: F401  (once, for all forks)

    seeds = [int(seed) for seed in args.seeds.split(",")]
    prepare = ["vt-prepare", "miniworld", "--out", args.folder / "data"]
    run(args.folder / "data" / "data.json", *prepare, "--train-vocabulary", "300")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in seeds:  # all of the first seed come first
        for dropout in DROPOUTS:
            checkpoint = train(args.folder, seed, dropout)
            for text in TEST_TEXTS:
                found.setdefault((dropout, text), []).append(measure(args.folder, checkpoint, text))
    measured = {
        f"dropout {dropout}, at test {text}": {
            kind: summary([one[kind] for one in ones]) for kind in METRICS
        }
        for (dropout, text), ones in found.items()
    }
    for text in TEST_TEXTS:
        for one, other in COMPARED:
            pairs = list(zip(found[one, text], found[other, text], strict=True))
            measured[f"dropout {one} over {other}, at test {text}"] = {
                kind: summary([a[kind] - b[kind] for a, b in pairs]) for kind in METRICS
            }
    return measuring.write_result("text_noise", measuring.machine("ve-fairseq"), measured)


if __name__ == "__main__":
    sys.exit(main())
