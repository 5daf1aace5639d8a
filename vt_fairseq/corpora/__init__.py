"""One reader per corpus: annotation files in, manifest rows out."""
