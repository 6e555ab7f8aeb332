"""Heads on embeddings and pictures (`punsafe`, `pwatermark`, `aesthetic`): loading, training, thresholds, accuracy."""
