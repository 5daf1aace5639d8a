"""Memory of a training run, predicted and counted."""
