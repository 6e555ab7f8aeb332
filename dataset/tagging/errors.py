"""The root exception of dataset.tagging."""

from dataset.errors import DatasetError


class TaggingError(DatasetError):
    """A release cannot be tagged, or its tags cannot be reported on."""
