"""Curves to the points of a drawing; the template makes it an SVG."""

import math
from dataclasses import dataclass

from vt_fairseq.report.curves import Chart, Curve

WIDTH, HEIGHT = 360, 190  # units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
MOST_POINTS = 400  # of a curve; no screen shows more
FEW_POINTS = 24  # that each get a dot


@dataclass(frozen=True)
class Line:
    """A curve: ``points`` as SVG wants them, ``dots`` where they are few, the last value."""

    name: str
    number: int
    points: str
    dots: list[tuple[float, float]]
    last: str


@dataclass(frozen=True)
class Drawing:
    """A chart with everything placed; ticks are (position, text)."""

    chart: Chart
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def draw(chart: Chart) -> Drawing:
    """Place the curves of ``chart``, whose axes begin at zero."""
    every = [point for curve in chart.curves.values() for point in curve]
    x_ticks = ticks(0.0, max((x for x, _ in every), default=1.0) or 1.0, 4)
    low = min(0.0, *(y for _, y in every), 0.0)
    high = max((y for _, y in every), default=1.0)
    y_ticks = ticks(low, high if high > low else low + 1.0, 4)

    def across(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * x / x_ticks[-1], 1)

    def up(y: float) -> float:
        room = HEIGHT - TOP - BOTTOM
        return round(HEIGHT - BOTTOM - room * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 1)

    lines = []
    for number, (name, curve) in enumerate(chart.curves.items(), 1):
        places = [(across(x), up(y)) for x, y in thinned(curve)]
        lines.append(
            Line(
                name,
                (number - 1) % 6 + 1,
                " ".join(f"{x:g},{y:g}" for x, y in places),
                places if len(places) <= FEW_POINTS else [],
                shown(curve[-1][1]),
            )
        )
    return Drawing(
        chart,
        lines,
        [(across(x), f"{x:,.0f}") for x in x_ticks if x == int(x)],
        [(up(y), shown(y)) for y in y_ticks],
    )


def thinned(curve: Curve) -> Curve:
    """At most MOST_POINTS; of each stretch the lowest and the highest stay, so peaks do."""
    if len(curve) <= MOST_POINTS:
        return curve
    step = 2 * len(curve) / MOST_POINTS
    kept = set()
    for k in range(MOST_POINTS // 2):
        stretch = range(int(k * step), min(len(curve), int((k + 1) * step)))
        kept |= {min(stretch, key=lambda i: curve[i][1]), max(stretch, key=lambda i: curve[i][1])}
    return [curve[i] for i in sorted(kept | {0, len(curve) - 1})]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, some ``about`` + 1 of them."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.10g}") for k in range(first, last + 1)]


def shown(value: float) -> str:
    """``value`` in few characters."""
    size = abs(value)
    if size >= 1e5 or 0 < size < 0.01:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}" if size < 10 else f"{value:.3g}"
