"""Runs fairseq's and our commands as users do, in processes of their own."""

import argparse
import importlib
import os
import re
import socket
import sys
import tempfile
from pathlib import Path

from tests import warm

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ["--user-dir", str(ROOT / "user_dir"), "--task", "video_translate", "--cpu"]
MODULES = {
    "fairseq-train": "fairseq_cli.train",
    "fairseq-generate": "fairseq_cli.generate",
    "fairseq-interactive": "fairseq_cli.interactive",
    "fairseq-validate": "fairseq_cli.validate",
    "vt-caption": "vt_fairseq.cli.caption",
    "vt-index": "vt_fairseq.cli.index",
    "vt-search": "vt_fairseq.cli.search",
    "vt-ask": "vt_fairseq.cli.ask",
    "vt-serve": "vt_fairseq.cli.serve",
    "vt-score": "vt_fairseq.cli.score",
    "vt-evaluate": "vt_fairseq.cli.evaluate",
    "vt-init": "vt_fairseq.cli.init",
    "vt-memory": "vt_fairseq.cli.memory",
    "vt-report": "vt_fairseq.cli.report",
    "vt-submit": "vt_fairseq.cli.submit",
    "vt-prepare": "vt_fairseq.cli.prepare",
}
TINY = [
    *["--arch", "video_translate_tiny", "--criterion", "video_translate"],
    *["--num-frames", "8", "--frame-size", "32", "--optimizer", "adam", "--lr", "1e-3"],
    *["--batch-size", "8", "--no-progress-bar", "--log-format", "simple", "--log-interval", "1"],
]


def command_line(command: str, *arguments: str | Path) -> list[str]:
    """The command, or the script, with this Python, so that nothing has to be on the PATH."""
    started = ["-m", MODULES[command]] if command in MODULES else [command]
    return [sys.executable, *started, *map(str, arguments)]


def environment() -> dict[str, str]:
    """This process's, with one thread per process: two of them share two cores."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(
    command: str,
    *arguments: str | Path,
    expected_code: int = 0,
    cwd: Path | None = None,
    timeout: float = 300,
) -> str:
    """Output (stdout and stderr) of a command that ends with ``expected_code``."""
    arguments = command_line(command, *arguments)[1:]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = warm.start(arguments, output, environment(), cwd)
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
        text = output.read_text(errors="replace")
    assert process.exitcode == expected_code, text[-3000:]
    return text


def parser_of(command: str) -> argparse.ArgumentParser:
    """A new parser; fairseq's is the one without what --task and --arch add."""
    from fairseq import options

    import vt_fairseq.plugin  # noqa: F401

    if command.startswith("vt-"):
        return importlib.import_module(MODULES[command]).build_parser()
    return {
        "fairseq-train": options.get_training_parser,
        "fairseq-generate": options.get_generation_parser,
        "fairseq-interactive": options.get_interactive_generation_parser,
        "fairseq-validate": options.get_validation_parser,
    }[command]()


def parsed(words: list[str]) -> argparse.Namespace:
    """What the real command makes of its arguments; SystemExit where it does not know one."""
    from fairseq import options

    parser, arguments = parser_of(words[0]), words[1:]
    if words[0].startswith("vt-"):
        return parser.parse_args(arguments)
    return options.parse_args_and_arch(parser, arguments)


def train_losses(log: str) -> dict[int, tuple[str, str]]:
    """Loss and gradient norm of each update as they were printed."""
    pattern = r"\| train_inner \|.*? loss=([\d.]+).*?num_updates=(\d+).*?gnorm=([\d.]+)"
    return {int(n): (loss, norm) for loss, n, norm in re.findall(pattern, log)}


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launcher(processes: int) -> list[str]:
    """Command that starts a Python script in one process or, by torchrun, in several."""
    if processes == 1:
        return [sys.executable]
    where = ["--nproc-per-node", str(processes), "--master-port", str(free_port())]
    return [sys.executable, "-m", "torch.distributed.run", *where]
