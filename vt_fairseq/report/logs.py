"""Logs of ``fairseq-train`` (``--log-format simple`` or ``json``) to values at each update."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vt_fairseq.files.bounded_files import text_lines
from vt_fairseq.files.result_files import parse_object

LARGEST = 1e100  # of the values that are drawn; NaN is not below it
Points = dict[int, dict[str, float]]  # number of updates -> {name: value}

_LINE = re.compile(r"\| (?:INFO|WARNING) \| (\S+) \| (.*)")
_EPOCH = re.compile(r"epoch \d+( \||:)")
# A line may be anybody's and long: words begin at a border and give nothing back (``++``), so that
# the time grows with the line and not with its square.
_NUMBER = r"[-+]?(?:[\d.]++(?:e[-+]?\d++)?+|inf|nan)"
_INNER = re.compile(rf"\b(\w++)=({_NUMBER})")
_END = re.compile(rf"\| (\w++) ({_NUMBER})(?= \||$)")
_SCALE = re.compile(rf"'(video_lr_scale|head_lr_scale)': ({_NUMBER})")
_HEADS = re.compile(r"'heads': '([^']+)'")
_UNREAD = re.compile(r"cannot read clip (.+?): (.+)")
_SAVED = "Saved checkpoint"
_JSON = '{"'  # the configuration, which is printed too, is a Python dictionary


@dataclass
class TrainingLog:
    """What one file tells of a training.

    Attributes:
        path: of the file.
        inner: what each ``--log-interval`` prints.
        valid: what every validation prints, by its split.
        paused: updates before which a validation or a saved checkpoint took time.
        scales: ``video_lr_scale`` and ``head_lr_scale``, where they are not 1.
        heads: whether the model has heads.
        unread: clips that could not be read, with reasons.
        not_finite: how many values were left out because they are NaN, infinite, or too large to
            draw.
        ended: whether the log says that the training is done.
    """

    path: Path
    inner: Points = field(default_factory=dict)
    valid: dict[str, Points] = field(default_factory=dict)
    paused: set[int] = field(default_factory=set)
    scales: dict[str, float] = field(default_factory=dict)
    heads: bool = False
    unread: dict[str, str] = field(default_factory=dict)
    not_finite: int = 0
    ended: bool = False

    @property
    def updates(self) -> int:
        """The last number of updates."""
        return max([0, *self.inner, *(u for points in self.valid.values() for u in points)])


def read_log(path: Path) -> TrainingLog:
    """The values in ``path``; none where it is no log of a training.

    A run that went on in the same file overwrites the updates that it repeats.
    """
    log = TrainingLog(path)
    pause = False
    lines = text_lines(path, encoding="utf-8", errors="replace", newline=None)
    for tag, message in (match.groups() for match in map(_LINE.search, lines) if match):
        if tag == "train_inner":
            pause = _inner(log, message, pause)
        elif _EPOCH.match(message) or message.startswith(_JSON):
            pause |= _valid(log, tag, message)
        else:
            pause |= message.startswith(_SAVED)
            _remark(log, message)
    return log


def _inner(log: TrainingLog, message: str, pause: bool) -> bool:
    """Take in the line of a ``--log-interval``; is there still a pause to note with the next?"""
    values = _json(message) if message.startswith(_JSON) else dict(_INNER.findall(message))
    finite = _finite_values(log, values)
    if "num_updates" not in finite:
        return pause
    update = int(finite["num_updates"])
    log.ended = False
    log.inner.pop(update, None)  # so that the order is that of the log
    log.inner[update] = finite
    log.paused.discard(update)
    if pause:
        log.paused.add(update)
    return False


def _valid(log: TrainingLog, tag: str, message: str) -> bool:
    """Take in the line of a validation, or of the end of an epoch; is it a validation's?"""
    if tag == "train":
        return False
    if message.startswith(_JSON):
        values = {name.removeprefix(f"{tag}_"): v for name, v in _json(message).items()}
    elif f"| valid on '{tag}' subset |" in message:
        values = dict(_END.findall(message))
    else:
        return False
    finite = _finite_values(log, values)
    if "num_updates" in finite:
        log.valid.setdefault(tag, {})[int(finite["num_updates"])] = finite
    return True


def _remark(log: TrainingLog, message: str) -> None:
    if match := _UNREAD.match(message):
        log.unread[match[1]] = match[2]
    elif message.startswith("done training"):
        log.ended = True
    elif "'video_lr_scale'" in message:  # the configuration
        scales = _finite_values(log, dict(_SCALE.findall(message)))
        log.scales = {name: value for name, value in scales.items() if value != 1.0}
        log.heads = bool(_HEADS.search(message))


def _json(message: str) -> dict[str, Any]:
    try:
        return parse_object(message.encode())
    except ValueError:
        return {}


def _finite_values(log: TrainingLog, logged: dict[str, Any]) -> dict[str, float]:
    values = {}
    for name, value in logged.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError):
            continue
        except OverflowError:  # a whole number of hundreds of digits
            values[name] = math.inf
    finite = {name: value for name, value in values.items() if abs(value) <= LARGEST}
    log.not_finite += len(values) - len(finite)
    return finite
