"""The exception of selecting and resharding."""

from dataset.errors import DatasetError


class SelectError(DatasetError):
    """Rows cannot be selected; no selection is written."""
