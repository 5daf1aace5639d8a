"""Console scripts, one thin file per command."""
