"""What can go wrong with a publish."""

from dataset.errors import DatasetError


class PublishError(DatasetError):
    """A release cannot be published; nothing of it is visible."""
