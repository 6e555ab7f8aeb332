"""The subcommands of `dataset`, one module for each group."""
