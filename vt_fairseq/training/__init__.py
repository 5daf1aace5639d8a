"""How our training differs from fairseq-train's."""
