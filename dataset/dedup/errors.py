"""The root exception of dataset.dedup."""

from dataset.errors import DatasetError


class DedupError(DatasetError):
    """Near-duplicates cannot be searched, or a promise about them does not hold."""
