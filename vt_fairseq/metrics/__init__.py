"""Metrics as pure functions: predictions and references in, numbers out.

Everything but ``n``, ``missing`` and ``median_rank`` is in per cent, 0 to 100. The COCO toolkit's
metrics (module ``coco``) need the extra ``coco``.
"""

from vt_fairseq.metrics.classification import action_metrics as action_metrics
