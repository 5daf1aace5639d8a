"""Does a trained T5 help, and should it stay as it is? Small data, one or more sizes, some seeds.

    python benchmarks/pretrained_text.py T5_FOLDER RUNS FOLDER [--seeds 1,2,3] [--clips 50,500,5000]
        [--texts trained,new,frozen,slow,fast,fastest,small] [--updates N]

``T5_FOLDER`` is Hugging Face's; ``python -m tests.trained_t5 T5_FOLDER SPIECE_MODEL`` writes one.
``RUNS`` are the runs of gestures.py. Three models of the same sizes learn the same batches in as
many updates: T5 from random weights (``new``), from the trained ones (``trained``), and the trained
ones unchanged (``frozen``: only the video network and its projection learn). ``slow``, ``fast`` and
``fastest`` are the frozen one with a fifth, four times and twenty times of its rate. ``small`` is
the trained one with video tokens of the size that suits a new T5's words, not those of a trained.

Gestures begin with the network of ``RUNS`` that learned classes from one recording batch, with the
same seed; captions are learned there and measured on the other batch. With ``--clips`` so many
clips of MiniWorld are learned instead, and 100 of other videos measured; all begin with the network
of ``RUNS/motions``, which knows the verbs and nouns, as the paper's begins with IG65M's. Measured:

- captions that are wholly right, written greedily, after each third of the updates, and from which
  third on 90 % are;
- captions in words that no training had ("a scarlet box goes up"), ranked among all 144 (10);
- of MiniWorld, whose questions are learned beside its captions, answers among five, and those to
  questions in words that no training had ("tell me the hue of ...").

What is done in ``FOLDER`` is not done again. Writes results/pretrained_text_gestures.json, or
pretrained_text_miniworld_N.json for each number of clips; with ``--updates N``, a training of
another length, ``_N_updates`` is added to the name. A file of results has all texts and seeds that
``FOLDER`` has of its clips, not those alone that were asked for this time.
"""

import argparse
import itertools
import json
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measuring
from text_noise import PLUGIN, run, summary

# No third of these updates is the end of an epoch, where fairseq keeps no checkpoint of an update.
UPDATES = {50: 105, 500: 207, 5000: 207}  # by the clips of MiniWorld
HANDS_UPDATES = 63
THIRDS = 3
HANDS_LEARNED = "gestures, 146 clips"
ENOUGH = 90.0  # per cent of whole captions
TEXTS = {
    "trained": "trained T5", "new": "new T5", "frozen": "frozen T5",
    "slow": "frozen T5, a fifth of the rate", "fast": "frozen T5, four times the rate",
    "fastest": "frozen T5, twenty times the rate",
    "small": "trained T5, small video tokens",
}  # fmt: skip
COMMON = shlex.split(
    "--no-context --no-flip --num-workers 0 --optimizer adam --clip-norm 1 "
    "--adam-betas '(0.9,0.98)' --lr-scheduler polynomial_decay --no-epoch-checkpoints "
    "--disable-validation --log-format json --log-interval 10 --no-save-optimizer-state "
    "--save-interval 100000"  # but for the thirds: 300 MB each
)
MINIWORLD = shlex.split("--num-frames 8 --frame-size 32 --crop-scales 1,0.9 --cache-clips 0.5")
# As examples/gestures/train.sh shows clips to what writes.
GESTURES = shlex.split(
    "--num-frames 16 --frame-size 48 --max-seconds 0 --whole-frame --cache-clips 1 "
    "--crop-scales 1 --rotate 6 --stretch 0.45 --shift 0.18 --time-jitter 0.12 "
    "--color-jitter 0.35 --gray-clips 0.2 --still-mix 0.45 --video-pooling temporal"
)
WHOLE = shlex.split(
    "--arch video_translate_t5_small --t5-variant v1_1 --video-network tiny "
    "--criterion video_translate --text-dropout 1 --batch-size 16 --warmup-updates 10"
)
RATES = {
    "new": ["--lr", "1e-3", "--video-lr-scale", "3"],
    "trained": ["--lr", "1e-3", "--video-lr-scale", "3"],
    "small": ["--lr", "1e-3", "--video-lr-scale", "3"],
    "frozen": ["--freeze-text", "--lr", "5e-2", "--video-lr-scale", "0.2"],
    "slow": ["--freeze-text", "--lr", "1e-2", "--video-lr-scale", "0.2"],
    "fast": ["--freeze-text", "--lr", "2e-1", "--video-lr-scale", "0.2"],
    "fastest": ["--freeze-text", "--lr", "1", "--video-lr-scale", "0.04"],
}
COLORS = {
    "red": "scarlet", "green": "emerald", "blue": "navy",
    "yellow": "golden", "pink": "rose", "cyan": "turquoise",
}  # fmt: skip
SHAPES = {"square": "box", "triangle": "pyramid", "cross": "plus sign", "moon": "crescent"}
QUESTIONS = {  # beginnings of questions
    "what does the": "tell me the motion of the",
    "what colour is the": "tell me the hue of the",
    "which shape": "name the object that",
}
ACTIONS = {
    "rise": "goes up", "fall": "goes down", "slide": "moves sideways",
    "grow": "gets bigger", "shrink": "gets smaller", "rest": "stays where it is",
}  # fmt: skip
HANDS = {  # gestures by their label
    "swipe right": "a hand goes right", "swipe left": "a hand goes left",
    "swipe up": "a hand goes upward", "swipe down": "a hand goes downward",
    "circle": "a hand paints a ring", "rectangle": "a hand paints a box",
    "check mark": "a hand paints a tick", "caret": "a hand paints an arrowhead",
    "cross": "a hand paints an x", "star": "a hand paints a pentagram",
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """What is learned and what it is tested on.

    Attributes:
        data: data directory, whose captions are learned, with a split to test.
        other: the same clips to test, in other words: captions as labels, and questions.
        test: that split.
        actions: what is learned: caption, and answer where there are questions.
        clips: options of how clips are shown.
        updates: how long it is learned.
    """

    data: Path
    other: Path
    test: str
    actions: str
    clips: list[str]
    updates: int


def one_caption(row: dict[str, Any]) -> dict[str, Any]:
    """A row of MiniWorld with the first of its three captions alone."""
    return row | {"caption": row["caption"][:1]}


def reworded(row: dict[str, Any]) -> dict[str, Any]:
    """A row of MiniWorld in other words; its label is the caption."""
    color, shape = row["noun"].split()
    (begins,) = (words for words in QUESTIONS if row["question"].startswith(words))
    return row | {
        "label": f"a {COLORS[color]} {SHAPES[shape]} {ACTIONS[row['verb']]}",
        "question": row["question"].replace(begins, QUESTIONS[begins]).replace(" do ?", " ?"),
    }


def prepared(rows: list[dict[str, Any]], videos: Path, t5: Path, data: Path) -> Path:
    """A data directory of ``rows``, with T5's vocabulary."""
    if not (data / "data.json").exists():
        manifest = data.with_suffix(".jsonl")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        options = ["--annotations", manifest, "--videos", videos, "--skip-probe"]
        options += ["--vocabulary", t5 / "spiece.model"]
        run(data / "data.json", "vt-prepare", "jsonl", "--out", data, *options)
    return data


def miniworld(folder: Path, t5: Path, count: int) -> Corpus:
    """A MiniWorld with ``count`` clips to learn from; what is tested is the same in all of them."""
    from vt_fairseq.miniworld.world import generate

    world = folder / f"world-{count}"
    if not (world / "annotations.jsonl").exists():
        # 5 clips a video; the splits that are not used have one video each.
        size = {"train": -(-count // 5), "valid": 1, "test": 20, "novel": 1, "retrieval": 1}
        generate(world, size, seed=0)
    lines = (world / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [one_caption(json.loads(line)) for line in lines]
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    other = prepared(list(map(reworded, test)), world / "videos", t5, folder / f"other-{count}")
    every = itertools.product(COLORS.values(), SHAPES.values(), ACTIONS.values())
    words = "".join(f"a {' '.join(one)}\n" for one in every)
    (other / "labels-of-all.txt").write_text(words, encoding="utf-8")
    data = prepared(train[:count] + test, world / "videos", t5, folder / f"data-{count}")
    return Corpus(data, other, "test", "caption,answer", MINIWORLD, UPDATES[count])


def gestures(folder: Path, t5: Path, run_folder: Path) -> Corpus:
    """The clips of a run of gestures.py, from one batch to the other."""
    lines = (run_folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    videos = Path((run_folder / "root").read_text(encoding="utf-8").strip())
    test = [row | {"label": HANDS[row["label"]]} for row in rows if row["split"] == "valid"]
    other = prepared(test, videos, t5, folder / "other-hands")
    (other / "labels-of-all.txt").write_text("\n".join(HANDS.values()) + "\n", encoding="utf-8")
    data = prepared(rows, videos, t5, folder / "data-hands")
    return Corpus(data, other, "valid", "caption", GESTURES, HANDS_UPDATES)


def new_t5(t5: Path, seed: int, folder: Path) -> Path:
    """A folder like ``t5`` with random weights, as transformers draws them."""
    if not (folder / "spiece.model").exists():
        import torch
        from transformers import T5Config, T5ForConditionalGeneration

        torch.manual_seed(seed)
        T5ForConditionalGeneration(T5Config.from_pretrained(t5)).save_pretrained(folder)
        shutil.copyfile(t5 / "spiece.model", folder / "spiece.model")
    return folder


def draw_projection(checkpoint: Path, seed: int) -> None:
    """Draw the projection of the video's features anew, as a model of random weights has it."""
    import torch

    from vt_fairseq.models.video_translate import VIDEO_TOKEN_SCALE

    state = torch.load(checkpoint, weights_only=True)
    weight, bias = (state["model"][f"encoder.video.projection.{x}"] for x in ("weight", "bias"))
    generator = torch.Generator().manual_seed(seed)
    weight.normal_(std=VIDEO_TOKEN_SCALE * weight.size(1) ** -0.5, generator=generator)
    bias.zero_()
    torch.save(state, checkpoint)


def learned(
    corpus: Corpus, t5: Path, video: Path, text: str, seed: int, folder: Path
) -> dict[str, Any]:
    """What one model can after each third of the updates, and in other words at the end."""
    if (folder / "found.json").exists():
        return json.loads((folder / "found.json").read_text())
    source = new_t5(t5, seed, folder / "new-t5") if text == "new" else t5
    start = folder / "init.pt"
    options = ["--arch", "video_translate_t5_small", "--t5-variant", "v1_1", "--seed", str(seed)]
    run(start, "vt-init", "--t5", source, "--video", video, *options, "--out", start)
    if text in ("new", "small"):
        draw_projection(start, seed)
    train = ["fairseq-train", corpus.data, *PLUGIN, *COMMON, *corpus.clips, *WHOLE, *RATES[text]]
    third = corpus.updates // THIRDS
    train += ["--total-num-update", str(corpus.updates), "--max-update", str(corpus.updates)]
    train += ["--save-interval-updates", str(third), "--seed", str(seed), "--save-dir", folder]
    train += ["--finetune-from-model", start, "--actions", corpus.actions]
    run(folder / "checkpoint_last.pt", *train)
    found: dict[str, Any] = {}
    for updates in range(third, corpus.updates + 1, third):
        (path,) = folder.glob(f"checkpoint_*_{updates}.pt")
        found[f"captions after {updates}"] = captions(corpus, path, folder / f"captions-{updates}")
    words = ["--labels", str(corpus.other / "labels-of-all.txt"), "--action", "caption"]
    asked = {"captions in other words": ["classify", corpus.other, *words]}
    if "answer" in corpus.actions:
        asked["questions"] = ["vqa", corpus.data]
        asked["questions in other words"] = ["vqa", corpus.other]
    for what, kind in asked.items():
        out = folder / what.replace(" ", "-")
        score = ["vt-score", *kind, "--path", path, "--split", corpus.test, "--device", "cpu"]
        run(out / "metrics.json", *score, "--batch-size", "32", "--out", out)
        found[what] = json.loads((out / "metrics.json").read_text())["accuracy"]
    (folder / "found.json").write_text(json.dumps(found))
    for path in [*folder.glob("*.pt"), *folder.glob("new-t5/*.safetensors")]:
        path.unlink()  # 300 MB each
    return found


def captions(corpus: Corpus, path: Path, out: Path) -> float:
    """Per cent of the greedily written captions that are one of the references."""
    generate = ["fairseq-generate", corpus.data, *PLUGIN, "--gen-subset", corpus.test]
    generate += ["--path", path, "--batch-size", "50", "--action", "caption", "--beam", "1"]
    run(out / "predictions.jsonl", *generate, "--max-len-b", "16", "--results-path", out)
    files = [f"--{name}={out}/{name}.jsonl" for name in ("predictions", "references")]
    metrics = out / "metrics.json"
    run(metrics, "vt-evaluate", "captions", *files, "--coco=off", f"--out={metrics}")
    return json.loads(metrics.read_text())["exact_match"]


def run_folder(folder: Path, corpus: str, text: str, seed: str, length: str) -> Path:
    """Where one model is trained."""
    stem = corpus.replace(", ", "-").replace(" ", "-")
    return folder / f"{stem}-{text}-{seed}{length.replace('_', '-')}"


def done(folder: Path, corpus: str, text: str, length: str) -> dict[int, dict[str, Any]]:
    """What ``learned`` found, by the seed."""
    before, after = run_folder(folder, corpus, text, "*", length).name.split("*")
    seeds = {
        int(seed): path / "found.json"
        for path in folder.glob(f"{before}*{after}")
        if (seed := path.name.removeprefix(before).removesuffix(after)).isdecimal()
    }
    return {n: json.loads(seeds[n].read_text()) for n in sorted(seeds) if seeds[n].exists()}


def described(found_by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Means and intervals over the seeds, and after which updates enough is right."""
    ones = [*found_by_seed.values()]
    found: dict[str, Any] = {"random seeds": [*found_by_seed]}
    found |= {what: summary([one[what] for one in ones]) for what in ones[0]}
    curves = [{k: v for k, v in one.items() if k.startswith("captions after")} for one in ones]
    found[f"updates to {ENOUGH:.0f} %"] = [
        next((int(k.split()[-1]) for k, v in curve.items() if v >= ENOUGH), "more")
        for curve in curves
    ]
    return found


def main() -> int:
    """Train, measure, print, write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("t5", type=Path, help="Hugging Face folder of a trained T5 1.1 small")
    parser.add_argument("runs", type=Path, help="folder of the runs of gestures.py")
    parser.add_argument("folder", type=Path, help="for data, runs and what was found")
    parser.add_argument("--seeds", default="1,2,3", help="with commas (default: 1,2,3)")
    parser.add_argument("--clips", default="", help="of MiniWorld, not gestures: 50,500,5000")
    parser.add_argument("--texts", default=",".join(TEXTS), help="of all (default), with commas")
    parser.add_argument("--updates", type=int, help="a multiple of 3, in place of each corpus's")
    args = parser.parse_args()
    import vt_fairseq.plugin  # noqa: F401  (once, for all forks)

    folder, texts = args.folder, args.texts.split(",")
    clips = [int(count) for count in args.clips.split(",") if count]
    if unknown := {*clips} - {*UPDATES} or {*texts} - {*TEXTS}:
        parser.error(f"expected of {[*UPDATES]} and {[*TEXTS]}, found {unknown}")
    if (args.updates or 0) % THIRDS:
        parser.error(f"expected a multiple of {THIRDS} --updates, found {args.updates}")
    corpora = {f"MiniWorld, {count} clips": miniworld(folder, args.t5, count) for count in clips}
    length = "" if args.updates is None else f"_{args.updates}_updates"
    for seed in map(int, args.seeds.split(",")):  # all of the first seed come first
        hands = args.runs / f"train-to-valid-{seed}"
        starts = dict.fromkeys(corpora, args.runs / "motions" / "checkpoint_last.pt")
        if not clips:
            corpora[HANDS_LEARNED] = gestures(folder, args.t5, hands)
            starts[HANDS_LEARNED] = hands / "classes" / "checkpoint_last.pt"
        for name, corpus in corpora.items():
            if args.updates is not None:
                corpora[name] = corpus = replace(corpus, updates=args.updates)
            for text in texts:
                own = run_folder(folder, name, text, str(seed), length)
                one = learned(corpus, args.t5, starts[name], text, seed, own)
                print(name, text, seed, one, flush=True)
    # The result names no path of this machine.
    sys.argv[1:4] = ["T5", "RUNS", "FOLDER"]
    about = measuring.machine("transformers")
    for name, corpus in corpora.items():
        about["updates"] = corpus.updates
        models = {text: done(folder, name, text, length) for text in TEXTS}
        measured = {
            f"{name}: {TEXTS[text]}": described(ones) for text, ones in models.items() if ones
        }
        # "MiniWorld, 50 clips" is miniworld_50; the gestures have one size.
        words = name.removesuffix(" clips").lower().split(", ")
        measuring.write_result(
            "_".join(["pretrained_text", *(words if clips else words[:1])]) + length,
            about,
            measured,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
