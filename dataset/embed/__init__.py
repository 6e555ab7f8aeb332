"""Parts, shards, or WebDataset tars of any origin → embeddings of a second model."""
