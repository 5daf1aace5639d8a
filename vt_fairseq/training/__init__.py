"""What fairseq-train does otherwise."""
