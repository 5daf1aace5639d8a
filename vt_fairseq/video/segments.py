"""A long video as segments, half-open intervals in float seconds that cover it in order."""

Segment = tuple[float, float]


def equal_segments(duration: float, count: int) -> list[Segment]:
    """``count`` segments of the same length."""
    return _between([duration * i / count for i in range(count)], duration)


def regular_segments(duration: float, seconds: float) -> list[Segment]:
    """Segments of ``seconds`` each; the last takes the rest and has 0.5 to 1.5 times as much.

    A video that is shorter than that is one segment.
    """
    count = max(1, round(duration / seconds))
    return _between([seconds * i for i in range(count)], duration)


def _between(starts: list[float], duration: float) -> list[Segment]:
    return list(zip(starts, [*starts[1:], duration], strict=True))
