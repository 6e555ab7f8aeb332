"""Pack → pool: a Bloom filter drops duplicates, and rows are shuffled."""
