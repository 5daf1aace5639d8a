"""``--user-dir`` entry: importing it registers the task, the architectures and the criterion."""

import sys
from pathlib import Path

# Works from a checkout that is not installed, from any working directory.
sys.path.append(str(Path(__file__).resolve().parent.parent))

import vt_fairseq.plugin  # noqa: F401
