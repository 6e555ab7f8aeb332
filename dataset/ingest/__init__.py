"""Pack → pool: duplicates are dropped by a Bloom filter, and rows are shuffled."""
