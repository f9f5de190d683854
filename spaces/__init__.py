"""What can be searched: genomes, widths and search spaces. Pure data; no torch."""

from sparsefront.spaces.errors import InputError, RunFailed
from sparsefront.spaces.genome import Genome, LayerGene, kept_tokens
from sparsefront.spaces.space import SearchSpace
from sparsefront.spaces.widths import Widths

__all__ = ["Genome", "InputError", "LayerGene", "RunFailed", "SearchSpace", "Widths", "kept_tokens"]
