"""What a genome means: elastic encoder, ranking models, tasks, training, slimming and export."""

import os

# oneDNN keeps a compiled kernel per matrix shape. Genomes times batch lengths give thousands of shapes, and with its
# default of 1,024 kernels a process grows by gigabytes. It reads this at its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
