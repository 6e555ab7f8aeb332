"""Snapshots of the swarm, its alarms, and how `tracker serve` shows them over HTTP."""
