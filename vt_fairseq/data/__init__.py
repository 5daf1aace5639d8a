"""Clip row in, batch out."""
