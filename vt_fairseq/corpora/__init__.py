"""One reader a corpus: annotation files in, manifest rows out."""
