"""The commands of the console and their tables; `tracker.main` is the command."""
