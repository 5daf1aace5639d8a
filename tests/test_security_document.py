"""SECURITY.md lists every module that opens something, and every variable that is read."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from tests import warm
from tests.commands import ROOT, environment
from tests.corpora import write_jsonl
from tests.media import write_numbered

PACKAGE = ROOT / "vt_fairseq"
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
NAMED = {name for _, readers, _, _ in ROWS for name in re.findall(r"`([\w/]+\.py)`", readers)}
OPENING = {
    *("open", "os.open", "os.listdir", "os.walk", "os.scandir", "mmap.mmap", "pa.ipc.open_file"),
    *(
        "av.open",
        "torch.load",
        "load_file",
        "safe_open",
        "zipfile.ZipFile",
        "importlib.import_module",
    ),
    *("read_file", "byte_lines", "text_lines", "read_json", "sqlite3.connect", "subprocess.run"),
    *("glob.glob", "subprocess.Popen", "resources.files"),
}
METHODS = {"read_bytes", "read_text", "iterdir", "glob", "rglob", "LoadFromSerializedProto"}
# They call what stands in the table by the name of a function of another module.
CALLERS = {
    *("models/pretrained/exported.py", "models/pretrained/t5_weights.py"),
    *("models/networks/transformers_base.py", "models/networks/vivit.py"),
}
ELSEWHERE = {
    "training/process_groups.py",
    "training/generation_options.py",
    "training/quiet_log.py",
    "training/zero/trainer.py",
    "scoring/run.py",
    "cli/processes.py",
}


def opens(path: Path) -> bool:
    """Whether a module calls what opens files, folders, streams, programs or other modules."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if ast.unparse(node.func) in OPENING or method in METHODS:
                return True
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdin", "os.environ"):
            return True
    return False


def test_every_module_that_opens_something_stands_in_the_table_and_no_other():
    opening = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if opens(p)}
    assert opening - CALLERS - ELSEWHERE == NAMED
    assert all(f"`{name}`" in TEXT for name in ELSEWHERE)


def test_a_new_reader_is_found(tmp_path):
    for line in (
        "open(x)",
        "Path(x).read_bytes()",
        "torch.load(x)",
        "os.environ['A']",
        "sys.stdin",
    ):
        (tmp_path / "new.py").write_text(f"def f(x):\n    return {line}\n")
        assert opens(tmp_path / "new.py"), line
    (tmp_path / "new.py").write_text("def f(x):\n    return sum(x)\n")
    assert not opens(tmp_path / "new.py")


def test_every_environment_variable_that_is_read_stands_in_the_document():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "os.environ" not in text:
            continue
        constants = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        names = {
            c for c in constants if isinstance(c, str) and re.fullmatch("[A-Z][A-Z0-9_]{3,}", c)
        }
        assert names, path
        assert all(f"`{name}`" in TEXT for name in names), (path, names)


def test_every_test_that_the_table_names_is_there():
    cited = re.findall(r"((?:faults/)?test_\w+\.py)(?:::(\w+))?", "".join(r[3] for r in ROWS))
    assert len(cited) > 15
    for file, name in cited:
        path = ROOT / "tests" / file
        assert path.is_file() and (not name or f"def test_{name}" in path.read_text()), (file, name)


# --- what three commands open ---------------------------------------------------------------------

WATCHER = """
import importlib, json, os, sys
opened = []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("subprocess.Popen", "socket.connect", "os.system", "os.exec"):
        opened.append(f"{event} {arguments!r}")

_, out, commands = sys.argv
modules = [(importlib.import_module(name), line) for name, *line in json.loads(commands)]
sys.addaudithook(watch)
for module, line in modules:
    sys.argv = [module.__name__, *line]
    try:
        module.main()
    except SystemExit as end:
        assert not end.code, end.code
with open(out, "w") as file:
    json.dump(sorted(set(opened)), file)
"""
# Of the system and of Python itself.
SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/", "/lib", sys.prefix, sys.base_prefix)


@pytest.fixture
def commands(tmp_path) -> list[list[str]]:
    """A vt-prepare, a vt-evaluate and a vt-report, and what they are to read."""
    (tmp_path / "videos").mkdir()
    write_numbered(tmp_path / "videos" / "a.mp4", 12)
    row = {"id": "a", "video": "a.mp4", "caption": ["it slides"], "split": "test"}
    write_jsonl(tmp_path / "rows.jsonl", row, row | {"id": "b", "split": "train"})
    results = tmp_path / "results"
    predictions = write_jsonl(results / "predictions.jsonl", {"id": "a", "prediction": "it"})
    references = write_jsonl(results / "references.jsonl", {"id": "a", "references": ["it"]})
    data, cli = str(tmp_path / "data"), "vt_fairseq.cli"
    return [
        [f"{cli}.prepare", "jsonl", "--annotations", f"{tmp_path}/rows.jsonl", "--out", data,
         "--videos", f"{tmp_path}/videos", "--train-vocabulary", "60"],
        [f"{cli}.evaluate", "captions", "--predictions", str(predictions), "--coco", "off",
         "--references", str(references), "--out", f"{results}/metrics.json"],
        [f"{cli}.report", str(results), "--data", data, "--out", f"{tmp_path}/report.html"],
    ]  # fmt: skip


def test_commands_open_what_they_were_given_and_the_users_key_alone(tmp_path, commands):
    config, out = tmp_path / "config", tmp_path / "opened"
    (tmp_path / "watch.py").write_text(WATCHER)
    process = warm.start(
        [str(tmp_path / "watch.py"), str(out), json.dumps(commands)],
        *[tmp_path / "output", environment() | {"XDG_CONFIG_HOME": str(config)}, tmp_path],
    )
    process.join(200)
    assert process.exitcode == 0, (tmp_path / "output").read_text()[-3000:]
    opened = json.loads(out.read_text())
    assert f"{tmp_path}/results/predictions.jsonl" in opened
    own = (str(tmp_path), str(ROOT / "vt_fairseq"))
    others = [path for path in opened if not path.startswith((*SYSTEM, *own))]
    assert not others
