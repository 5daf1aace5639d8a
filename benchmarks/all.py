"""Every benchmark that has bars, one after the other, and the table of docs/performance.md.

    python benchmarks/all.py [--only loading,scoring] [--table]

Takes about 20 minutes on two idle cores, and minutes more for compiled_losses, which compiles C++.
A script that misses a bar ends with 1; the others run all the same, and then this one ends with 1,
too. The table is made of what lies in results/.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"
HEAD = "| benchmark | what is compared | found | bar | |\n|---|---|---|---|---|\n"


def scripts() -> list[str]:
    """Names of the scripts that write a result with bars of speed."""
    paths = [path for path in HERE.glob("*.py") if path != Path(__file__).resolve()]
    return sorted(path.stem for path in paths if "measuring.judged(" in path.read_text())


def run(names: Sequence[str]) -> list[str]:
    """Run the scripts; the names of those that did not end with 0."""
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        began = time.monotonic()
        if code := subprocess.run([sys.executable, HERE / f"{name}.py"]).returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - began:.0f} s, exit code {code}", flush=True)
    return failed


def table() -> str:
    """All bars in Markdown, and what each result holds for."""
    rows, lines = [], []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        measured = result.get("measured", {}).items()
        judged = {what: found for what, found in measured if "bar" in found}
        rows += [row(path.stem, what, found) for what, found in judged.items()]
        if judged:
            lines.append(f"- {path.stem}: `{result['command']}`, {'; '.join(about(result))}\n")
    return HEAD + "".join(rows) + "\n" + "".join(lines)


def row(name: str, what: str, found: dict) -> str:
    """One line of the table."""
    if "reached" not in found:
        return f"| {name} | {what} | not judged: {found['not judged']} | {found['bar']} | |\n"
    least, most = found["least"], found["most"]
    spread = "" if least == most else f" ({least:.3g}–{most:.3g})"
    verdict = "reached" if found["reached"] else "**not reached**"
    return f"| {name} | {what} | {found['ratio']:.3g}{spread} | {found['bar']} | {verdict} |\n"


def about(result: dict) -> Iterator[str]:
    """Date, machine and versions of a result."""
    plain = ("date", "processor")
    for key, value in result["machine"].items():
        yield str(value) if key in plain else f"{key} {value}"


def write_table() -> None:
    """Put the table between the page's marks; ends the script where they are not there."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE} has no lines {BEGIN.strip()} and {END.strip()}: add them")
    PAGE.write_text(before + begin + "\n" + table() + "\n" + end + after, encoding="utf-8")


def main() -> int:
    """Run, write the table; 1 where a script failed or missed a bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help=f"names with commas between, of {', '.join(scripts())}")
    parser.add_argument("--table", action="store_true", help="only write the table")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else scripts()
    if unknown := set(names) - set(scripts()):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; see --help")
    failed = [] if args.table else run(names)
    write_table()
    if failed:
        print(f"missed a bar, or failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
