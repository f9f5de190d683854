"""Sparsefront: the BERT-like CTR model that ranks best within a microsecond budget on your CPU."""

__version__ = "0.1.0"
