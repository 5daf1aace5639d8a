"""Training with a DeepSpeed engine under ``fairseq-train``: ZeRO stages 1 to 3 and fused Adam."""
