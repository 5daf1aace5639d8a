"""Weights from elsewhere into our model, and our weights out for others; nothing is unpickled."""
