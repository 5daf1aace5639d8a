"""How far data walks: files of vt_fairseq entered, and changes of file, along four paths.

    python tests/walks.py [--tree CHECKOUT] [--files]

The paths are a row of the manifest to its loss, one's own video to its caption, a question to its
score, and the save of a checkpoint. Counted are calls of functions (a generator that goes on is
one, too); what modules do while they are imported is left out. A change of file is a call into
another file of the package than the call before. ``--tree`` measures another checkout with the
same data, to compare two.
"""

import argparse
import contextlib
import functools
import importlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FRAMES = ["--num-frames", "8", "--frame-size", "32"]


class Walk:
    """The files of a package whose functions are called while the context is open."""

    def __init__(self, package: Path):
        self.prefix = str(package) + os.sep
        self.calls: list[str] = []

    def _profile(self, frame: Any, event: str, argument: object) -> None:
        code = frame.f_code
        ours = code.co_filename.startswith(self.prefix) and code.co_name != "<module>"
        if ours and event == "call":
            self.calls.append(code.co_filename.removeprefix(self.prefix))

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Record this thread and those that it starts."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @property
    def files(self) -> list[str]:
        """Each file once, in the order of the first call."""
        return list(dict.fromkeys(self.calls))

    @property
    def changes(self) -> int:
        """How often a call went into another file than the one before."""
        return sum(a != b for a, b in zip(self.calls, self.calls[1:], strict=False))


def call_main(module: str, *arguments: object, function: str = "main") -> None:
    """Call a command's ``main()`` in this process; an exit code of 0 is no exception."""
    old, sys.argv = sys.argv, [module, *map(str, arguments)]
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = old


def row_to_loss(walk: Walk, work: Path, plugin: list[str]) -> None:
    """Two rows of the manifest: decoded, collated, and through model and loss."""
    from fairseq import options, tasks, utils

    parser = options.get_training_parser()
    utils.import_user_module(argparse.Namespace(user_dir=plugin[1]))
    arguments = [str(work / "data"), *plugin, "--arch", "video_translate_tiny", "--cpu", *FRAMES]
    args = options.parse_args_and_arch(
        parser, [*arguments, "--criterion", "video_translate", "--actions", "caption"]
    )
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    task.load_dataset("train")
    dataset = task.dataset("train")
    with walk.recorded():
        criterion(model, dataset.collater([dataset[0], dataset[1]]))


def video_to_caption(walk: Walk, work: Path, plugin: list[str]) -> None:
    """``vt-caption`` of one file."""
    video = min((work / "data" / "world" / "videos").rglob("*.mp4"))
    with walk.recorded():
        # An untrained model does not stop by itself; 0.1.0 knows this spelling alone.
        options = ["--path", work / "save" / "checkpoint_last.pt", "--max-tokens", "4"]
        call_main("vt_fairseq.cli.caption", video, *options)


def question_to_score(walk: Walk, work: Path, plugin: list[str]) -> None:
    """``vt-score vqa`` of a split."""
    options = ["--path", work / "save" / "checkpoint_last.pt", "--out", work / "scores"]
    options += ["--split", "valid", "--num-workers", "0"]
    with walk.recorded():
        call_main("vt_fairseq.cli.score", "vqa", work / "data", *options)


def checkpoint_save(walk: Walk, work: Path, plugin: list[str]) -> None:
    """What ``fairseq-train`` does to save its last checkpoint."""
    from fairseq import checkpoint_utils

    save = checkpoint_utils.save_checkpoint

    def recorded_save(*args: Any, **kwargs: Any) -> Any:
        walk.calls.clear()
        with walk.recorded():
            return save(*args, **kwargs)

    checkpoint_utils.save_checkpoint = recorded_save
    train(work, plugin, work / "again", functools.partial(call_main, function="cli_main"))


def train(work: Path, plugin: list[str], save: Path, run: Callable[..., None]) -> None:
    """Two updates of the smallest model, saved in ``save``."""
    run(
        "fairseq_cli.train",
        *[work / "data", *plugin, "--arch", "video_translate_tiny", *FRAMES, "--cpu"],
        *["--criterion", "video_translate", "--actions", "caption", "--optimizer", "adam"],
        *["--lr", "1e-3", "--batch-size", "8", "--max-update", "2", "--num-workers", "0"],
        *["--save-dir", save, "--no-progress-bar", "--disable-validation"],
    )


PATHS: dict[str, Callable[[Walk, Path, list[str]], None]] = {
    "manifest row to loss": row_to_loss,
    "own video to caption": video_to_caption,
    "question to score": question_to_score,
    "checkpoint save": checkpoint_save,
}


def in_tree(tree: Path, *arguments: object) -> str:
    """Standard output of ``python`` with ``arguments`` in a process that imports ``tree``."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def measured(tree: Path, name: str, work: Path) -> tuple[list[str], int]:
    """Files and changes of file along one path in a checkout, by a process of its own."""
    lines = in_tree(tree, __file__, "--path", name, "--work", work, "--tree", tree).splitlines()
    files = lines[lines.index("WALK") + 1 :]
    return files[1:], int(files[0])


def main() -> None:
    """Print the table, or (for a process of its own) walk one path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout to measure")
    parser.add_argument("--files", action="store_true", help="name the files, too")
    parser.add_argument("--path", choices=PATHS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    tree = args.tree.resolve()
    plugin = ["--user-dir", str(tree / "user_dir"), "--task", "video_translate"]
    if args.path:
        walk = Walk(tree / "vt_fairseq")
        PATHS[args.path](walk, args.work, plugin)
        print("WALK", walk.changes, *walk.files, sep="\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        world = ["miniworld", "--size", "tiny", "--out", work / "data"]
        in_tree(tree, "-m", "vt_fairseq.cli.prepare", *world, "--train-vocabulary", "200")
        train(work, plugin, work / "save", lambda *words: in_tree(tree, "-m", *words))
        print(f"{'path':24}{'files':>7}{'changes of file':>17}")
        for name in PATHS:
            files, changes = measured(tree, name, work)
            print(f"{name:24}{len(files):7}{changes:17}", flush=True)
            for file in files if args.files else ():
                print(f"    {file}")


if __name__ == "__main__":
    main()
