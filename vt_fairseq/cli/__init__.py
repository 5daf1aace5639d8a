"""Console scripts, one thin file a command."""
