"""From a seed to random weights: the generator, in NumPy and in torch, and the codebooks."""
