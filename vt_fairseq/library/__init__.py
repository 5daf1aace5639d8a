"""An index of one's own videos: what a model has seen of them, kept in one file and asked later."""
