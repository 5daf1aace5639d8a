"""Registers everything with fairseq and adapts fairseq; import it before using either."""

import sys
from types import TracebackType

from vt_fairseq.errors import UserError
from vt_fairseq.training import (
    checkpoints,
    data_workers,
    failures,
    half_precision_state,
    patches,
    process_groups,
    signals,
)
from vt_fairseq.training.zero import trainer

patches.install()
process_groups.install()
trainer.install()
checkpoints.install()
signals.install()
failures.install()
half_precision_state.install()
data_workers.install()

import vt_fairseq.criterions.classification  # noqa: E402
import vt_fairseq.criterions.cross_entropy  # noqa: E402
import vt_fairseq.models.architectures  # noqa: E402
import vt_fairseq.task  # noqa: E402
import vt_fairseq.training.zero.adam  # noqa: E402, F401

_report = sys.excepthook
USER_ERROR = f"{UserError.__module__}.{UserError.__qualname__}: "


def report_user_errors(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """End fairseq's commands on a user's mistake with one line instead of a traceback."""
    # One raised in a process that this one started carries that one's traceback; the last line is
    # the mistake.
    line = (str(error).strip().splitlines() or [""])[-1]
    if issubclass(kind, UserError) or line.startswith(USER_ERROR):
        print(f"error: {line.removeprefix(USER_ERROR)}", file=sys.stderr)
    else:
        _report(kind, error, traceback)


sys.excepthook = report_user_errors
