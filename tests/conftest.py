"""Shared fixtures: real test material, a small MiniWorld prepared, a model trained on it."""

import fcntl
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.commands import PLUGIN, TINY, run
from tests.warm_commands import commands_on_path

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real material, named by VT_TEST_DATA; tests that want it skip without."""
    folder = os.environ.get("VT_TEST_DATA")
    if not folder:
        pytest.skip("VT_TEST_DATA is not set: no real material to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """A folder that the worker processes of one run of the tests have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def own_key(shared_folder) -> Iterator[None]:
    """The key that signs folders of videos is made beside the tests, not in the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(shared_folder / "config"))
        yield


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may become larger than a megabyte, though the disk has room: as with a quota."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make`` in the first process that wants it while the others wait."""
    folder.mkdir(exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".made").exists():
            make(folder)
            (folder / ".made").touch()
    return folder


@pytest.fixture(scope="session")
def data_directory(shared_folder) -> Path:
    """A prepared data directory of the smallest MiniWorld."""

    def prepare(folder: Path) -> None:
        run_main(
            "vt_fairseq.cli.prepare",
            *["miniworld", "--size", "tiny", "--out", str(folder / "data")],
            *["--train-vocabulary", "200"],
        )

    return made_once(shared_folder / "miniworld", prepare) / "data"


@pytest.fixture(scope="session")
def trained(data_directory, shared_folder) -> Path:
    """A checkpoint of a few updates, with validation that generates."""

    def train(save: Path) -> None:
        log = run(
            "fairseq-train",
            *[data_directory, *PLUGIN, *TINY, "--actions", "caption,classify", "--save-dir", save],
            *["--max-epoch", "2", "--eval-bleu", "--best-checkpoint-metric", "bleu"],
            "--eval-bleu-print-samples",
            *["--maximize-best-checkpoint-metric", "--lr-scheduler", "inverse_sqrt"],
            *["--warmup-updates", "4", "--video-lr-scale", "0.1"],
        )
        assert "| bleu " in log and "| exact_match " in log and "accuracy" in log
        assert re.search(r"\| \S+: .+; expected a \w+ \w+ \w+ \| we see", log)

    return made_once(shared_folder / "trained", train) / "checkpoint_best.pt"


@pytest.fixture(scope="module")
def vt(trained):
    """The trained model as the API has it."""
    from vt_fairseq import VideoTranslate

    return VideoTranslate.from_pretrained(trained, device="cpu")


@pytest.fixture
def call_main(monkeypatch, capsys):
    """(main, *arguments) -> exit code, stdout, stderr of a command run in this process."""

    def call(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def real_commands() -> Iterator[Path]:
    """A folder with all commands."""
    with tempfile.TemporaryDirectory() as folder, commands_on_path(Path(folder)) as path:
        yield path


def run_main(module: str, *arguments: str, function: str = "main") -> None:
    """Call a command's ``main()`` in this process, as its console script does."""
    import importlib

    old, sys.argv = sys.argv, [module, *arguments]
    try:
        getattr(importlib.import_module(module), function)()
    finally:
        sys.argv = old
