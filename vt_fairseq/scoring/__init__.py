"""Candidates by the decoder's log-likelihood, and what becomes of a split's scores."""
