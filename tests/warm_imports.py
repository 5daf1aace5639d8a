"""What the process behind ``tests.warm`` imports once for all commands."""

import vt_fairseq.plugin  # noqa: F401
