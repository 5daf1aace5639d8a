"""The curves of a training's log, and their drawings; the template makes each an SVG."""

import math
from dataclasses import dataclass, replace

from vt_fairseq.report.logs import LARGEST, Points, TrainingLog

WIDTH, HEIGHT = 360, 190  # units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
MOST_POINTS = 400  # of a curve; no screen shows more
FEW_POINTS = 24  # that each get a dot
# Seconds are printed as whole numbers, so shares of a shorter time would be noise.
LEAST_SECONDS = 30.0
Curve = list[tuple[float, float]]  # (updates, value)


@dataclass(frozen=True)
class Chart:
    """Curves over the number of updates in one drawing; those without points are left out."""

    title: str
    unit: str
    curves: dict[str, Curve]
    note: str = ""


def charts_of(log: TrainingLog) -> list[Chart]:
    """Loss, accuracy, BLEU, learning rates, gradient norm, loss scale, waiting, speed.

    Those of which the log has nothing are left out: the loss scale, for instance, without fp16.
    """
    charts = [
        Chart("Loss", "bits per clip" if log.heads else "bits per token", _both(log, "loss")),
        Chart("Accuracy", "per cent", _accuracies(log)),
        Chart("BLEU in validation", "", _valid(log, "bleu")),
        Chart("Learning rate", "", _learning_rates(log)),
        Chart("Gradient norm", "", {"training": _curve(log.inner, "gnorm")}),
        Chart("Loss scale", "", {"training": _curve(log.inner, "loss_scale")}),
        Chart("Waiting for data", "per cent of the time", {"training": _waiting(log)},
              "what updates did not take, without stretches of validation and saving"),
        Chart("Speed", "clips per second", {"training": _speed(log)}),
    ]  # fmt: skip
    charts = [
        replace(chart, curves={name: curve for name, curve in chart.curves.items() if curve})
        for chart in charts
    ]
    return [chart for chart in charts if chart.curves]


def _curve(points: Points, key: str) -> Curve:
    return [(update, values[key]) for update, values in sorted(points.items()) if key in values]


def _valid(log: TrainingLog, key: str) -> dict[str, Curve]:
    return {split: _curve(points, key) for split, points in log.valid.items()}


def _both(log: TrainingLog, key: str) -> dict[str, Curve]:
    return {"training": _curve(log.inner, key), **_valid(log, key)}


def _accuracies(log: TrainingLog) -> dict[str, Curve]:
    """The accuracies of tokens, or of each of the heads."""
    points = [p for split in (log.inner, *log.valid.values()) for p in split.values()]
    keys = sorted({key for values in points for key in values if key.endswith("accuracy")})
    if len(keys) < 2:
        return _both(log, keys[0]) if keys else {}
    return {
        f"{key.removesuffix('_accuracy')}, {name}": curve
        for key in keys
        for name, curve in _both(log, key).items()
    }


def _learning_rates(log: TrainingLog) -> dict[str, Curve]:
    """The rate of the transformer, and those of the other parts that have their own scale."""
    rate = _curve(log.inner, "lr")
    scales = {"video network": log.scales.get("video_lr_scale")}
    scales["heads"] = log.scales.get("head_lr_scale") if log.heads else None
    rates = {
        name: [(update, value * scale) for update, value in rate]
        for name, scale in scales.items()
        if scale is not None
    }
    return {"transformer" if rates else "all": rate} | rates


def _waiting(log: TrainingLog) -> Curve:
    """Per cent of the time that was not spent in updates, over stretches of LEAST_SECONDS.

    ``wall`` is the time since the start, ``train_wall`` the time in updates since the last line.
    """
    curve: Curve = []
    last_wall, spent, busy = None, 0.0, 0.0
    for update, values in log.inner.items():
        wall = values.get("wall")
        if wall is None or "train_wall" not in values:
            continue
        if last_wall is not None and wall >= last_wall and update not in log.paused:
            spent += wall - last_wall
            busy += values["train_wall"]
        last_wall = wall
        if spent >= LEAST_SECONDS:
            curve.append((update, max(0.0, 100.0 * (1.0 - busy / spent))))
            spent = busy = 0.0
    return curve


def _speed(log: TrainingLog) -> Curve:
    return [
        (update, values["ups"] * values["bsz"])
        for update, values in sorted(log.inner.items())
        if values.get("ups") and "bsz" in values  # 0 at the first line: nothing to measure it by
    ]


# --- drawings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A curve: the number of its color, ``points`` in SVG's form, ``dots`` where they are few, and
    the last value."""

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
    x_ticks = ticks(0.0, max((x for x, _ in every), default=1.0), 4)
    low = min(0.0, *(y for _, y in every), 0.0)
    high = max((y for _, y in every), default=1.0)
    y_ticks = ticks(low, high, 4)

    def across(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * x / x_ticks[-1], 1)

    def up(y: float) -> float:
        room = HEIGHT - TOP - BOTTOM
        return round(HEIGHT - BOTTOM - room * (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]), 1)

    lines = []
    for index, (name, curve) in enumerate(chart.curves.items()):
        points = [(across(x), up(y)) for x, y in thinned(curve)]
        text = " ".join(f"{x:g},{y:g}" for x, y in points)
        dots = points if len(points) <= FEW_POINTS else []
        lines.append(Line(name, index % 6 + 1, text, dots, shown(curve[-1][1])))
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
    """Round numbers from at most ``low`` to at least ``high``, some ``about`` + 1 of them.

    Up to ``low`` + 1 where ``high`` is not above it.
    """
    if high - low < 1 / LARGEST:
        high = low + 1.0
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
