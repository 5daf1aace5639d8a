"""Registers everything with fairseq and adapts fairseq; import it before using either."""

import sys
from types import TracebackType

from vt_fairseq import fairseq_patches
from vt_fairseq.errors import UserError
from vt_fairseq.zero import launch, trainer

fairseq_patches.install()
launch.install()
trainer.install()

import vt_fairseq.classification  # noqa: E402
import vt_fairseq.criterion  # noqa: E402
import vt_fairseq.models.video_translate  # noqa: E402
import vt_fairseq.task  # noqa: E402
import vt_fairseq.zero.adam  # noqa: E402, F401

_report = sys.excepthook


def report_user_errors(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """End fairseq's commands on a user's mistake with one line instead of a traceback."""
    if issubclass(kind, UserError):
        # One raised in a loader's worker carries that process's traceback; the last line is ours.
        line = str(error).strip().splitlines()[-1]
        print(f"error: {line.removeprefix('vt_fairseq.errors.UserError: ')}", file=sys.stderr)
    else:
        _report(kind, error, traceback)


sys.excepthook = report_user_errors
