"""What ``--user-dir`` imports: registers everything with fairseq and adapts its commands.

Importing a module of this package registers what it has and replaces nothing in the process; this
one also puts ``training.patches`` in place, and makes what fairseq prints and logs safe for a
terminal, and short.
"""

import torch

import vt_fairseq.criterions.classification
import vt_fairseq.criterions.cross_entropy
import vt_fairseq.models.architectures
import vt_fairseq.task
import vt_fairseq.training.zero.adam  # noqa: F401
from vt_fairseq.files.untrusted_files import checkpoint_types
from vt_fairseq.training.patches import PATCHES, install
from vt_fairseq.training.quiet_log import quiet
from vt_fairseq.visible_text import guard_output

torch.serialization.add_safe_globals(checkpoint_types())
install(PATCHES)
guard_output()
quiet()
