"""The one exception of the search server: an HTTP status and a sentence."""

from collections.abc import Mapping

from dataset.errors import DatasetError


class SearchError(DatasetError):
    """A request cannot be answered; the client gets the status and the message as JSON."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None, **facts: object) -> None:
        """`facts` stand beside the message in the answer, for example the name of the wrong field."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.facts = facts


class ServeError(DatasetError):
    """The server cannot be started with these options."""
