"""What `tracker serve` sees to at regular intervals."""
