"""The exception of publishing."""

from dataset.errors import DatasetError


class PublishError(DatasetError):
    """A release cannot be published; nothing of it is visible."""
