"""Which functions of Python, torch and fairseq a program replaces in its process.

    python tests/replaced.py train FILE [fairseq-train's arguments]
    python tests/replaced.py read FILE CHECKPOINT DATA FOLDER

The first trains; the second opens a model in Python and runs commands that only read it. FILE gets
the replaced names as JSON: those found by comparing, step by step, and those of our tables.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import fairseq_cli.generate
import fairseq_cli.train

WATCHED = ("sys", "torch.utils.data", "multiprocessing", "fairseq", "fairseq_cli")


def functions() -> dict[str, object]:
    """Functions and classes by name, of modules and of the classes in them."""
    found: dict[str, object] = {}
    for module in {id(m): m for m in sys.modules.values()}.values():
        name = getattr(module, "__name__", "")
        if not any(f"{name}.".startswith(f"{watched}.") for watched in WATCHED):
            continue
        for attribute, value in list(vars(module).items()):
            if callable(value):
                found[f"{name}.{attribute}"] = value
            if isinstance(value, type) and value.__module__ == name:
                for member, function in vars(value).items():
                    if callable(function) or isinstance(function, (staticmethod, classmethod)):
                        found[f"{name}.{attribute}.{member}"] = function
    return found


def replaced(run: Callable[[], object]) -> list[str]:
    """Names that are something else after ``run()``, or new in a class that was there before."""
    before = functions()
    run()
    return sorted(
        name
        for name, function in functions().items()
        if before.get(name) is not function
        and (name in before or name.rsplit(".", 1)[0] in before)
        and not getattr(function, "hooked", False)  # torch's own, of every optimizer's ``step``
    )


def command(module: str, *arguments: str) -> Callable[[], object]:
    """A command's ``main``, as its console script calls it."""

    def run() -> None:
        import importlib

        sys.argv = [module, *arguments]
        importlib.import_module(module).main()

    return run


def read(checkpoint: str, data: str, folder: str) -> dict[str, list[str]]:
    """What opening a model and the commands that only read one replace."""
    video = str(next((Path(data) / "world" / "videos").glob("*.mp4")))
    scored = str(Path(folder) / "scored")
    predictions, references = (
        Path(folder) / name for name in ("predictions.jsonl", "references.jsonl")
    )
    predictions.write_text('{"id": "a", "prediction": "a circle"}\n')
    references.write_text('{"id": "a", "references": ["a circle"]}\n')

    def open_model() -> None:
        from vt_fairseq import VideoTranslate

        VideoTranslate.from_pretrained(checkpoint, device="cpu").caption(video)

    steps = {
        "import vt_fairseq": lambda: __import__("vt_fairseq"),
        "from_pretrained": open_model,
        "vt-caption": command("vt_fairseq.cli.caption", video, "--path", checkpoint),
        "vt-score": command(
            *["vt_fairseq.cli.score", "vqa", data, "--path", checkpoint, "--out", scored, "--cpu"],
            *["--num-workers", "1"],
        ),
        "vt-evaluate": command(
            *["vt_fairseq.cli.evaluate", "captions", "--predictions", str(predictions)],
            *["--references", str(references), "--out", f"{folder}/metrics.json", "--coco", "off"],
        ),
    }
    return {name: replaced(run) for name, run in steps.items()}


def train(*arguments: str) -> dict[str, list[str]]:
    """What a training run replaces, and what our tables say."""
    sys.argv = ["fairseq-train", *arguments]
    found = replaced(fairseq_cli.train.cli_main)
    from vt_fairseq.training.patches import PATCHES, TRAINING_PATCHES

    return {
        "found": found,
        "tables": sorted(
            f"{owner.__module__}.{owner.__qualname__}.{name}"
            if isinstance(owner, type)
            else f"{owner.__name__}.{name}"
            for owner, name, *_ in PATCHES + TRAINING_PATCHES
        ),
    }


if __name__ == "__main__":
    _, what, file, *rest = sys.argv
    Path(file).write_text(json.dumps({"read": read, "train": train}[what](*rest)))
