"""The swarm as it runs: real processes, killed and stopped for real, at moments that a proxy chooses."""
