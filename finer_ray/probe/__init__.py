"""Linear probes: classifiers trained on frozen embeddings. Neither Ray nor backbones."""
