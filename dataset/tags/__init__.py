"""Heads that tag embeddings and pictures (`punsafe`, `pwatermark`, `aesthetic`): loading, training, thresholds,
accuracy.
"""
