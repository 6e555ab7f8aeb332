"""What can go wrong with a selection."""

from dataset.errors import DatasetError


class SelectError(DatasetError):
    """Rows cannot be selected; no selection is written."""
