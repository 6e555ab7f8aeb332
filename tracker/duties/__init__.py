"""What `tracker serve` does at regular intervals."""
