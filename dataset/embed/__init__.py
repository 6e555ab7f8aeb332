"""Parts, shards or anyone's tars → embeddings of a second model."""
