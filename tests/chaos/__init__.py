"""A swarm under a thousand faults, and the proof that nothing was lost; `python -m tests.chaos.run` is the command."""
