"""The admin's console: what is watched, steered and found out about; `tracker.main` is the command."""
