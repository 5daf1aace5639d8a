"""The video network, T5, and the two joined."""
