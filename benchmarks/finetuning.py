"""Generative, discriminative and fused fine-tuning compared on MiniWorld (paper, tables 1 and 6).

    python benchmarks/finetuning.py OUT [--seeds 1,2,3] [--smoke]

Makes MiniWorld in OUT, pretrains one model on noisy narrations, fine-tunes it on few clips in seven
ways for each seed, scores them on held-out videos and writes finetuning.json beside this file
(with --smoke into OUT: a few updates that only show that every command runs). Steps that are done
are left out, so an interrupted call goes on. Public commands do all of it.

Questions are of two sorts: about the video (MiniWorld's own), and about the talk in the subtitles,
which cannot be answered without them.
"""

import argparse
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ["--user-dir", str(ROOT / "user_dir"), "--task", "video_translate"]
# Two runs share two cores; threads that spin while they wait would take the time of the other.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
AT_ONCE = 2
RESULT = ROOT / "benchmarks" / "finetuning.json"
FINETUNING_VIDEOS = 100  # of 600; five clips each
PRETRAINING_UPDATES = 900
UPDATES = 300
RATE = "5e-4"

COMMON = [
    *PLUGIN,
    *["--arch", "video_translate_tiny", "--num-frames", "8", "--frame-size", "40", "--no-flip"],
    *["--crop-scales", "1,0.9", "--optimizer", "adam", "--adam-betas", "(0.9,0.98)"],
    *["--clip-norm", "1.0", "--batch-size", "32", "--num-workers", "1", "--cpu"],
    *["--disable-validation", "--no-epoch-checkpoints", "--log-format", "simple"],
    *["--log-interval", "30"],
]
PROMPTS = ["--define-action", "action=action:classify :"]
GENERATIVE = [*PROMPTS, "--criterion", "video_translate", "--text-dropout", "0.8"]
HEADS = ["--criterion", "video_translate_classification", "--head-lr-scale", "4"]
WITHOUT = ["--no-context"]
ASK = ["--train-subset", "ask"]


@dataclass(frozen=True)
class Model:
    """One fine-tuned model: the options that train it, and for how many updates.

    Attributes:
        repeats: updates in units of the others'; two tasks on each batch make it two.
    """

    name: str
    options: list[str]
    repeats: int = 1


MODELS = (
    Model("action", [*GENERATIVE, *WITHOUT, "--actions", "action"]),
    Model(
        "caption-action",
        [*GENERATIVE, *WITHOUT, "--actions", "caption,action", "--reuse-batch"],
        repeats=2,
    ),
    Model("action-heads", [*HEADS, *WITHOUT, "--heads", "verb,noun"]),
    Model("answer", [*GENERATIVE, *WITHOUT, *ASK, "--actions", "answer"]),
    Model("answer-heads", [*HEADS, *WITHOUT, *ASK, "--heads", "answer"]),
    Model("answer-subtitles", [*GENERATIVE, *ASK, "--actions", "answer"]),
    Model("answer-heads-subtitles", [*HEADS, *ASK, "--heads", "answer"]),
)


# --- data ----------------------------------------------------------------------------------------


def talk_question(row: dict, index: int, names: list[str], lines: list[str]) -> dict:
    """Half of the questions ask for one of the two speakers, half for one of the two lines."""
    said = [turn.split(" : ") for turn in row["context"].split(" . ")]
    kind = index % 2
    right = said[index // 2 % 2][kind]
    heard = {turn[kind] for turn in said}
    wrong = [text for text in (names, lines)[kind] if text not in heard]
    start = index % len(wrong)
    candidates = (wrong[start:] + wrong[:start])[:4]
    answer = index % (len(candidates) + 1)
    candidates.insert(answer, right)
    return {
        "question": ("who talks ?", "what is said ?")[kind],
        "candidates": candidates,
        "answer": answer,
    }


def rows_of_the_comparison(rows: list[dict]) -> Iterator[dict]:
    """MiniWorld's rows: few for fine-tuning; splits ``ask`` and ``talk`` with the new questions."""
    turns = [
        turn.split(" : ")
        for row in rows
        if "context" in row
        for turn in row["context"].split(" . ")
    ]
    names, lines = (sorted({turn[i] for turn in turns}) for i in range(2))
    for index, row in enumerate(rows):
        split = row["split"]
        if split in ("pretrain", "test", "valid"):
            yield row
        few = split == "train" and int(row["group"].split("-")[1]) < FINETUNING_VIDEOS
        if few:
            yield row
            yield row | {"split": "ask"}
        if few or split == "test":
            talk = row | talk_question(row, index, names, lines)
            yield talk | {"id": f"talk-{row['id']}", "split": "ask" if few else "talk"}


# --- steps ---------------------------------------------------------------------------------------


def run(name: str, command: list[str], done: Path, out: Path) -> None:
    """Run one command unless ``done`` exists, its output in ``out/logs``; stop on failure."""
    if done.exists():
        return
    log = out / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write(shlex.join(command) + "\n")
        file.flush()
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=ENVIRONMENT
        ).returncode
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise SystemExit(f"{name} failed with exit code {code}; the end of {log}:\n{tail}")
    print(f"{name}: done", flush=True)


@dataclass(frozen=True)
class Comparison:
    """Where everything is, and how long training is."""

    out: Path
    smoke: bool

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def pretrained(self) -> Path:
        return self.out / "pretrained" / "checkpoint_last.pt"

    def updates(self, number: int) -> int:
        return 4 if self.smoke else number

    def checkpoint(self, model: str, seed: int) -> Path:
        return self.out / f"seed{seed}" / model / "checkpoint_last.pt"

    def prepare(self) -> None:
        """MiniWorld, and from its rows the data directory of the comparison."""
        world = self.out / "world"
        size = "tiny" if self.smoke else "default"
        command = ["vt-prepare", "miniworld", "--size", size, "--out", str(world)]
        command += ["--train-vocabulary", "300"]
        run("world", command, world / "data.json", self.out)
        annotations = self.out / "annotations.jsonl"
        lines = (world / "world" / "annotations.jsonl").read_text(encoding="utf-8").splitlines()
        rows = rows_of_the_comparison([json.loads(line) for line in lines])
        annotations.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [
            "vt-prepare",
            "jsonl",
            "--annotations",
            str(annotations),
            "--out",
            str(self.data),
        ]
        command += ["--videos", str(world / "world" / "videos")]
        command += ["--vocabulary", str(world / "spiece.model")]
        run("data", command, self.data / "data.json", self.out)

    def pretrain(self) -> None:
        """Captioning of noisy narration from scratch; the learning rate falls to 0."""
        updates = self.updates(PRETRAINING_UPDATES)
        command = [
            *["fairseq-train", str(self.data), *COMMON, "--criterion", "video_translate"],
            *["--train-subset", "pretrain", "--actions", "caption", "--text-dropout", "0.8"],
            *["--lr", "1e-3", "--lr-scheduler", "polynomial_decay", "--warmup-updates", "50"],
            *["--total-num-update", str(updates), "--max-update", str(updates), "--seed", "1"],
            *["--save-interval-updates", "150", "--keep-interval-updates", "1"],
            *["--save-dir", str(self.pretrained.parent)],
        ]
        self.train("pretraining", command, self.pretrained.parent)

    def finetune(self, model: Model, seed: int) -> None:
        """One of the models from the pretrained one; the learning rate falls in one step."""
        updates = self.updates(UPDATES) * model.repeats
        folder = self.checkpoint(model.name, seed).parent
        command = [
            *["fairseq-train", str(self.data), *COMMON, *model.options],
            *["--finetune-from-model", str(self.pretrained), "--lr", RATE],
            *["--lr-scheduler", "step", "--lr-deacy-period", str(updates * 2 // 3)],
            *["--lr-decay", "0.1", "--warmup-updates", "20", "--max-update", str(updates)],
            *["--seed", str(seed), "--save-dir", str(folder)],
        ]
        self.train(f"seed{seed}-{model.name}", command, folder)

    def train(self, name: str, command: list[str], folder: Path) -> None:
        """fairseq's own checkpoints tell an interrupted training from a finished one."""
        run(name, command, folder / "trained", self.out)
        (folder / "trained").touch()

    def score(self, measured: "Measured", seed: int) -> None:
        """Rank the candidates of one split."""
        folder = self.folder(measured, seed)
        command = [
            *["vt-score", measured.kind, str(self.data), "--out", str(folder), "--cpu"],
            *["--path", str(self.checkpoint(measured.model, seed)), "--split", measured.split],
            *["--batch-size", "32", *measured.options],
        ]
        if measured.fuse:
            command += ["--fuse", str(self.checkpoint(measured.fuse, seed))]
        run(f"seed{seed}-score-{measured.name}", command, folder / "metrics.json", self.out)

    def folder(self, measured: "Measured", seed: int) -> Path:
        return self.out / f"seed{seed}" / "scores" / measured.name

    def result(self, measured: "Measured", key: str, seeds: list[int]) -> list[float]:
        """One number of every seed."""
        files = [self.folder(measured, seed) / "metrics.json" for seed in seeds]
        return [round(json.loads(file.read_text())[key], 2) for file in files]


# --- what is compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One call of vt-score.

    Attributes:
        keys: the numbers of its metrics.json that are compared.
    """

    name: str
    kind: str
    model: str
    keys: tuple[str, ...]
    fuse: str = ""
    split: str = "test"
    options: tuple[str, ...] = ()


ACTION_KEYS = ("verb_top1", "noun_top1", "action_top1")
PAIRS = ("--targets", "action")


def classification() -> list[Measured]:
    """Verbs, nouns and actions of the held-out videos."""
    first = (*PAIRS, "--caption-first")
    return [
        Measured("gen", "classify", "action", ACTION_KEYS, options=PAIRS),
        Measured("gen-MT", "classify", "caption-action", ACTION_KEYS, options=PAIRS),
        Measured("gen-MT-caption", "classify", "caption-action", ACTION_KEYS, options=first),
        Measured("discr", "classify", "action-heads", ACTION_KEYS),
        Measured("fused", "classify", "action", ACTION_KEYS, "action-heads", options=PAIRS),
    ]


def questions() -> list[Measured]:
    """Questions about the video (split test) and about the talk, without and with subtitles."""
    measured = []
    for split, what in (("test", "video"), ("talk", "talk")):
        for suffix in ("", "-subtitles"):
            decoder, heads = f"answer{suffix}", f"answer-heads{suffix}"
            name, keys = f"{what}{suffix}", ("accuracy",)
            measured += [
                Measured(f"gen-{name}", "vqa", decoder, keys, split=split),
                Measured(f"discr-{name}", "vqa", heads, keys, split=split),
                Measured(f"fused-{name}", "vqa", decoder, keys, heads, split),
            ]
    return measured


# The paper's orderings: (lower, higher) as (measured, key).
ORDERINGS = (
    *((("gen", key), ("gen-MT", key)) for key in ACTION_KEYS),
    *((("gen-MT", key), ("gen-MT-caption", key)) for key in ACTION_KEYS),
    *((("gen-MT-caption", key), ("discr", key)) for key in ACTION_KEYS),
    *((("discr", key), ("fused", key)) for key in ACTION_KEYS),
    (("gen-video", "accuracy"), ("discr-video", "accuracy")),
    (("discr-video", "accuracy"), ("fused-video", "accuracy")),
    (("gen-video-subtitles", "accuracy"), ("discr-video-subtitles", "accuracy")),
    (("discr-video-subtitles", "accuracy"), ("fused-video-subtitles", "accuracy")),
    (("gen-talk", "accuracy"), ("gen-talk-subtitles", "accuracy")),
    (("discr-talk", "accuracy"), ("discr-talk-subtitles", "accuracy")),
    (("fused-talk", "accuracy"), ("fused-talk-subtitles", "accuracy")),
)


def ordered(numbers: dict[str, dict[str, list[float]]]) -> dict[str, str]:
    """Each ordering with the means over the seeds, and in how many seeds it holds."""
    found = {}
    for (low, low_key), (high, high_key) in ORDERINGS:
        pairs = list(zip(numbers[low][low_key], numbers[high][high_key], strict=True))
        means = [sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
        holds = "holds" if means[0] <= means[1] else "does not hold"
        seeds = sum(a <= b for a, b in pairs)
        found[f"{high} >= {low}, {high_key}"] = (
            f"{holds}: {means[1]:.1f} against {means[0]:.1f}; in {seeds} of {len(pairs)} seeds"
        )
    return found


def table(numbers: dict[str, dict[str, list[float]]]) -> str:
    """Means over the seeds."""
    lines = []
    for name, keys in numbers.items():
        means = [f"{key} {sum(values) / len(values):6.1f}" for key, values in keys.items()]
        lines.append(f"{name:24} {'  '.join(means)}")
    return "\n".join(lines)


def in_parallel(jobs) -> None:
    """Call all of them, a few at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(*job) for job in jobs]:
            future.result()


def main() -> None:
    """Prepare, train, score, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for data, checkpoints and scores")
    parser.add_argument("--seeds", default="1,2,3", help="seeds of fine-tuning")
    parser.add_argument("--smoke", action="store_true", help="a few updates on a tiny MiniWorld")
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    comparison = Comparison(args.out.absolute(), args.smoke)
    comparison.out.mkdir(parents=True, exist_ok=True)
    comparison.prepare()
    comparison.pretrain()
    in_parallel((comparison.finetune, model, seed) for seed in seeds for model in MODELS)
    measured = [*classification(), *questions()]
    in_parallel((comparison.score, one, seed) for seed in seeds for one in measured)
    numbers = {
        one.name: {key: comparison.result(one, key, seeds) for key in one.keys} for one in measured
    }
    options = ["--seeds", args.seeds, *(["--smoke"] if args.smoke else [])]
    result = {
        "command": " ".join(["python benchmarks/finetuning.py OUT", *options]),
        "seeds": seeds,
        "per cent, a number for each seed": numbers,
        "the paper's orderings": ordered(numbers),
    }
    file = comparison.out / "finetuning.json" if args.smoke else RESULT
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{table(numbers)}\n\n" + "\n".join(": ".join(x) for x in ordered(numbers).items()))


if __name__ == "__main__":
    main()
