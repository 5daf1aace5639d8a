"""Video understanding as machine translation: a fairseq plugin (arXiv 2006.07203)."""

__version__ = "0.1.0"
