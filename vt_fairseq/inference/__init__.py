"""A trained model on one's own videos."""
