"""Files of predictions and references to metrics."""
