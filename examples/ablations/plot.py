"""One picture of all parts as SVG: means with their 95 % intervals, the seeds as small dots."""

from collections.abc import Sequence
from html import escape

from parts import Part, Row

WIDTH, LABELS, MARGIN = 760, 290, 30  # pixels; the axis takes what is left
LINE, HEADING, GAP = 20, 26, 14
TICKS = (0, 25, 50, 75, 100)
STYLE = (
    "text{font:13px sans-serif;fill:#222}.h{font-weight:bold}.s{font-size:11px;fill:#666}"
    ".g{stroke:#ddd}.i{stroke:#1f6fb4;stroke-width:3}.m{fill:#1f6fb4}.d{fill:#1f6fb4;opacity:.35}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#999}.g{stroke:#444}}"
)


def place(per_cent: float) -> float:
    """Where on the axis."""
    return LABELS + (WIDTH - LABELS - MARGIN) * min(max(per_cent, 0), 100) / 100


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    attributes = f'x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"'
    return f"<text {attributes}>{escape(words)}</text>"


def row_marks(y: float, label: str, values: Sequence[float]) -> list[str]:
    """A row's name, interval, mean and seeds."""
    from table import half_width, mean

    middle, width = mean(values), half_width(values) or 0.0
    x1, x2 = place(middle - width), place(middle + width)
    dots = [f'<circle class="d" cx="{place(v):.1f}" cy="{y}" r="3"/>' for v in values]
    return [
        text(LABELS - 10, y + 4, label, anchor="end"),
        f'<line class="i" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y}" y2="{y}"/>',
        *dots,
        f'<circle class="m" cx="{place(middle):.1f}" cy="{y}" r="5"/>',
    ]


def svg(parts: Sequence[tuple[Part, list[tuple[Row, list[float]]]]]) -> str:
    """The parts one under the other; values in per cent."""
    marks, y = [], MARGIN
    for part, rows in parts:
        marks.append(text(10, y, f"({part.letter}) {part.title}: {part.columns[0][0]}, %", "h"))
        top = y + 8
        y += HEADING
        bottom = y + LINE * len(rows) - 8
        for tick in TICKS:
            x = place(tick)
            marks.append(f'<line class="g" x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>')
            marks.append(text(x, bottom + 12, str(tick), "s", "middle"))
        for row, values in rows:
            marks += row_marks(y, row.label, values)
            y += LINE
        y += GAP + LINE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *marks, "</svg>"]) + "\n"
