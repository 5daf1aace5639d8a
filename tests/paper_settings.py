"""The paper's settings beside those of the recipes' own commands, as docs/paper_settings.md.

    python -m tests.paper_settings     writes the tables of the page anew

tests/test_paper_settings.py fails where the page, a recipe or a setting here changes alone.
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.commands import ROOT
from tests.recipes import EXAMPLES, INPUTS, RECIPES, recorded, recorder, trainings

PAGE = ROOT / "docs" / "paper_settings.md"
BEGIN, END = "<!-- tables -->\n", "<!-- end of the tables -->\n"
NOT_SAID = object()  # the paper leaves it open


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes:
        name: what is set.
        paper: the paper's words in short, and where.
        options: the paper's value of each option, or NOT_SAID.
        of: the values where they differ, by the name of a training or of its recipe.
        why: why recipes depart, or what they take where the paper says nothing.
        comment: words of a comment in the scripts of the recipes that depart.
    """

    name: str
    paper: str
    options: Mapping[str, Any]
    of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    why: str = ""
    comment: str = ""

    def expected(self, training: str, option: str) -> Any:
        """The paper's value for a training."""
        for name in (training, training.split()[0]):
            if option in self.of.get(name, {}):
                return self.of[name][option]
        return self.options[option]


def not_said(name: str, *options: str, why: str = "", paper: str = "not said") -> Setting:
    """A row of which the paper says nothing."""
    return Setting(name, paper, dict.fromkeys(options, NOT_SAID), why=why)


WHOLE = {name: {"max_seconds": 0.0} for name in ("epic_kitchens", "tvqa", "tvc")}
ALL = (
    Setting(
        "model",
        "t5-large and R(2+1)D-34 (4.1)",
        {"t5_size": "large", "t5_variant": "v1_0", "video_network": "34"},
    ),
    Setting(
        "frames",
        "32 of 112 × 112, spread over the clip (4.1, A.1)",
        {
            **{"num_frames": 32, "frame_size": 112, "frame_sampling": "uniform"},
            "frames_per_second": 16.0,  # of consecutive ones (Table 7a)
        },
    ),
    Setting(
        "window",
        "6 s of what is longer on HowTo100M, YouCook2 and MSR-VTT; else nothing is cut (A.1)",
        {"max_seconds": 6.0},
        of=WHOLE,
    ),
    Setting(
        "frame rate",
        "EPIC-Kitchens at 24 per second (A.1)",
        {"resample_fps": 0.0},
        of={"epic_kitchens": {"resample_fps": 24.0}},
    ),
    Setting("flip", "random, horizontal (A.1)", {"no_flip": False}),
    not_said("scales of the crop", "crop_scales", paper="multi-scale (A.1), which is not said"),
    Setting(
        "more augmentation",
        "none named",
        {
            "whole_frame": False,
            **dict.fromkeys(("rotate", "stretch", "shift", "color_jitter", "gray_clips"), 0.0),
            **dict.fromkeys(("time_jitter", "still_mix"), 0.0),
        },
    ),
    Setting(
        "source",
        "a question is part of the text (4.2.4), and sources end as T5's (A.2)",
        {"source_layout": "paper"},
    ),
    Setting("video tokens", "one per 8 frames (Table 7b)", {"video_pooling": "none"}),
    Setting(
        "video network",
        "all of it trains (Table 7e)",
        {"freeze_video": "none", "freeze_text": False},
    ),
    not_said("dropout of T5", "dropout", why="T5's own"),
    Setting("accumulation", "none named", {"update_freq": [1]}),
    not_said("clipping", "clip_norm", why="0.0 is none"),
    not_said("half precision", "fp16", why="V100s have fp16"),
)
ADAM = not_said("constants of Adam", "adam_betas", "adam_eps", "weight_decay", why="the usual ones")
DECODER = (
    Setting("context", "subtitles of TVQA and TVC (4.2)", {"no_context": False}),
    Setting(
        "text input",
        "the target, shuffled and masked (4.1)",
        {"text_input": "shuffled-masked"},
        of={"tvqa generative": {"text_input": NOT_SAID}},
        why="of TVQA: no noisy answer beside the question",
    ),
    Setting("masked share", "uniform in 0–100 % per mini-batch (4.1)", {"mask_amount": "batch"}),
    Setting(
        "text left out",
        "never (4.1)",
        {"text_dropout": 0.0},
        why="of half of the examples, as test has none; `NOISE=paper`, pretrain_howto100m_paper: "
        "never",
        comment="half of the examples are trained without any text",
    ),
    not_said(
        "text at test",
        *("test_text", "test_mask_tokens"),
        why="nothing; with the paper's noise masks",
    ),
)
PRETRAINING = (
    *ALL,
    *DECODER,
    Setting(
        "tasks",
        "each mini-batch for captions, then for classes (3.1)",
        {"actions": "caption,classify", "reuse_batch": True},
    ),
    Setting(
        "targets",
        "20 and 12 tokens (3.1)",
        {"max_target_tokens": "caption=20,classify=12"},
    ),
    Setting("optimizer", "Adam (4.1)", {"optimizer": "deepspeed_adam"}),
    ADAM,
    Setting(
        "learning rate",
        "1e-3, of the video network 1e-4 (4.1)",
        {"lr": [1e-3], "video_lr_scale": 0.1},
    ),
    Setting(
        "schedule",
        "inverse square root after T5, 50,000 of warm-up at the peak (4.1)",
        {"lr_scheduler": "inverse_sqrt", "warmup_updates": 50_000, "warmup_init_lr": 1e-3},
    ),
    Setting("updates", "250,000 (4.1)", {"max_update": 250_000}),
    Setting("clips per GPU", "8, on 128 GPUs (4.1)", {"batch_size": 8}),
)
CLASSES = {"actions": "classify"}
GENERATIVE = (
    *ALL,
    *DECODER,
    Setting(
        "tasks",
        "captions; EPIC-Kitchens classes, gen-MT both; TVQA answers (4.2)",
        {"actions": "caption"},
        of={
            "epic_kitchens generative": CLASSES,
            "epic_kitchens multitask": {"actions": "caption,classify"},
            "tvqa generative": {"actions": "answer"},
        },
    ),
    not_said("one mini-batch for all tasks", "reuse_batch", why="each row draws one per epoch"),
    not_said("targets", "max_target_tokens", why="20 tokens would cut these captions"),
    not_said(
        "optimizer",
        "optimizer",
        paper="not said; T5's own fine-tuning, which C.1 follows, has AdaFactor",
        why="Adam, as in pretraining",
    ),
    ADAM,
    Setting(
        "learning rate",
        "1e-4 for the entire model, constant (C.1)",
        {"lr": [1e-4], "video_lr_scale": 1.0, "lr_scheduler": "fixed"},
    ),
    Setting("warm-up", "20,000, linear (C.1)", {"warmup_updates": 20_000}),
    Setting("updates", "2^18 (C.1)", {"max_update": 2**18}),
    not_said("clips per GPU", "batch_size", why="pretraining's; 8 GPUs are our choice"),
)
DISCRIMINATIVE = (
    *ALL,
    Setting("context", "subtitles of TVQA (4.2.4)", {"no_context": False}),
    Setting(
        "heads",
        "linear, at [CLS] (3.1): verb and noun, or answer",
        {"heads": "verb,noun", "heads_on": "cls"},
        of={"tvqa discriminative": {"heads": "answer"}},
    ),
    not_said("optimizer", "optimizer", why="Adam, as in pretraining"),
    ADAM,
    Setting(
        "learning rate",
        "1e-5, of the linear layers 1e-3 (C.2)",
        {"lr": [1e-5], "video_lr_scale": 1.0, "head_lr_scale": 100.0},
    ),
    Setting(
        "decay",
        "× 0.1 every 15,000 (C.2)",
        {"lr_scheduler": "step", "lr_deacy_period": 15_000, "lr_decay": 0.1},
    ),
    Setting("warm-up", "one epoch where several nodes train (C.1)", {"warmup_updates": 0}),
    Setting("updates", "40,000 (C.2)", {"max_update": 40_000}),
    not_said("clips per GPU", "batch_size", why="pretraining's; 8 GPUs are our choice"),
)
NINE = [rate for rate in (0.0025, 0.00025, 0.000025) for _ in range(9)]
BASELINE = (
    *ALL,
    Setting("heads", "R(2+1)D-34 alone (C.2)", {"heads": "verb,noun", "heads_on": "video"}),
    not_said("optimizer", "optimizer", "momentum", "weight_decay", why="the rate is SGD's"),
    Setting(
        "learning rate",
        "0.0025, decayed every 9 epochs (C.2)",
        {"lr": NINE, "lr_scheduler": "fixed", "video_lr_scale": 1.0, "head_lr_scale": 1.0},
    ),
    Setting("warm-up", "one epoch, linear (C.2)", {"warmup_updates": 484}),
    Setting("epochs", "27 (C.2)", {"max_epoch": 27}),
    Setting("clips per GPU", "6 (C.2)", {"batch_size": 6}),
)
KINDS = {
    "Pretraining": PRETRAINING,
    "Generative fine-tuning": GENERATIVE,
    "Discriminative fine-tuning": DISCRIMINATIVE,
    "R(2+1)D-34 baseline": BASELINE,
}


def kind(training: Mapping[str, Any]) -> str:
    """Which of KINDS a training is."""
    if training["heads"]:
        return list(KINDS)[3 if training["heads_on"] == "video" else 2]
    return list(KINDS)[1 if training["lr_scheduler"] == "fixed" else 0]


def recipes_trainings() -> dict[str, dict[str, Any]]:
    """The options of each training by its name, such as "epic_kitchens generative"."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = recorder(Path(folder) / "bin")
        for recipe in RECIPES:
            (place := Path(folder) / recipe).mkdir()
            script = EXAMPLES / recipe / "run.sh"
            for training in trainings(recorded(script, commands, place, **INPUTS)):
                name = Path(training["save_dir"]).name
                found[recipe if name == "checkpoints" else f"{recipe} {name}"] = training
    return found


def departures(setting: Setting, of_kind: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The trainings that do otherwise than the paper."""
    return [
        name
        for name, training in of_kind.items()
        for option in setting.options
        if (expected := setting.expected(name, option)) is not NOT_SAID
        and str(training[option]) != str(expected)
    ]


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """All tables in Markdown."""
    text = []
    for title, settings in KINDS.items():
        of_kind = {name: t for name, t in found.items() if kind(t) == title}
        text.append(f"\n## {title}\n\nOf {', '.join(sorted(of_kind))}.\n\n")
        text.append("| | paper | recipe | |\n|---|---|---|---|\n")
        text += [row(setting, of_kind) for setting in settings]
    return "".join(text)


def row(setting: Setting, of_kind: Mapping[str, Mapping[str, Any]]) -> str:
    """One line of a table."""
    departs = "**departs**: " if departures(setting, of_kind) else ""
    values = ", ".join(value_of(option, of_kind) for option in setting.options)
    return f"| {setting.name} | {setting.paper} | {values} | {departs}{setting.why} |\n"


def value_of(option: str, of_kind: Mapping[str, Mapping[str, Any]]) -> str:
    """An option as it is written, and by which trainings where they differ."""
    trainings_with: dict[str, list[str]] = {}
    for name, training in of_kind.items():
        trainings_with.setdefault(written(option, training[option]), []).append(name)
    if len(trainings_with) == 1:
        return next(iter(trainings_with))
    return "; ".join(f"{v} ({', '.join(sorted(n))})" for v, n in sorted(trainings_with.items()))


def written(option: str, value: Any) -> str:
    """``--option value`` in a document's words."""
    name = f"--{option.replace('_', '-')}"
    if isinstance(value, bool):
        return f"`{name}`" if value else f"no `{name}`"
    if isinstance(value, list):
        runs = [(v, len(list(same))) for v, same in groupby(value)]
        value = ", ".join(f"{v:g}" + (f" ({n} epochs)" if n > 1 else "") for v, n in runs)
    return f"`{name} {value}`"


def main() -> None:
    """Write the page's tables; end the script where its marks are not there."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE} has no lines {BEGIN.strip()} and {END.strip()}: add them")
    PAGE.write_text(f"{before}{begin}{tables(recipes_trainings())}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
