"""Data walks one way: which rooms of vt_fairseq may import which."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "vt_fairseq"
MAX_ROOT_FILES = 11

# Rooms and modules at the root that know nothing of the rest, so that every room may use them.
TOOLS = {"devices", "errors", "files", "quiet_imports", "version", "visible_text"}
# Each room, in the order of the data, and the rooms that it may import beside itself and TOOLS.
ROOMS: dict[str, set[str]] = {
    **{name: set() for name in TOOLS},
    "video": set(),
    "miniworld": {"video"},
    "data": {"video"},
    "models": {"data"},
    "criterions": {"data", "models"},
    "metrics": set(),
    "candidates": {"data", "models"},
    "task_config": {"data"},
    "task": {"video", "data", "models", "metrics", "task_config"},
    "training": {"data", "models", "task", "task_config"},
    "plugin": {"criterions", "models", "task", "training"},
    "library": {"video", "data", "models", "candidates", "task", "task_config"},
    "inference": {"video", "data", "models", "candidates", "task", "task_config", "library"},
    "serve": {"video", "library", "inference"},
    "scoring": {"video", "data", "models", "candidates", "metrics", "inference"},
    "corpora": {"video", "miniworld", "data"},
    "evaluation": {"corpora", "data", "candidates", "metrics"},
    "report": {"video", "data", "candidates", "metrics", "evaluation"},
    "__init__": {"inference"},
}
# The commands stand on top: they may import everything, and nothing imports them.
ROOMS["cli"] = set(ROOMS)


def room(path: Path) -> str:
    """The folder at the package's root, or the file, that ``path`` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports, inside functions and for type checkers included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names if name.split(".")[0] == PACKAGE.name]
    return {second for _, second, *_ in parts if (PACKAGE / second).is_dir() or is_module(second)}


def is_module(name: str) -> bool:
    """Whether the package's root has a module of that name."""
    return (PACKAGE / f"{name}.py").is_file()


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_rooms_that_come_before_its_own(path):
    against = imported_rooms(path) - ROOMS[room(path)] - TOOLS - {room(path)}
    assert not against, f"{path.relative_to(PACKAGE)} imports {sorted(against)}"


def test_every_room_stands_in_the_table_and_is_there():
    assert {room(path) for path in MODULES} == set(ROOMS)


def test_the_table_itself_has_no_circle():
    done: set[str] = set(TOOLS)
    left = {name: needs for name, needs in ROOMS.items() if name not in TOOLS}
    while left:
        ready = {name for name, needs in left.items() if needs - {name} <= done}
        assert ready, f"these import each other: {sorted(left)}"
        done |= ready
        left = {name: needs for name, needs in left.items() if name not in ready}


PLAIN = ("video", "data", "models", "metrics", "candidates")
NAMES_OPTIONS = {
    "models/checkpoint_config.py",  # reads options in files, and says how their classes are known
    "models/architectures.py",  # has the model's options as fields, and what builds from them
    "data/data_workers.py",  # docker's --shm-size
}


@pytest.mark.parametrize("name", PLAIN)
def test_rooms_that_take_plain_values_name_no_option(name):
    files = {str(path.relative_to(PACKAGE)): path for path in (PACKAGE / name).rglob("*.py")}
    named = {
        file: options
        for file, path in files.items()
        if (options := re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text(encoding="utf-8")))
    }
    assert named.keys() <= NAMES_OPTIONS, named


def test_the_packages_root_has_few_files():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_ROOT_FILES
