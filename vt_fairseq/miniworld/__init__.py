"""MiniWorld, the embedded corpus: small real H.264 files with all that the big corpora annotate."""
