"""A swarm under a thousand faults, and the proof that nothing was lost. Run `python -m tests.chaos.run`."""
