"""The real swarm: worker processes that are killed and stopped at moments that a proxy chooses."""
