"""A file and times in, frames out."""
