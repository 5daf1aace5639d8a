"""Mutation testing: is a wrong line of the method noticed by the quick tests of its module?

    python tests/mutants.py [--count 300] [--seed 1] [--only FILE] [--out FILE] [--lines FILE]
    python tests/mutants.py --again [--out FILE]
    python tests/mutants.py --table [--out FILE]

Draws mutants evenly from the rooms in ``ROOMS``: a comparison turned, a sum for a difference,
``and`` for ``or``, a number one higher, ``min`` for ``max``, arguments or branches exchanged and so
on. First all quick tests run once under ``coverage`` (pip install coverage), which says which of
them reach a line, and how long they take. Then each mutant is written into a copy of the project,
in which a fork of this process, which has imported torch and fairseq once, runs those tests, the
shortest first; for a line that runs at import, those of the files that import the module. Quick is
what is not marked slow and neither prepares data nor trains.

Every outcome is appended to --out at once, so that a run which was stopped goes on where it was;
--lines keeps what coverage found for the next run. ``killed``: a test failed. ``timeout``: the
tests took several times as long as without the mutant, as an endless loop does. ``survived``: no
quick test noticed. Of a survivor either the behavior is the same, which mutants_reasons.json beside
--out says of it and why, or a test is missing. When it has one, --again judges all survivors
without a reason anew (not with --lines of before, which lacks the test); the last outcome of a
mutant counts.
"""

import argparse
import ast
import copy
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "models", "criterions", "candidates", "scoring", "metrics", "video")
OUT = ROOT / "tests" / "faults" / "results" / "mutants.jsonl"
# Seconds of CPU time: of a mutant's tests as they take without it, and of what else there is.
MOST_SECONDS, SPARE = 60, 60
# Fixtures that train or prepare, so that tests with them are not quick.
COSTLY = {"trained", "vt", "real_commands", "data_directory"}
# Files of tests of the project as a whole.
WHOLE = {"test_documents", "test_extending", "test_gpu", "test_notebook", "test_recipes"}
COMPARISONS = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq},
    **{ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot},
    ast.IsNot: ast.Is,
}
OPERATIONS = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr},
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sum": "mean", "mean": "sum"}
NAMES |= {"amax": "amin", "argsort": "sort", "floor": "ceil", "round": "floor", "keys": "values"}


@dataclass(frozen=True)
class Mutant:
    """``before``, at ``line`` of ``file`` from byte ``start`` to ``end``, becomes ``after``."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return f"{self.file}:{self.line}:{self.start} {self.before} -> {self.after}"


# --- mutants --------------------------------------------------------------------------------------


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """What an expression may be turned into."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARISONS:
        new.ops[0] = COMPARISONS[type(new.ops[0])]()
        yield new
    elif isinstance(new, ast.BinOp) and type(new.op) in OPERATIONS:
        new.op = OPERATIONS[type(new.op)]()
        yield new
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
        yield new
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, (ast.Not, ast.USub)):
        yield new.operand
    elif isinstance(new, ast.IfExp):
        new.body, new.orelse = new.orelse, new.body
        yield new
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        yield ast.Constant(not new.value)
    elif isinstance(new, ast.Constant) and isinstance(new.value, (int, float)):
        yield ast.Constant(new.value + 1 if isinstance(new.value, int) else new.value * 1.5)
    elif isinstance(new, ast.Call):
        yield from call_variants(new)


def call_variants(call: ast.Call) -> Iterator[ast.AST]:
    """Another function, or two arguments exchanged."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else None
    name = call.func.id if isinstance(call.func, ast.Name) else name
    if name in NAMES:
        other = copy.deepcopy(call)
        setattr(other.func, "attr" if isinstance(other.func, ast.Attribute) else "id", NAMES[name])
        yield other
    plain = [n for n, a in enumerate(call.args) if not isinstance(a, ast.Starred)]
    if len(plain) >= 2 and name not in ("isinstance", "min", "max", "warn", "UserError"):
        other = copy.deepcopy(call)
        a, b = plain[:2]
        other.args[a], other.args[b] = other.args[b], other.args[a]
        yield other


def parts_to_mutate(tree: ast.AST) -> Iterator[ast.AST]:
    """Expressions on which results depend: no annotations, texts, messages, or what is logged."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "exc"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.JoinedStr, ast.Raise)):
                continue
            if isinstance(child, ast.Call) and ast.unparse(child.func).startswith("logger."):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from parts_to_mutate(child)


def mutants_of(path: Path) -> list[Mutant]:
    """All of a file, each on one line."""
    source = path.read_text(encoding="utf-8")
    lines, found = source.encode().splitlines(keepends=True), []
    for node in parts_to_mutate(ast.parse(source)):
        if node.lineno != node.end_lineno:
            continue
        before = lines[node.lineno - 1][node.col_offset : node.end_col_offset].decode()
        where = (node.lineno, node.col_offset, node.end_col_offset)
        for variant in variants(node):
            after = f"({ast.unparse(ast.fix_missing_locations(variant))})"
            found.append(Mutant(str(path.relative_to(ROOT)), *where, before, after))
    return found


def drawn(count: int, seed: int, only: str = "") -> list[Mutant]:
    """``count`` mutants, as many of each room as it has; from each in an order of the seed's.

    Those of files whose names hold ``only``.
    """
    orders = []
    for room in ROOMS:
        files = sorted((ROOT / "vt_fairseq" / room).rglob("*.py"))
        every = [m for file in files if only in str(file) for m in mutants_of(file)]
        orders.append(random.Random(f"{seed} {room}").sample(every, len(every)))
    turns = zip_longest(*orders)
    return [mutant for turn in turns for mutant in turn if mutant is not None][:count]


def mutated(mutant: Mutant) -> bytes:
    """The file's text with the mutant in it."""
    lines = (ROOT / mutant.file).read_bytes().splitlines(keepends=True)
    line = lines[mutant.line - 1]
    lines[mutant.line - 1] = line[: mutant.start] + mutant.after.encode() + line[mutant.end :]
    return b"".join(lines)


# --- tests ----------------------------------------------------------------------------------------


def imports(path: Path) -> set[str]:
    """Files of the package that a file imports, as ``vt_fairseq/data/text.py``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", []) if isinstance(node, ast.Import)]
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            file = Path(*name.split(".")).with_suffix(".py")
            found |= {str(file)} & {f"vt_fairseq/{p}" for p in PACKAGE}
    return found


PACKAGE = {str(p.relative_to(ROOT / "vt_fairseq")) for p in (ROOT / "vt_fairseq").rglob("*.py")}


def importers(file: str) -> list[str]:
    """The files of tests that import a file of the package, those with its name first."""
    paths = [p for p in sorted((ROOT / "tests").glob("test_*.py")) if p.stem not in WHOLE]
    users = {f"vt_fairseq/{p}" for p in PACKAGE if file in imports(ROOT / "vt_fairseq" / p)}
    named = {f"test_{name}" for name in (Path(file).stem, Path(file).parts[1])}
    found = [p for p in paths if {file, *(users if p.stem in named else ())} & imports(p)]
    return [str(p.relative_to(ROOT)) for p in sorted(found, key=lambda p: p.stem not in named)]


@dataclass
class Lines:
    """Which quick tests reach a line, by file and number, and the seconds that each test takes.

    Those that fail without a mutant are left out.
    """

    tests: dict[str, dict[str, list[str]]]
    seconds: dict[str, float]
    failed: list[str]

    def reaching(self, mutant: Mutant) -> list[str]:
        """Tests of the mutant's line, the shortest first, as many as take MOST_SECONDS."""
        lines = self.tests.get(mutant.file, {})
        for first, last in statements(mutant):
            found = {t for line in range(first, last + 1) for t in lines.get(str(line), ())}
            if found:
                break
        else:
            return importers(mutant.file)
        chosen, left = [], float(MOST_SECONDS)
        for test in sorted(found, key=lambda test: (self.seconds[test], test)):
            left -= self.seconds[test]
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def statements(mutant: Mutant) -> list[tuple[int, int]]:
    """First and last lines: the mutant's own, then of the statements around it in its function."""
    tree = ast.parse((ROOT / mutant.file).read_text(encoding="utf-8"))
    around = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= mutant.line <= (node.end_lineno or 0)
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    return [(mutant.line, mutant.line), *sorted(around, key=lambda lines: lines[1] - lines[0])]


class Reached:
    """A plugin of pytest that writes down which lines each test reaches."""

    def __init__(self, tree: Path, out: Path):
        import coverage

        self.tree, self.out = tree, out
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.coverage = coverage.Coverage(
            data_file=None, config_file=False, source=[str(tree / "vt_fairseq")]
        )
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Called before each test."""
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report) -> None:
        """Called after each phase of a test."""
        if report.failed:
            self.failed.add(report.nodeid)
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Called after each test."""
        self.coverage.switch_context("")

    def pytest_sessionfinish(self) -> None:
        """Write."""
        self.coverage.stop()
        data, tests = self.coverage.get_data(), {}
        for file in data.measured_files():
            lines = data.contexts_by_lineno(file)
            tests[str(Path(file).relative_to(self.tree))] = {
                line: sorted(set(filter(None, names)) - self.failed)
                for line, names in lines.items()
            }
        found = Lines(tests, self.seconds, sorted(self.failed))
        self.out.write_text(json.dumps(vars(found)))


def reached_lines(tree: Path, log: Path, out: Path) -> Lines:
    """Run all quick tests once, unless ``out`` has what was found."""
    if not out.exists():
        files = sorted((ROOT / "tests").glob("test_*.py"))
        tests = [str(p.relative_to(ROOT)) for p in files if p.stem not in WHOLE]
        outcome_of(tree, tests, log, limit=4 * 3600, reached=out)
        if not out.exists():
            raise SystemExit(f"the quick tests did not end:\n{log.read_text()[-2000:]}")
    lines = Lines(**json.loads(out.read_text()))
    print(f"{len(lines.seconds)} quick tests; fail without a mutant: {lines.failed}", flush=True)
    return lines


class Quick:
    """A plugin of pytest that leaves out tests with costly fixtures."""

    def pytest_collection_modifyitems(self, config, items) -> None:
        """Called with the tests that were found."""
        items[:] = [item for item in items if not COSTLY & set(item.fixturenames)]


def outcome_of(
    tree: Path, tests: list[str], log: Path, limit: int, reached: Path | None = None
) -> str:
    """What a fork says that runs ``tests`` in the copy ``tree`` for up to ``limit`` CPU seconds."""
    child = os.fork()
    if child == 0:
        run_tests(tree, tests, log, limit, reached)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "killed"
    code = os.waitstatus_to_exitcode(status)
    return "survived" if code in (0, 5) else "killed"  # 5: there was no test


def run_tests(tree: Path, tests: list[str], log: Path, limit: int, reached: Path | None) -> None:
    """In the fork; does not return."""
    code = 3
    try:
        import pytest

        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        options = ["-q", "-m", "not slow", "-W", "ignore", "-p", "no:cacheprovider"]
        plugins: list[object] = [Quick()]
        if reached is None:
            options.append("-x")
        else:
            plugins.append(Reached(tree, reached))
        code = int(pytest.main([*options, *tests], plugins=plugins))
    finally:
        os._exit(code)


def judged(mutant: Mutant, tree: Path, log: Path, lines: Lines) -> str:
    """The outcome of one mutant."""
    tests = lines.reaching(mutant)
    if not tests:
        return "survived"
    usual = sum(lines.seconds.get(test, MOST_SECONDS) for test in tests)
    (tree / mutant.file).write_bytes(mutated(mutant))
    try:
        return outcome_of(tree, tests, log, limit=SPARE + round(3 * usual))
    finally:
        shutil.copy(ROOT / mutant.file, tree / mutant.file)


# --- results --------------------------------------------------------------------------------------


def recorded(out: Path) -> dict[str, dict]:
    """The last outcomes of earlier runs by the names of their mutants."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return {row["mutant"]: row for row in map(json.loads, lines)}


def reasons(out: Path) -> dict[str, str]:
    """Why mutants that survived behave as the project does, by their names."""
    file = out.with_name("mutants_reasons.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def table(rows: Collection[dict], same: Mapping[str, str]) -> str:
    """Outcomes by room, then the survivors, first those that do not behave the same."""
    counts = {room: Counter() for room in ROOMS}
    for row in rows:
        outcome = "same" if row["outcome"] == "survived" and row["mutant"] in same else None
        counts[row["mutant"].split("/")[1]][outcome or row["outcome"]] += 1
    lines = ["| room | mutants | noticed | the same | survived |", "|---|---|---|---|---|"]
    for room, found in (*counts.items(), ("all", sum(counts.values(), Counter()))):
        noticed = found["killed"] + found["timeout"]
        cells = (found.total(), noticed, found["same"], found["survived"])
        lines.append(f"| {room} | {' | '.join(map(str, cells))} |")
    survivors = [row["mutant"] for row in rows if row["outcome"] == "survived"]
    listed = [f"- `{name}`" for name in survivors if name not in same]
    listed += [f"- the same: `{name}`: {same[name]}" for name in survivors if name in same]
    return "\n".join([*lines, "", *listed])


def main() -> None:
    """Draw, run, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="mutants of files whose name holds this")
    parser.add_argument("--again", action="store_true", help="judge unexplained survivors anew")
    parser.add_argument("--table", action="store_true", help="print what there is and run nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--lines", type=Path, help="file that keeps which tests reach which lines")
    args = parser.parse_args()
    if args.again:
        run(survivors(args.out), args.out, args.lines)
    elif not args.table:
        done = recorded(args.out)
        chosen = drawn(args.count, args.seed, args.only)
        run([m for m in chosen if m.name not in done], args.out, args.lines)
    print(table(recorded(args.out).values(), reasons(args.out)))


def survivors(out: Path) -> list[Mutant]:
    """Those of earlier runs that have no reason and are still in the source."""
    names = {name for name, row in recorded(out).items() if row["outcome"] == "survived"}
    names -= reasons(out).keys()
    files = {name.split(":")[0] for name in names}
    return [m for file in sorted(files) for m in mutants_of(ROOT / file) if m.name in names]


def run(chosen: list[Mutant], out: Path, lines_file: Path | None) -> None:
    """Judge each and write its outcome down."""
    import fairseq.tasks  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tree, log = Path(folder) / "project", Path(folder) / "log"
        left_out = shutil.ignore_patterns(".git", "runs", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, tree, ignore=left_out)
        lines = reached_lines(tree, log, lines_file or Path(folder) / "lines.json")
        for number, mutant in enumerate(chosen, 1):
            began = time.monotonic()
            outcome = judged(mutant, tree, log, lines)
            row = {"mutant": mutant.name, "outcome": outcome}
            row["seconds"] = round(time.monotonic() - began, 1)
            if outcome == "killed":
                found = re.findall(r"^(?:FAILED|ERROR) (\S+)", log.read_text(), re.MULTILINE)
                row["by"] = found[0] if found else "an error while tests were collected"
            with open(out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{number}/{len(chosen)} {outcome}: {mutant.name}", flush=True)


if __name__ == "__main__":
    main()
