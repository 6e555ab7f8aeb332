"""The swarm at one moment, its alarms, and how `tracker serve` shows it over HTTP."""
