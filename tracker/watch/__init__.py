"""Watching the swarm: what `tracker serve` answers over HTTP, and what `tracker status` counts with it."""
