"""Tables and a plot of results.json.

    python examples/ablations/table.py RESULTS.json [--doc FILE [--mark NAME]] [--plot FILE.svg]

prints the tables; --doc puts them into a document between the lines <!-- NAME --> and
<!-- end of NAME --> (the scale's name by default), --plot draws them.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from parts import Part, Row
from plan import experiment
from scales import SCALES

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the last.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MINUS = "−"

Seeds = dict[str, float]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def half_width(values: Sequence[float]) -> float | None:
    """Of the 95 % interval of the mean (Student's t); None for a single value."""
    if len(values) < 2:
        return None
    variance = sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)
    degrees = min(len(values) - 1, len(STUDENT))
    return STUDENT[degrees - 1] * math.sqrt(variance / len(values))


def cell(seeds: Seeds | None) -> str:
    """Mean ± half of the interval."""
    if not seeds:
        return ""
    width = half_width(list(seeds.values()))
    text = f"{mean(list(seeds.values())):.1f}"
    return text if width is None else f"{text} ± {width:.1f}"


def table(part: Part, numbers: dict[str, dict[str, Seeds]]) -> list[str]:
    """Markdown: one line per row, ours left of the paper's."""
    headings = [heading for heading, _ in part.columns] + [f"paper: {p}" for p in part.paper]
    lines = ["| | " + " | ".join(headings) + " |", "|---" * (len(headings) + 1) + "|"]
    for row in part.rows:
        ours = [cell(numbers.get(row.name, {}).get(key)) for _, key in part.columns]
        paper = [str(row.paper[k]) if k < len(row.paper) else "" for k in range(len(part.paper))]
        lines.append("| " + " | ".join([row.label, *ours, *paper]) + " |")
    return lines


def verdicts(part: Part, numbers: dict[str, dict[str, Seeds]]) -> list[str]:
    """One line for each of the paper's orderings; differences are of the same seeds."""
    labels = {row.name: row.label for row in part.rows}
    headings = {key: heading for heading, key in part.columns}
    lines = []
    for worse, better in part.orderings:
        said = []
        for key in part.judged:
            low, high = (numbers.get(name, {}).get(key, {}) for name in (worse, better))
            if differences := [high[s] - low[s] for s in high if s in low]:
                said.append(f"{headings[key]} {verdict(differences)}")
        if said:
            # A row of another table is there for comparison.
            names = [labels.get(name, "without subtitles") for name in (better, worse)]
            lines.append(f"- {names[0]} above {names[1]}: {'; '.join(said)}")
    return lines


def verdict(differences: Sequence[float]) -> str:
    """Whether the better one is better: the interval of the paired difference decides."""
    middle, width = mean(differences), half_width(differences)
    number = f"{middle:+.1f}".replace("-", MINUS)
    if width is None:
        return f"{number} (one seed)"
    if abs(middle) <= width:
        came = "undecided"
    else:
        came = "**comes out**" if middle > 0 else "**reversed**"
    return f"{number} ± {width:.1f}, {came}"


def document(result: dict) -> str:
    """All parts that have numbers."""
    parts = experiment(SCALES[result["scale"]]).parts
    numbers = result["numbers"]
    lines = [
        f"Scale {result['scale']}: {result['updates']} updates, seeds {result['seeds']}, "
        f"{result['done']}; {result['machine']}.",
        "",
        f"`{result['command']}`",
    ]
    for part in parts:
        if sum(row.name in numbers for row in part.rows) > 1:
            lines += ["", f"**({part.letter}) {part.title}**", "", *table(part, numbers)]
            if said := verdicts(part, numbers):
                lines += ["", *said]
    return "\n".join(lines)


def put_into(file: Path, mark: str, text: str) -> None:
    """Replace what stands between the two lines with this name."""
    first, last = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    old = file.read_text(encoding="utf-8")
    if first not in old or last not in old:
        raise SystemExit(f"{file}: expected the lines {first} and {last}")
    head, rest = old.split(first, 1)
    file.write_text(f"{head}{first}\n{text}\n{last}{rest.split(last, 1)[1]}", encoding="utf-8")


def bars(part: Part, numbers: dict[str, dict[str, Seeds]]) -> list[tuple[Row, list[float]]]:
    """The rows with the values of the first column."""
    key = part.columns[0][1]
    found = [(row, list(numbers.get(row.name, {}).get(key, {}).values())) for row in part.rows]
    return [(row, values) for row, values in found if values]


def widest(part: Part, results: list[dict]) -> list[tuple[Row, list[float]]]:
    """The bars of the one run that has most rows: models of two runs are not to be compared."""
    return max((bars(part, result["numbers"]) for result in results), key=len)


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--doc", type=Path, help="gets the tables of the first")
    parser.add_argument("--mark", help="where in the document (default: the scale's name)")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    results = [json.loads(file.read_text(encoding="utf-8")) for file in args.results]
    texts = [document(result) for result in results]
    print("\n\n".join(texts))
    if args.doc:
        put_into(args.doc, args.mark or results[0]["scale"], texts[0])
    if args.plot:
        from plot import svg

        parts = experiment(SCALES[results[0]["scale"]]).parts
        drawn = [(part, rows) for part in parts if (rows := widest(part, results))]
        args.plot.write_text(svg(drawn), encoding="utf-8")


if __name__ == "__main__":
    main()
