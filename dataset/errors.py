"""The root of what can go wrong with data."""


class DatasetError(Exception):
    """The message is one sentence that names the remedy."""
