"""Which curves a training's log has."""

from collections.abc import Iterator
from dataclasses import dataclass

from vt_fairseq.report.logs import Log, Points

Curve = list[tuple[float, float]]  # (updates, value)
# Seconds are printed as whole numbers, so shares of a shorter time would be noise.
LEAST_SECONDS = 30.0


@dataclass(frozen=True)
class Chart:
    """Curves over the number of updates in one drawing; those without points are left out."""

    title: str
    unit: str
    curves: dict[str, Curve]
    note: str = ""


def charts_of(log: Log) -> list[Chart]:
    """Loss, accuracy, BLEU, learning rates, gradient norm, loss scale, waiting, speed.

    Those of which the log has nothing are left out: the loss scale, for instance, without fp16.
    """
    rate = _of(log.inner, "lr")
    rates = {"all" if not _scales(log) else "transformer": rate}
    for name, scale in _scales(log).items():
        rates[name] = [(update, value * scale) for update, value in rate]
    found = [
        Chart("Loss", "bits a token" if not log.heads else "bits a clip", _both(log, "loss")),
        Chart("Accuracy", "per cent", _accuracies(log)),
        Chart("BLEU in validation", "", _valid(log, "bleu")),
        Chart("Learning rate", "", rates),
        Chart("Gradient norm", "", {"training": _of(log.inner, "gnorm")}),
        Chart("Loss scale", "", {"training": _of(log.inner, "loss_scale")}),
        Chart("Waiting for data", "per cent of the time", {"training": waiting(log)},
              "what updates did not take, without stretches of validation and saving"),
        Chart("Speed", "clips a second", {"training": _speed(log)}),
    ]  # fmt: skip
    charts = [
        Chart(c.title, c.unit, {name: curve for name, curve in c.curves.items() if curve}, c.note)
        for c in found
    ]
    return [chart for chart in charts if chart.curves]


def waiting(log: Log) -> Curve:
    """Per cent of the time that was not spent in updates, over stretches of LEAST_SECONDS.

    ``wall`` is the time since the start, ``train_wall`` the time in updates since the last line.
    """
    points: Curve = []
    last_wall, spent, busy = None, 0.0, 0.0
    for update, found in log.inner.items():
        wall = found.get("wall")
        if wall is None or "train_wall" not in found:
            continue
        if last_wall is not None and wall >= last_wall and update not in log.paused:
            spent += wall - last_wall
            busy += found["train_wall"]
        last_wall = wall
        if spent >= LEAST_SECONDS:
            points.append((update, max(0.0, 100.0 * (1.0 - busy / spent))))
            spent = busy = 0.0
    return points


def _scales(log: Log) -> dict[str, float]:
    names = {"video_lr_scale": "video network", "head_lr_scale": "heads"}
    return {
        names[key]: scale
        for key, scale in log.scales.items()
        if key != "head_lr_scale" or log.heads
    }


def _of(points: Points, key: str) -> Curve:
    return [(update, found[key]) for update, found in sorted(points.items()) if key in found]


def _both(log: Log, key: str) -> dict[str, Curve]:
    return {"training": _of(log.inner, key), **_valid(log, key)}


def _valid(log: Log, key: str) -> dict[str, Curve]:
    return {split: _of(points, key) for split, points in log.valid.items()}


def _accuracies(log: Log) -> dict[str, Curve]:
    """Of tokens, or of each of the heads."""
    keys = sorted({key for key in _keys(log) if key.endswith("accuracy")})
    if len(keys) < 2:
        return _both(log, keys[0]) if keys else {}
    return {
        f"{key.removesuffix('_accuracy')}, {name}": curve
        for key in keys
        for name, curve in _both(log, key).items()
    }


def _keys(log: Log) -> Iterator[str]:
    for points in (log.inner, *log.valid.values()):
        for found in points.values():
            yield from found


def _speed(log: Log) -> Curve:
    return [
        (update, found["ups"] * found["bsz"])
        for update, found in sorted(log.inner.items())
        if found.get("ups") and "bsz" in found  # 0 at the first line: nothing to measure it by
    ]
