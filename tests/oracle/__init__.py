"""What is shown at a time, compared with FFmpeg's own programs over many kinds of small files."""
