"""What a genome means: elastic encoder, ranking models, tasks, training, slimming and export."""
