"""What the process behind ``tests.warm`` imports once for all commands."""

import torch._dynamo  # noqa: F401  (every optimizer imports it, which takes seconds)

import vt_fairseq.plugin  # noqa: F401
